"""Families in a run: chosen together in one chunk, around pictures that stand, and nothing else moves."""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from assetmill.curate.colours import palette_of
from assetmill.curate.family import Member, _Field, look_of
from assetmill.deliver.picture import decode
from assetmill.engines.simulated import SimulatedJudge
from assetmill.operate.choosing import Choice, choose_all
from assetmill.operate.families import weights_of
from assetmill.operate.settle import extension_of
from assetmill.records import InputError, ScoreRecord, asset_key
from assetmill.storage.decisions import Draft, decide, read_decisions
from assetmill.storage.layout import blob_path
from productions import NAME, Production, rows
from test_operate_settle import group

STRONG = {"column": "set", "coherence": 3.0, "palette": 3.0}


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    """Two families of three, and one asset without."""
    sheet = [{**row, "set": name} for row, name in zip(rows(7), ("x", "y", "x", "", "y", "x", "y"), strict=True)]
    return Production(tmp_path / "toys", sheet, {"select": {"family": STRONG}})


def chosen(made: Production) -> dict[str, str]:
    return {e.asset_id: e.blob for e in made.catalog.iter_entries()}


def members_of(made: Production, family: str) -> tuple[list[Member], list[list[str]]]:
    """A family as the choice sees it, and its candidates' blobs, best first."""
    ids = [row["id"] for row in made.sheet if row["set"] == family]
    judge, members, blobs = SimulatedJudge(), [], []
    for asset, history in made.index.history(ids).items():
        scores = {s.blob: s.value or 0.0 for s in history.scores.values()}
        ranked = sorted(scores, key=lambda b: -scores[b])
        files = {c.blob: blob_path(c.blob, extension_of(c.media_type)) for c in history.candidates.values()}
        pixels = [decode(made.store.get(files[b])) for b in ranked]
        vectors = judge.judge(np.stack(pixels), [""] * len(pixels)).embeddings
        members.append(
            Member(asset, np.array([scores[b] for b in ranked]), vectors, np.stack([palette_of(p) for p in pixels]))
        )
        blobs.append(ranked)
    return members, blobs


def test_a_run_makes_the_best_choice_for_each_family(toys: Production) -> None:
    toys.run()
    got = chosen(toys)
    config = toys.job().config
    changed = 0
    for family in ("x", "y"):
        members, blobs = members_of(toys, family)
        field = _Field.of(members, weights_of(config))
        best = max(product(*(range(len(b)) for b in blobs)), key=field.value)
        assert [got[m.name] for m in members] == [b[p] for b, p in zip(blobs, best, strict=True)]
        changed += sum(p > 0 for p in best)
    assert changed
    alone = members_of(toys, "")[1]
    assert got["003"] == alone[0][0]
    assert toys.states() == {"unchanged": 7}
    toys.check_whole()


def test_families_go_together_better_than_one_by_one(tmp_path: Path) -> None:
    looks = {}
    for name, settings in (("alone", {}), ("together", {"select": {"family": STRONG}})):
        made = Production(tmp_path / name, rows(6, set="x"), settings)
        made.run()
        members, blobs = members_of(made, "x")
        got = chosen(made)
        picks = [b.index(got[m.name]) for m, b in zip(members, blobs, strict=True)]
        vectors = np.stack([m.embeddings[p] for m, p in zip(members, picks, strict=True)])
        looks[name] = look_of(vectors, np.stack([m.palettes[p] for m, p in zip(members, picks, strict=True)]), None)
    assert looks["together"].palette < looks["alone"].palette
    assert looks["together"].coherence > looks["alone"].coherence


def test_families_stay_in_one_chunk(toys: Production) -> None:
    toys.change(run={"chunk": 4})
    toys.run()
    chunks = [set(s) for s in _assets_of_segments(toys)]
    assert sorted(map(sorted, chunks)) == [["000", "002", "005"], ["001", "004", "006"], ["003"]]


def _assets_of_segments(made: Production) -> list[list[str]]:
    from assetmill.records import OutcomeRecord, parse_record
    from assetmill.storage.segments import read_segment

    found = []
    for info in made.store.list(f"records/{NAME}/"):
        records = map(parse_record, read_segment(made.store, info.key).lines)
        found.append([r.asset_id for r in records if isinstance(r, OutcomeRecord)])
    return found


def test_who_joins_a_family_fits_in_and_moves_nobody(toys: Production) -> None:
    toys.run()
    before = chosen(toys)
    toys.sheet.append({"id": "900", "thing": "kite", "colour": "teal", "set": "x"})
    toys.write_sheet()
    (new,) = [p for p in toys.plan().assets if p.todo]
    assert new.kin == ("000", "002", "005")
    toys.run()
    after = chosen(toys)
    assert {k: v for k, v in after.items() if k != "900"} == before
    members, blobs = members_of(toys, "x")
    field = _Field.of([_standing(m, b.index(after[m.name])) if m.name != "900" else m
                       for m, b in zip(members, blobs, strict=True)], weights_of(toys.job().config))  # fmt: skip
    best = max(range(len(blobs[-1])), key=lambda k: field.value([0, 0, 0, k]))
    assert after["900"] == blobs[-1][best]


