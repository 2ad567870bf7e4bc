"""What a decision does to the next run: approved pictures are pinned and leave, rejected ones go and never come back,
and what people asked for is made, every night the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from assetmill.intake.pins import variant_key
from assetmill.intake.plan import check_pins, pin_plan, summarise_plan
from assetmill.operate.settle import extension_of
from assetmill.pipeline import begin_run, finish_run, plan_job, publish_job, rates_of
from assetmill.records import Asset, InputError, asset_key
from assetmill.storage.decisions import Decision, Draft, decide, read_decisions
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.layout import blob_path
from productions import NAME, TEMPLATE, Production, rows


class Reviewer:
    """Somebody who decides about a production's assets."""

    def __init__(self, made: Production, name: str = "ada") -> None:
        self.made, self.name = made, name

    def say(self, kind: str, asset: str, blob: str = "", **more: Any) -> Decision:
        draft = Draft(asset_id=asset, kind=kind, by=self.name, blob=blob, **more)
        seen = read_decisions(self.made.store, NAME).of(asset_key(asset)).number
        return decide(self.made.store, NAME, draft, seen)

    def ranked(self, asset: str) -> list[str]:
        """The blobs of an asset's candidates, the best first."""
        history = self.made.index.history([asset])[asset]
        scores = {s.blob: s.value or 0.0 for s in history.scores.values()}
        return sorted(scores, key=lambda blob: -scores[blob])


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "toys", rows(4))


def blobs_of(made: Production) -> dict[str, str]:
    return {e.asset_id: e.blob for e in made.catalog.iter_entries()}


def entry(made: Production, asset: str) -> CatalogEntry:
    return made.catalog.show(asset)[0]


def plans(made: Production) -> Mapping[str, tuple[str, str]]:
    return {p.asset.id: (p.state, p.reason) for p in made.plan().assets}


# --- approving ----------------------------------------------------------------------------------------------


def test_what_waits_for_approval_leaves_with_it_and_nothing_is_made(toys: Production) -> None:
    toys.change(publish={"policy": "approved"})
    toys.run()
    assert toys.states() == {"pending_review": 4}
    assert toys.catalog.latest() == 0
    ada = Reviewer(toys)
    decision = ada.say("approve", "001", ada.ranked("001")[0])
    before = len(toys.records())
    assert plans(toys)["001"] == ("new", "approved, not yet published")
    report = publish_job(toys.job())
    assert (report["published"], len(toys.records())) == (1, before)
    assert toys.states() == {"pending_review": 3, "unchanged": 1}
    assert (entry(toys, "001").reviewer, entry(toys, "001").decision) == ("ada", decision.id)
    toys.check_whole()


def test_an_approved_picture_that_was_not_chosen_is_upscaled_by_the_next_run(toys: Production) -> None:
    toys.run()
    ada = Reviewer(toys)
    last = ada.ranked("002")[-1]
    assert blobs_of(toys)["002"] != last
    ada.say("approve", "002", last)
    assert plans(toys)["002"] == ("changed", "approved, to be upscaled")
    assert publish_job(toys.job())["published"] == 0, "it needs the upscaler"
    made = len(toys.candidates())
    assert toys.run()["published"] == 1
    assert (len(toys.candidates()), blobs_of(toys)["002"]) == (made, last)
    assert toys.states() == {"unchanged": 4}
    toys.check_whole()


def test_approved_is_pinned_until_reopened(toys: Production) -> None:
    toys.run()
    ada = Reviewer(toys)
    ada.say("approve", "000", ada.ranked("000")[1])
    toys.run()
    pinned = blobs_of(toys)["000"]
    toys.templates["main.j2"] = TEMPLATE.replace("a {{ colour", "one {{ colour")
    toys.change(model={"steps": 2}, select={"min_score": 0.9}, judge={"options": {}})
    assert plans(toys)["000"] == ("unchanged", "approved by ada; pinned until it is reopened")
    assert toys.states() == {"unchanged": 1, "changed": 3}
    toys.change(select={"min_score": None})
    toys.run()
    assert blobs_of(toys)["000"] == pinned
    assert entry(toys, "000").steps == 1
    ada.say("reopen", "000")
    assert plans(toys)["000"][0] == "changed"
    toys.run()
    assert entry(toys, "000").steps == 2
    assert entry(toys, "000").reviewer == ""
    toys.check_whole()


def test_several_approvals_are_chosen_in_their_order_up_to_keep(toys: Production) -> None:
    toys.change(select={"keep": 2, "near_duplicate": 1.0})
    toys.run()
    ada = Reviewer(toys)
    wanted = ada.ranked("003")[::-1][:3]
    for blob in wanted:
        ada.say("approve", "003", blob)
    toys.run()
    assert [(e.rank, e.blob) for e in toys.catalog.show("003")] == [(1, wanted[0]), (2, wanted[1])]


