"""From decisions to a ranker that selection uses: what is learned from, when it may count, what it then changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from assetmill.operate.deciding import list_pictures
from assetmill.operate.rankers import (
    evaluate_ranker,
    gather_lessons,
    list_rankers,
    pairs_of_reviews,
    promote_ranker,
    retire_ranker,
    train_ranker,
)
from assetmill.operate.taste import find_promoted
from assetmill.records import InputError, ScoreRecord, asset_key
from assetmill.review.gallery import load_gallery
from assetmill.storage.decisions import Decision, Draft, decide, read_decisions
from assetmill.storage.index import AssetHistory
from assetmill.storage.layout import embeddings_prefix
from assetmill.storage.rankers import append_promotion, promoted_ranker, put_ranker, read_ranker, taste_judge
from assetmill.storage.reviews import fold_decisions
from productions import NAME, Production, rows

TASTE = np.random.default_rng(4).normal(size=192)
"""What the simulated reviewer likes: a direction among the simulated judge's embeddings."""

NUM = 30


class Fan:
    """Somebody who approves what lies furthest along a direction, and rejects what lies furthest against it."""

    def __init__(self, made: Production, sign: float = 1.0) -> None:
        self.made, self.sign = made, sign
        self.index, self.vectors = made.index, _vectors(made)

    def review(self, assets: list[str]) -> None:
        log = read_decisions(self.made.store, NAME)
        for asset, history in self.index.history(assets).items():
            blobs = [c.blob for c in history.candidates.values()]
            liked = sorted(blobs, key=lambda b: -self.sign * float(self.vectors[b] @ TASTE))
            scores = {s.blob: s.value for s in history.scores.values()}
            shown = {"judge": "j", "blind": False, "ranking": [[b, scores[b]] for b in blobs]}
            for kind, blob in (("approve", liked[0]), ("reject", liked[-1])):
                seen = log.of(asset_key(asset)).number
                draft = Draft(asset_id=asset, kind=kind, by="ada", blob=blob, shown=shown)
                decide(self.made.store, NAME, draft, seen, index=self.index, log=log)

    def likes(self, asset: str) -> list[str]:
        history = self.index.history([asset])[asset]
        return sorted(
            (c.blob for c in history.candidates.values()), key=lambda b: -self.sign * float(self.vectors[b] @ TASTE)
        )


def _vectors(made: Production) -> Mapping[str, np.ndarray]:
    from assetmill.deliver.picture import decode
    from assetmill.engines.simulated import SimulatedJudge
    from assetmill.storage.store import get_blob

    made_, store = {c.blob: c for c in made.candidates()}, made.store
    pixels = np.stack([decode(get_blob(store, b, c.media_type.rpartition("/")[2])) for b, c in made_.items()])
    return dict(zip(made_, SimulatedJudge().judge(pixels, [""] * len(pixels)).embeddings, strict=True))


def production(folder: Path, **settings: Any) -> Production:
    sheet = [{**row, "brand": "even" if n % 2 == 0 else "odd"} for n, row in enumerate(rows(NUM + 10))]
    made = Production(folder, sheet, {"candidates": 6, "ranker": {"min_assets": 10}, **settings})
    made.change(run={"chunk": 60}, publish={"max_changed": 1.0})
    return made


def ids(start: int, stop: int) -> list[str]:
    return [f"{n:03d}" for n in range(start, stop)]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Production:
    """A production after its first run. Tests take a copy."""
    made = production(tmp_path_factory.mktemp("run"))
    made.run()
    return made


@pytest.fixture(scope="module")
def reviewed_once(run_once: Production, tmp_path_factory: pytest.TempPathFactory) -> Production:
    """The same, whose first assets somebody with a clear taste has gone through, with the ranker trained on that."""
    made = copy_of(run_once, tmp_path_factory.mktemp("reviewed"))
    Fan(made).review(ids(0, NUM))
    train_ranker(made.path)
    return made


@pytest.fixture
def reviewed(reviewed_once: Production, tmp_path: Path) -> Production:
    return copy_of(reviewed_once, tmp_path)


def copy_of(made: Production, folder: Path) -> Production:
    copytree(made.folder, folder, dirs_exist_ok=True)
    return Production(folder, made.sheet, dict(made.settings))


# --- what there is to learn ---------------------------------------------------------------------------------


def said(*lines: tuple[str, str], shown: str = "abcd", by: str = "ada") -> list[Decision]:
    ranking = {"ranking": [[blob, None] for blob in shown]}
    return [
        Decision(asset_id="x", kind=kind, by=by, blob=blob, shown=ranking, number=n, id=f"{n:026d}", at="")
        for n, (kind, blob) in enumerate(lines, 1)
    ]