def _standing(member: Member, pick: int) -> Member:
    return Member(member.name, np.zeros(1), member.embeddings[[pick]], member.palettes[[pick]])


def test_an_approved_picture_stands_and_the_others_follow_when_they_are_chosen_again(toys: Production) -> None:
    toys.run()
    history = toys.index.history(["000"])["000"]
    was = chosen(toys)["000"]
    other = next(c.blob for c in history.candidates.values() if c.blob != was)
    seen = read_decisions(toys.store, NAME).of(asset_key("000")).number
    decide(toys.store, NAME, Draft(asset_id="000", kind="approve", by="ada", blob=other), seen)
    toys.change(select={"min_score": -1.0})  # all are chosen again
    toys.run(force=True)
    got = chosen(toys)
    assert got["000"] == other
    members, blobs = members_of(toys, "x")
    field = _Field.of([_standing(members[0], blobs[0].index(other)), *members[1:]], weights_of(toys.job().config))
    best = max(product(range(4), range(4)), key=lambda p: field.value([0, *p]))
    assert [got["002"], got["005"]] == [blobs[1][best[0]], blobs[2][best[1]]]


def test_a_rejected_picture_is_replaced_without_moving_the_others(toys: Production) -> None:
    toys.run()
    before = chosen(toys)
    decide(toys.store, NAME, Draft(asset_id="002", kind="reject", by="ada", blob=before["002"]), 0)
    toys.run()
    after = chosen(toys)
    assert after["002"] != before["002"]
    assert {k: v for k, v in after.items() if k != "002"} == {k: v for k, v in before.items() if k != "002"}


def test_a_picture_that_is_gone_does_not_count(toys: Production, caplog: pytest.LogCaptureFixture) -> None:
    toys.run()
    made = next(c for c in toys.candidates() if c.blob == chosen(toys)["000"])
    toys.store.delete(blob_path(made.blob, extension_of(made.media_type)))
    toys.sheet.append({"id": "900", "thing": "kite", "colour": "teal", "set": "x"})
    toys.write_sheet()
    with caplog.at_level(logging.WARNING):
        toys.run()
    assert "000: its picture does not count in the family 'x'" in caplog.text
    assert "900" in chosen(toys)


def test_each_cell_has_a_family_of_its_own(tmp_path: Path) -> None:
    template = (
        "---\nrank_text: a {{ thing }}\naxes:\n  light: {values: [day, night]}\n---\na {{ thing }}, {{ light }}\n"
    )
    made = Production(
        tmp_path / "toys", rows(3, set="x"), {"select": {"family": STRONG, "per": "cell"}}, {"main.j2": template}
    )
    made.run()
    assert len(made.published()) == 6
    made.sheet.append({"id": "900", "thing": "kite", "colour": "teal", "set": "x"})
    made.write_sheet()
    before = made.published()
    made.run()
    assert before.items() <= made.published().items()
    assert len(made.published()) == 8


def test_turning_families_on_chooses_again_and_makes_nothing(toys: Production) -> None:
    toys.settings.pop("select")
    toys.write()
    toys.run()
    num = len(toys.candidates())
    key = {p.asset.id: p.select_key for p in toys.plan().assets}
    toys.change(select={"family": STRONG})
    assert {p.asset.id for p in toys.plan().assets if p.select_key != key[p.asset.id]} == {f"00{n}" for n in range(7)}
    toys.run(force=True)
    assert len(toys.candidates()) == num
    toys.sheet[0]["set"] = "y"
    toys.write_sheet()
    assert [p.asset.id for p in toys.plan().assets if p.todo] == ["000"]


def test_what_cannot_be_a_family_is_refused(toys: Production) -> None:
    toys.change(select={"family": {**STRONG, "column": "colection"}})
    with pytest.raises(InputError, match=r"select\.family\.column names 'colection', which the sheet lacks"):
        toys.job()
    toys.change(select={"family": {**STRONG, "most": 2}})
    with pytest.raises(InputError, match="more than select.family.most"):
        toys.plan()


def test_a_refused_master_moves_nobody_else(toys: Production) -> None:
    """When one's picture fails late, only that one is chosen again, beside the others as they are."""
    toys.change(select={"family": {**STRONG, "coherence": 9.0, "palette": 0.0}})
    config = toys.job().config
    groups = [group(name, [0.9, 0.8, 0.7]) for name in "abc"]
    for g in groups:
        object.__setattr__(g, "plan", _with_family(g.plan))
        for item in g.items:
            item.plan = g.plan
    choices = [Choice(g) for g in groups]
    choose_all(choices, choices, config)
    first = [c.chosen[0].index for c in choices]
    choices[1].refused[choices[1].chosen[0].key] = "bad"
    choose_all([choices[1]], choices, config)
    again = [c.chosen[0].index for c in choices]
    assert (again[0], again[2]) == (first[0], first[2])
    assert again[1] != first[1]


def _with_family(plan):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(plan, family="x")


def test_scores_on_record_stay_the_judges(toys: Production) -> None:
    toys.run()
    assert {r.judge for r in toys.records() if isinstance(r, ScoreRecord)} == {SimulatedJudge.key}