def test_an_approval_counts_for_its_cell_where_each_has_its_own(tmp_path: Path) -> None:
    text = "---\nrank_text: a {{ thing }}\naxes:\n  light: [dim, bright]\n---\na {{ thing }} in {{ light }} light\n"
    toys = Production(tmp_path / "toys", rows(2), {"select": {"per": "cell"}}, {"main.j2": text})
    toys.change(publish={"policy": "approved"})
    toys.run()
    ada = Reviewer(toys)
    history = toys.index.history(["000"])["000"]
    bright = {c.blob for k, c in history.candidates.items() if history.requests[k].cell == {"light": "bright"}}
    chosen = [history.variants[k].blob for k in history.outcome.chosen] if history.outcome else []
    ada.say("approve", "000", next(b for b in chosen if b in bright))
    assert publish_job(toys.job())["published"] == 1
    assert [dict(e.cell) for e in toys.catalog.show("000")] == [{"light": "bright"}]
    toys.change(publish={"policy": "auto"})
    toys.run()
    assert [dict(e.cell) for e in toys.catalog.show("000")] == [{"light": "dim"}, {"light": "bright"}]
    assert [e.reviewer for e in toys.catalog.show("000")] == ["", "ada"]
    assert toys.states() == {"unchanged": 2}


def test_a_lost_approved_picture_is_said_and_nothing_else_takes_its_place(toys: Production) -> None:
    toys.run()
    ada = Reviewer(toys)
    blob = ada.ranked("001")[2]
    ada.say("approve", "001", blob)
    toys.store.delete(blob_path(blob, extension_of(toys.candidates()[0].media_type)))
    made = len(toys.candidates())
    toys.run()
    assert plans(toys)["001"][0] == "failed"
    assert blob in plans(toys)["001"][1]
    assert len(toys.candidates()) == made
    ada.say("approve", "001", ada.ranked("001")[0])
    ada.say("reopen", "001", blob)
    toys.run()
    assert blobs_of(toys)["001"] == ada.ranked("001")[0]


# --- rejecting ----------------------------------------------------------------------------------------------


def test_a_rejected_picture_goes_at_once_and_the_next_in_rank_comes(toys: Production) -> None:
    toys.run()
    ada = Reviewer(toys)
    best, second = ada.ranked("001")[:2]
    assert blobs_of(toys)["001"] == best
    ada.say("reject", "001", best, reason="cropped")
    assert plans(toys)["001"] == ("changed", "a person rejected 1 of its pictures")
    report = publish_job(toys.job())
    assert report["removed"] == 1
    assert "001" not in blobs_of(toys)
    made = len(toys.candidates())
    toys.run()
    assert (blobs_of(toys)["001"], len(toys.candidates())) == (second, made)
    assert toys.states() == {"unchanged": 4}
    toys.check_whole()


def test_of_two_published_the_other_one_stays(toys: Production) -> None:
    toys.change(select={"keep": 2, "near_duplicate": 1.0})
    toys.run()
    first, second = (e.blob for e in toys.catalog.show("000"))
    Reviewer(toys).say("reject", "000", first)
    publish_job(toys.job())
    assert [e.blob for e in toys.catalog.show("000")] == [second]


def test_when_all_are_rejected_it_is_exhausted_until_more_are_asked_for(toys: Production) -> None:
    toys.run()
    ada = Reviewer(toys)
    for blob in ada.ranked("002"):
        ada.say("reject", "002", blob)
    toys.run()
    assert plans(toys)["002"][0] == "exhausted"
    assert "4 × rejected by a person" in plans(toys)["002"][1]
    assert "002" not in blobs_of(toys)
    made = len(toys.candidates())
    assert toys.run()["status"] == "nothing to do"
    ada.say("reroll", "002", override={"seeds": 2})
    toys.run()
    assert len(toys.candidates()) == made + 2
    assert blobs_of(toys)["002"] in ada.ranked("002")
    assert blobs_of(toys)["002"] not in read_decisions(toys.store, NAME).of(asset_key("002")).rejected


def test_what_is_rejected_while_a_run_goes_on_does_not_leave_with_it(toys: Production) -> None:
    toys.run(publish_now=False)
    ada = Reviewer(toys)
    with begin_run(toys.job(), make_nothing=True) as run:
        ada.say("reject", "001", ada.ranked("001")[0])
        assert finish_run(run)["published"] == 3
    assert set(blobs_of(toys)) == {"000", "002", "003"}
    toys.run()
    assert blobs_of(toys)["001"] == ada.ranked("001")[1]


def test_an_undone_rejection_brings_the_picture_back(toys: Production) -> None:
    toys.run()
    before = blobs_of(toys)
    ada = Reviewer(toys)
    number = ada.say("reject", "000", before["000"]).number
    toys.run()
    assert blobs_of(toys)["000"] != before["000"]
    ada.say("undo", "000", undoes=number)
    made = len(toys.candidates())
    toys.run()
    assert (blobs_of(toys), len(toys.candidates())) == (before, made)


# --- asking for more ----------------------------------------------------------------------------------------