def test_pairs_of_decisions() -> None:
    """Approved before open, open before rejected, approved before rejected; nothing among the open ones."""
    places = dict.fromkeys("abcd")
    review = fold_decisions(said(("approve", "b"), ("reject", "d")))
    assert pairs_of_reviews(review, places) == (("a", "d"), ("b", "a"), ("b", "c"), ("b", "d"), ("c", "d"))
    assert pairs_of_reviews(fold_decisions(said(("approve", "b"), ("approve", "c"))), places) == (
        ("b", "a"), ("b", "d"), ("c", "a"), ("c", "d"),
    )  # fmt: skip


def test_only_what_was_shown_counts() -> None:
    """What was not beside the approved picture was not passed over; refused pictures and undone decisions are out."""
    places: dict[str, Any] = dict.fromkeys("abcd")
    assert pairs_of_reviews(fold_decisions(said(("approve", "b"), shown="ab")), places) == (("b", "a"),)
    assert pairs_of_reviews(fold_decisions(said(("approve", "b"))), dict.fromkeys("abd")) == (("b", "a"), ("b", "d"))
    undone = [*said(("approve", "b")), Decision(asset_id="x", kind="undo", by="ada", undoes=1, number=2, id="", at="")]
    assert pairs_of_reviews(fold_decisions(undone), places) == ()
    assert pairs_of_reviews(fold_decisions(said(("approve", "b"))), places, ["ada"]) == ()


def test_pictures_of_two_places_are_not_compared() -> None:
    """With a choice per cell, approving one cell's picture says nothing of another cell's."""
    from assetmill.storage.reviews import Place

    places = {"a": Place("t"), "b": Place("t"), "c": Place("u"), "d": Place("u")}
    assert pairs_of_reviews(fold_decisions(said(("approve", "b"), ("reject", "d"))), places) == (("b", "a"), ("c", "d"))


def test_lessons(reviewed: Production) -> None:
    """Each reviewed asset gives an example, with the judge's scores; embeddings are kept in the store for next time."""
    lessons = gather_lessons(reviewed.job().config, reviewed.store)
    assert len(lessons.examples) == NUM
    assert lessons.left_out == {}
    assert all(len(e.pairs) == 9 and np.isfinite(e.scores).all() for e in lessons.examples)
    assert lessons.decisions == read_decisions(reviewed.store, NAME).digest
    assert any(True for _ in reviewed.store.list(embeddings_prefix(lessons.judge)))


# --- training, measuring, promoting -------------------------------------------------------------------------


def test_train_promote_and_choose(reviewed: Production) -> None:
    """A ranker that agrees better is promoted; the next run chooses by it, and says so in its records."""
    made, fan = reviewed, Fan(reviewed)
    made.run()
    before = {e.asset_id: e.blob for e in made.catalog.iter_entries()}
    assert made.states() == {"unchanged": NUM + 10}
    (trained,) = list_rankers(made.path)
    assert trained["assets"] == NUM
    assert trained["agreement"]["gain"]["low"] > 0
    assert train_ranker(made.path)["ranker"] == trained["ranker"], "the same decisions give the same ranker"
    assert made.states() == {"unchanged": NUM + 10}, "a trained ranker changes nothing"
    promotion = promote_ranker(made.path, by="lead")
    assert (promotion.ranker, promotion.number) == (trained["ranker"], 1)
    assert made.states() == {"unchanged": NUM, "changed": 10}, "approved pictures stay what they are"
    made.run()
    after = {e.asset_id: e.blob for e in made.catalog.iter_entries()}
    places = [(fan.likes(a).index(before[a]), fan.likes(a).index(after[a])) for a in ids(NUM, NUM + 10)]
    assert np.mean([b for _, b in places]) < np.mean([a for a, _ in places])
    tastes = [r for r in made.records() if isinstance(r, ScoreRecord) and r.judge == taste_judge(promotion.ranker, "")]
    assert {t.request_key for t in tastes} >= set(_requests(made, NUM))
    assert made.states() == {"unchanged": NUM + 10}
    for history in made.index.history(ids(NUM, NUM + 10)).values():
        assert len(history.tastes) == 6
        assert all(not s.judge.startswith("ranker") for s in history.scores.values())
    _check_order_on_the_page(made)
    retire_ranker(made.path, by="lead")
    made.run()
    assert {e.asset_id: e.blob for e in made.catalog.iter_entries()} == before
    made.check_whole()


