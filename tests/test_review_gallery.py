"""The gallery shows every asset with its pictures in rank order, and says what it could not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from assetmill.config import read_config
from assetmill.records import asset_key, record_line
from assetmill.review.gallery import Gallery, assets_of_run, load_gallery, read_card
from assetmill.storage.bans import ban
from productions import NAME, Production, rows
from storage_samples import candidate, failure, gate, outcome, requested, score, variant


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Production:
    production = Production(tmp_path_factory.mktemp("gallery"), rows(5, group="a"))
    production.run()
    return production


def gallery_of(production: Production) -> Gallery:
    return load_gallery(production.store, read_config(production.path))


def test_every_asset_is_there_in_the_order_of_the_sheet(made: Production) -> None:
    """All assets with all their candidates, best first, the chosen one in front."""
    gallery = gallery_of(made)
    assert [c.id for c in gallery.cards] == [r["id"] for r in made.sheet]
    assert gallery.num_pictures == len({c.blob for c in made.candidates()})
    for card in gallery.cards:
        usable = [p for p in card.pictures if not p.refused]
        assert usable[0].rank == 1
        assert [p.score for p in usable] == sorted((p.score for p in usable), reverse=True)
        assert card.outcome == "chosen"
        assert card.published[0].blob == usable[0].blob
        assert card.columns["thing"] in card.rank_text
        assert card.best == usable[0].score


def test_the_index_may_be_compacted_or_not(made: Production) -> None:
    """What the page shows does not depend on whether segments were folded."""
    before = gallery_of(made)
    made.index.compact(min_segments=1)
    assert gallery_of(made).cards == before.cards


def test_only_pictures_of_records_may_be_shown(made: Production) -> None:
    """Media types are known of candidates, masters and published files, and of nothing else in the store."""
    gallery = gallery_of(made)
    shown = {i.key.split("/")[-1].partition(".")[0] for i in made.store.list("blobs/")}
    pictures = {b for b in shown if b in gallery.media_types}
    assert pictures == {c.blob for c in made.candidates()} | set(made.published().values())
    assert pictures < shown  # the sheet and the templates of the run are blobs too


def test_a_run_has_its_assets(made: Production) -> None:
    """The latest runs are listed, each with the assets it set out to make."""
    (run,) = gallery_of(made).runs
    assert run.status == "done"
    assert assets_of_run(made.store, NAME, run.id) == {asset_key(r["id"]) for r in made.sheet}
    assert assets_of_run(made.store, NAME, "01ABC") == frozenset()


def test_assets_without_pictures_and_without_rows_are_shown_too(tmp_path: Path) -> None:
    """A row that nothing was made for yet, and an asset that has left the sheet."""
    production = Production(tmp_path, rows(3))
    production.run()
    production.sheet = [*rows(3)[1:], {"id": "later", "thing": "mug", "colour": "blue"}]
    production.write()
    cards = gallery_of(production).cards
    assert [c.id for c in cards] == ["001", "002", "later", "000"]
    assert not cards[2].pictures
    assert cards[3].pictures
    assert not cards[3].columns


def test_an_unreadable_sheet_is_said(tmp_path: Path) -> None:
    """Without its sheet the page still shows all pictures, and says why it lacks the columns."""
    production = Production(tmp_path)
    production.run()
    (tmp_path / "sheet.csv").unlink()
    gallery = gallery_of(production)
    assert len(gallery.cards) == 4
    assert "sheet.csv" in gallery.notices[0]


def test_facets_are_what_repeats() -> None:
    """A column whose values repeat is a filter; ids and free texts are not."""
    from assetmill.review.gallery import Card

    cards = [
        Card(f"{n:064d}", f"a{n}", columns={"id": f"a{n}", "colour": "red" if n % 3 else "blue"}) for n in range(6)
    ]
    facets = Gallery(tuple(cards), ("id", "colour")).facets
    assert facets["columns"] == {"colour": [("red", 4), ("blue", 2)]}


def test_what_was_taken_back_is_marked(tmp_path: Path) -> None:
    """Pictures of a banned asset say so, and count as no choice."""
    production = Production(tmp_path, rows(2))
    production.run()
    ban(production.store, NAME, "asset", "000", reason="withdrawn", by="Tom")
    banned, other = gallery_of(production).cards
    assert banned.usable == 0
    assert all(p.refused.startswith("taken back: ") for p in banned.pictures)
    assert other.usable == 4


def test_a_card_tells_what_became_of_each_picture() -> None:
    """Gates refuse with a reason, failures are counted, two requests of one picture are one."""
    requests = [requested("a", n) for n in range(4)]
    keys = [r.key for r in requests]
    records = [
        *requests, candidate(keys[0]), score(keys[0], 0.2), candidate(keys[1]), score(keys[1], 0.9),
        gate(keys[1], passed=False), candidate(keys[2]), score(keys[2], 0.7), gate(keys[2]), failure(keys[3], "poison"),
        variant("a", keys[0]), outcome("a"),
    ]  # fmt: skip
    card = read_card(asset_key("a"), map(record_line, records))
    assert card is not None
    assert [p.request_key for p in card.pictures] == [keys[2], keys[0], keys[1]]
    assert card.pictures[2].refused == "too black"
    assert (card.usable, card.num_failed, card.best) == (2, 1, 0.7)
    assert card.pictures[1].master
    twin = candidate(keys[1])
    folded = read_card(asset_key("a"), map(record_line, [*requests[:2], twin, candidate(keys[0]), *[
        type(twin)(keys[0], twin.blob, "image/png", 8, 8)
    ]]))  # fmt: skip
    assert folded is not None
    assert len(folded.pictures) == 1
    assert read_card(asset_key("a"), [record_line(outcome("a"))]) is None


def test_pictures_of_a_changed_prompt_are_marked(tmp_path: Path) -> None:
    """After a row was changed and made again, the old pictures stand behind the new ones, and say what they are."""
    production = Production(tmp_path, rows(2))
    production.run()
    assert not any(p.other_prompt for c in gallery_of(production).cards for p in c.pictures)
    production.sheet[0]["colour"] = "teal"
    production.write()
    production.change(publish={"max_changed": 1.0})
    production.run()
    changed, other = gallery_of(production).cards
    assert [p.other_prompt for p in changed.pictures] == [False] * 4 + [True] * 4
    assert all("teal" in p.positive for p in changed.pictures[:4])
    assert not any(p.other_prompt for p in other.pictures)