def test_more_seeds_join_those_that_are_there(toys: Production) -> None:
    toys.run()
    before = {c.request_key for c in toys.candidates()}
    Reviewer(toys).say("reroll", "001", override={"seeds": 3})
    assert toys.plan().counts()["changed"] == 1
    toys.run()
    added = {c.request_key for c in toys.candidates()} - before
    requests = toys.requests()
    assert {(requests[k].asset_id, requests[k].index) for k in added} == {("001", 4), ("001", 5), ("001", 6)}
    assert dict(entry(toys, "001").overrides) == {"seeds": 3}
    assert toys.states() == {"unchanged": 4}


def test_other_texts_and_settings_hold_every_night(toys: Production) -> None:
    toys.run()
    override = {"positive": "a jug, blue", "negative": "text", "steps": 3, "width": 24, "height": 16}
    Reviewer(toys).say("reroll", "002", override=override)
    toys.run()
    found = entry(toys, "002")
    assert (found.positive, found.negative, found.steps, found.request["width"]) == ("a jug, blue", "text", 3, 24)
    assert (found.width, found.height) == (48, 32)
    assert toys.states() == {"unchanged": 4}
    toys.sheet[2]["colour"] = "green"
    toys.write()
    assert toys.states() == {"unchanged": 4}, "the text is the person's now, whatever the row says"
    Reviewer(toys).say("undo", "002", undoes=1)
    toys.run()
    assert entry(toys, "002").positive.startswith("a green")


def test_a_texts_place_leaves_the_other_cells_alone(tmp_path: Path) -> None:
    text = "---\nrank_text: a {{ thing }}\naxes:\n  light: [dim, bright]\n---\na {{ thing }} in {{ light }} light\n"
    toys = Production(tmp_path / "toys", rows(1, no="blur"), templates={"main.j2": text})
    toys.change(sheet={"overrides": {"negative": "no"}}, select={"per": "cell"})
    toys.run()
    override = {"positive": "dusk", "negative": "sun", "template": "main", "cell": {"light": "dim"}}
    Reviewer(toys).say("reroll", "000", override=override)
    toys.run()
    assert [(e.positive, e.negative) for e in toys.catalog.show("000")] == [
        ("dusk", "sun"),
        ("a mug in bright light", "blur"),
    ]


def test_what_cannot_be_made_waits_and_says_which_decision_asked_for_it(toys: Production) -> None:
    toys.run()
    wish = Draft(asset_id="001", kind="reroll", by="ada", override={"operation": "inpaint"})
    with pytest.raises(InputError, match="decision 1"):
        toys.job().check_wish(wish)
    toys.job().check_wish(Draft(asset_id="001", kind="reroll", by="ada", override={"steps": 3}))
    decide(toys.store, NAME, wish, 0)
    assert toys.states() == {"unchanged": 3, "failed": 1}, "one wish stops no night"
    assert "decision 1 (reroll by ada)" in plans(toys)["001"][1]
    assert "001" in blobs_of(toys)


def test_a_variation_is_made_from_the_picture_and_chosen_among_with_the_others(toys: Production) -> None:
    toys.change(model={"steps": 2})
    toys.run()
    ada = Reviewer(toys)
    liked = ada.ranked("003")[1]
    ada.say("vary", "003", liked, override={"seeds": 3, "strength": 0.5})
    before = {c.request_key for c in toys.candidates()}
    toys.run()
    requests = toys.requests()
    added = [requests[c.request_key] for c in toys.candidates() if c.request_key not in before]
    assert len(added) == 3
    for made in added:
        assert made.asset_id == "003"
        assert made.request.references[0].blob == liked
    assert toys.states() == {"unchanged": 4}
    assert len(ada.ranked("003")) == 7
    ada.say("approve", "003", next(c.blob for c in toys.candidates() if c.request_key == added[0].key))
    toys.run()
    assert entry(toys, "003").operation in ("variation", "image-to-image")


# --- plans --------------------------------------------------------------------------------------------------


def test_a_plan_says_what_people_asked_for_and_holds_to_it(toys: Production) -> None:
    toys.run()
    ada = Reviewer(toys)
    ada.say("reroll", "001", override={"seeds": 2})
    ada.say("approve", "002", ada.ranked("002")[0])
    job = toys.job()
    plan = plan_job(job)
    summary = summarise_plan(plan, job.config, rates_of(job))
    assert (summary["overrides"], summary["pinned"], summary["candidates"]) == ({"001": {"seeds": 2}}, 1, 2)
    saved = pin_plan(plan, summary)
    check_pins(toys.plan(), saved, "plan.json")
    ada.say("note", "003", note="hm")
    with pytest.raises(InputError, match="decisions changed"):
        check_pins(toys.plan(), saved, "plan.json")


def test_the_approved_variant_is_named_as_settling_names_it(toys: Production) -> None:
    toys.run()
    job = toys.job()
    for made in toys.index.history(["000"])["000"].variants.values():
        assert made.key == variant_key(made.blob, job.upscaler.key)
    assert isinstance(job.wishes.assets[0], Asset)