def _check_order_on_the_page(made: Production) -> None:
    """The page and `decisions show` list pictures by what the choice went by."""
    config = made.job().config
    house = find_promoted(made.store, config)
    for card in load_gallery(made.store, config).cards[NUM:]:
        totals = [(p.score or 0.0) + p.bonus for p in card.pictures]
        assert totals == sorted(totals, reverse=True)
        assert any(p.bonus for p in card.pictures)
        history = made.index.history([card.id])[card.id]
        listed = list_pictures(history, read_decisions(made.store, NAME).of(card.key), house)
        assert [p.blob for p in listed] == [p.blob for p in card.pictures]


def _requests(made: Production, first: int) -> list[str]:
    found: dict[str, AssetHistory] = made.index.history(ids(first, NUM + 10))
    return [key for history in found.values() for key in history.candidates]


def test_groups_of_a_column(run_once: Production, tmp_path: Path) -> None:
    """Two brands with opposite tastes. As one they have nothing to teach, and promoting is refused with the figures;
    by the column each has its own taste, and records say whose was used."""
    made = copy_of(run_once, tmp_path)
    Fan(made).review(ids(0, NUM)[::2])
    Fan(made, -1).review(ids(0, NUM)[1::2])
    train_ranker(made.path)
    with pytest.raises(InputError, match="is not better than the judge alone: its gain in agreement on held-out"):
        promote_ranker(made.path, by="lead")
    assert promoted_ranker(made.store, NAME) is None
    made.change(ranker={"group": "brand"})
    with pytest.raises(InputError, match="no ranker was trained with the settings that the config has now"):
        promote_ranker(made.path, by="lead")
    trained = train_ranker(made.path)
    assert set(trained["groups"]) == {"even", "odd"}
    assert promote_ranker(made.path, by="lead").ranker == trained["ranker"]
    made.run()
    histories = made.index.history(ids(NUM, NUM + 10))
    judges = {a: {t.judge for t in h.tastes.values()} for a, h in histories.items()}
    brands = {row["id"]: row["brand"] for row in made.sheet}
    assert all(found == {taste_judge(trained["ranker"], brands[a])} for a, found in judges.items())


def test_evaluation_on_what_was_decided_since(reviewed: Production) -> None:
    """Assets that the ranker has not seen are measured by themselves; before there are any, there is none."""
    (trained,) = list_rankers(reviewed.path)
    found = evaluate_ranker(reviewed.path)
    assert found.key == trained["ranker"]
    assert found.fresh is None
    assert found.as_dict()["stored"] == trained["agreement"]
    Fan(reviewed).review(ids(NUM, NUM + 10))
    again = evaluate_ranker(reviewed.path, trained["ranker"][:8])
    assert again.fresh is not None
    assert (again.fresh.num_assets, again.fresh.both.value > again.fresh.judge.value) == (10, True)
    newer = train_ranker(reviewed.path)
    assert newer["ranker"] != trained["ranker"]
    assert [r["ranker"] for r in list_rankers(reviewed.path)] == [newer["ranker"], trained["ranker"]]
    assert asdict(again.fresh)["gain"]["value"] > 0


def test_fresh_decisions_can_refuse_a_promotion(reviewed: Production) -> None:
    """A ranker whose reviewer changed their mind since is not promoted, however well it did in training."""
    (old,) = list_rankers(reviewed.path)
    Fan(reviewed, -1).review(ids(NUM, NUM + 10))
    with pytest.raises(InputError, match="10 assets decided about since"):
        promote_ranker(reviewed.path, old["ranker"], by="lead")


def test_what_cannot_be_done_says_why(run_once: Production, tmp_path: Path) -> None:
    """Too few decisions, no ranker, an unknown column, a ranker of another judge: errors with the way out."""
    made = copy_of(run_once, tmp_path)
    with pytest.raises(InputError, match="no ranker was trained yet"):
        evaluate_ranker(made.path)
    Fan(made).review(ids(0, 8))
    with pytest.raises(InputError, match="8 assets have pictures .* of 10 that training takes"):
        train_ranker(made.path)
    made.change(ranker={"group": "maker"})
    with pytest.raises(InputError, match="names 'maker', which the sheet lacks"):
        train_ranker(made.path)
    with pytest.raises(InputError, match="names 'maker', which the sheet lacks"):
        made.plan()


def test_a_ranker_of_another_judge_stops_the_plan(reviewed: Production) -> None:
    """Selection is never made quietly without the ranker that was promoted; `use: off` is the way to do so."""
    document = read_ranker(reviewed.store, NAME, list_rankers(reviewed.path)[0]["ranker"])
    key = put_ranker(reviewed.store, NAME, {**document, "judge": "f" * 64})
    append_promotion(reviewed.store, NAME, key, seen=0, by="lead")
    with pytest.raises(InputError, match="trained under another judge"):
        reviewed.plan()
    reviewed.change(ranker={"use": "off"})
    assert reviewed.states() == {"changed": NUM, "unchanged": 10}
