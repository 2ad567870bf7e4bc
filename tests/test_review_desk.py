"""Decisions from the page: what is recorded, what is refused, what a bulk does, and that all of it can be undone."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.deliver.picture import decode, encode_png
from assetmill.operate.adopting import MAX_BYTES
from assetmill.records import InputError, Problem
from assetmill.review.desk import Desk, Seat, UnknownAsset
from assetmill.review.filters import Filter, apply_filter, parse_filter, statuses_of
from assetmill.review.progress import PAUSE, measure_progress
from assetmill.storage.decisions import Decision, Draft, StaleDecision, read_decisions
from productions import NAME, Production, rows
from review_pages import Browser, desk_over

MIA, TOM = Seat("Mia"), Seat("Tom")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    production = Production(tmp_path, [*rows(3, group="a"), *rows(6, group="b")[3:]])
    production.run()
    return desk_over(production)


def first(desk: Desk, n: int = 0) -> Any:
    return desk.gallery.cards[n]


# --- one decision ---


def test_a_decision_records_what_was_shown(desk: Desk) -> None:
    """Who, what, which bytes, and the ranking as it stood on the page, in the order it stood there."""
    card = first(desk)
    order = [p.blob for p in reversed(card.pictures)]
    made = desk.decide(card.key, "approve", 0, MIA, blob=order[0], order=[*order, "f" * 64])
    (kept,) = read_decisions(desk.store, NAME)
    assert kept == made
    assert (kept.by, kept.kind, kept.blob, kept.number) == ("Mia", "approve", order[0], 1)
    assert kept.shown["blind"] is False
    assert kept.shown["ranking"] == [[p.blob, p.score] for p in reversed(card.pictures)]
    assert kept.shown["judge"] == card.pictures[0].judge


def test_blind_decisions_say_so(desk: Desk) -> None:
    """In blind mode the order and its seed are on record, with the scores that the person did not see."""
    card, seat = first(desk), Seat("Mia", "seed")
    made = desk.decide(card.key, "approve", 0, seat, blob=card.pictures[0].blob)
    assert made.shown["blind"] is True
    assert made.shown["seed"] == "seed"
    (shown,) = desk.cards([card.key], seat)
    assert [p["blob"] for p in shown["pictures"]] == [blob for blob, _ in made.shown["ranking"]]


def test_blind_cards_hold_no_scores(desk: Desk) -> None:
    """Nothing that is sent in blind mode tells scores, ranks or what is published; the order is the seed's."""
    cards = desk.cards([c.key for c in desk.gallery.cards], Seat("Mia", "one"))
    for card in cards:
        assert all(p["score"] is None and p["rank"] == 0 and not p["published"] for p in card["pictures"])
        detail = desk.detail(card["key"], Seat("Mia", "one"))
        assert not detail["published"]
        assert all(not made["scores"] for made in detail["made"].values())
        assert "score" not in json.dumps(detail["made"]).replace('"scores": []', "")
    again = desk.cards([c.key for c in desk.gallery.cards], Seat("Mia", "one"))
    other = desk.cards([c.key for c in desk.gallery.cards], Seat("Mia", "two"))
    assert cards == again
    assert cards != other


def test_stale_and_doubled_decisions_are_refused(desk: Desk) -> None:
    """The second of two, and the same one twice, find the number taken."""
    card = first(desk)
    blob = card.pictures[0].blob
    desk.decide(card.key, "approve", 0, MIA, blob=blob)
    for seat in (MIA, TOM):
        with pytest.raises(StaleDecision):
            desk.decide(card.key, "reject", 0, seat, blob=blob)
    assert len(read_decisions(desk.store, NAME)) == 1


def test_two_desks_see_each_other(desk: Desk) -> None:
    """Two pages over one store: the slower one is refused, though it had not looked again."""
    other = Desk(desk.store, desk.config)
    card = first(desk)
    desk.decide(card.key, "approve", 0, MIA, blob=card.pictures[0].blob)
    with pytest.raises(StaleDecision):
        other.decide(card.key, "approve", 0, TOM, blob=card.pictures[1].blob)
    other.log.refresh()
    assert other.log.of(card.key).status == "approved"


def test_decisions_bind_to_pictures_of_the_asset(desk: Desk) -> None:
    """Another asset's picture, a master and an unknown asset are refused."""
    card, other = first(desk), first(desk, 1)
    for blob in (other.pictures[0].blob, card.pictures[0].master, "0" * 64):
        with pytest.raises(InputError, match="no candidate"):
            desk.decide(card.key, "approve", 0, MIA, blob=blob)
    with pytest.raises(UnknownAsset):
        desk.decide("0" * 64, "note", 0, MIA, note="hello")


def test_all_pictures_can_be_rejected_at_once(desk: Desk) -> None:
    """A record each, and the asset is rejected; there is nothing left to reject then."""
    card = first(desk)
    made = desk.reject_all(card.key, 0, MIA, reason="dull")
    assert {d.blob for d in made} == {p.blob for p in card.pictures}
    assert statuses_of(card, desk.log.of(card.key))[0] == "rejected"
    with pytest.raises(InputError, match="nothing left"):
        desk.reject_all(card.key, len(made), MIA, reason="dull")


def test_one_rejection_leaves_the_asset_open(desk: Desk) -> None:
    """The next-ranked pictures have not been decided on."""
    card = first(desk)
    desk.decide(card.key, "reject", 0, MIA, blob=card.pictures[0].blob)
    assert "review" in statuses_of(card, desk.log.of(card.key))


def test_what_is_queued_is_said(desk: Desk) -> None:
    """More seeds and a changed prompt are visible as such on the card until they are undone."""
    card = first(desk)
    desk.decide(card.key, "reroll", 0, MIA, override={"seeds": 4, "positive": "a mug, no handle", "steps": 9})
    (shown,) = desk.cards([card.key], MIA)
    assert shown["queued"] == ["4 more pictures", "changed prompt", "steps 9"]
    assert shown["statuses"][0] == "rerolled"
    desk.decide(card.key, "undo", 1, MIA, undoes=1)
    (shown,) = desk.cards([card.key], MIA)
    assert (shown["queued"], shown["statuses"][0], shown["number"]) == ([], "review", 2)


def test_a_picture_from_outside_joins_the_asset(desk: Desk) -> None:
    """Shown beside the others, marked, ready to be approved; who lags behind is told before anything is stored."""
    page = Browser(desk)
    (card, *_) = page.cards()
    pixels = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    file = encode_png(pixels, {"parameters": "<secret>"})
    path, query = f"/api/assets/{card['key']}/adopt", {"seen": "0", "source": "photograph", "name": "a.png"}
    headers = {**page.trusted(), "content-type": "image/png"}
    answer = page.send("POST", path, params=query, headers=headers, content=file)
    assert answer.status_code == 200, answer.text
    (brought,) = [p for p in answer.json()["card"]["pictures"] if p["adopted"]]
    assert (brought["width"], brought["height"], brought["score"]) == (30, 20, None)
    shown = page.get(f"/pictures/{brought['blob']}.webp")
    assert np.array_equal(decode(shown.content), pixels)
    assert b"secret" not in shown.content
    detail = page.get(f"/api/assets/{card['key']}").json()
    assert detail["made"][brought["blob"]]["settings"]["model"] == "a.png"
    assert page.decide(answer.json()["card"], "approve", blob=brought["blob"]).status_code == 200
    stored = sorted(i.key for i in desk.store.list("blobs/"))
    assert page.send("POST", path, params=query, headers=headers, content=file).status_code == 409
    assert sorted(i.key for i in desk.store.list("blobs/")) == stored


@pytest.mark.parametrize(
    ("kind", "body", "query", "status"),
    [
        ("image/png", b"no picture", {}, 422), ("image/svg+xml", b"<svg/>", {}, 422), ("text/html", b"<p>", {}, 415),
        ("image/png", b"0" * (MAX_BYTES + 1), {}, 413), ("image/png", b"", {"seen": "x"}, 422),
        ("image/png", b"", {"source": "../x"}, 422),
    ],
)  # fmt: skip
def test_files_that_are_no_pictures_are_refused(
    desk: Desk, kind: str, body: bytes, query: dict[str, str], status: int
) -> None:
    """Other types, markup, too much of it: nothing is stored."""
    page = Browser(desk)
    (card, *_) = page.cards()
    stored = sorted(i.key for i in desk.store.list(""))
    answer = page.send(
        "POST", f"/api/assets/{card['key']}/adopt", content=body, params={"seen": "0", "source": "photograph", **query},
        headers={**page.trusted(), "content-type": kind},
    )  # fmt: skip
    assert answer.status_code == status
    assert sorted(i.key for i in desk.store.list("")) == stored


def test_wishes_are_checked_before_they_are_kept(desk: Desk) -> None:
    """What the asset's model cannot make is refused with the reason, and not on record."""

    def refuse(draft: Draft) -> None:
        raise InputError(Problem(f"{draft.asset_id}: this model cannot vary a picture", "ask for more seeds"))

    strict = Desk(desk.store, desk.config, check_wish=refuse)
    page = Browser(strict)
    (card, *_) = page.cards()
    answer = page.decide(card, "vary", blob=card["pictures"][0]["blob"], override={"seeds": 2})
    assert answer.status_code == 422
    assert "cannot vary" in answer.json()["error"]
    assert page.decide(card, "approve", blob=card["pictures"][0]["blob"]).status_code == 200
    assert len(strict.log) == 1


# --- many ---


def test_bulk_takes_the_best_above_a_threshold(desk: Desk) -> None:
    """Of each open asset the first k by rank that score enough; approved and rejected ones are left alone."""
    scores = sorted(c.best for c in desk.gallery.cards)
    threshold = scores[2]
    desk.decide(first(desk).key, "approve", 0, MIA, blob=first(desk).pictures[1].blob)
    choice = desk.bulk_choice(Filter(), 2, threshold)
    assert {c.key for c, _ in choice} == {
        c.key for c in desk.gallery.cards if c.best >= threshold and c.key != first(desk).key
    }
    for card, blobs in choice:
        good = [p.blob for p in card.pictures if not p.refused and p.score >= threshold]
        assert blobs == good[:2]
    made, stale = desk.approve_in_bulk(choice, MIA)
    assert len(made) == sum(len(b) for _, b in choice)
    assert not stale
    undone, stale = desk.undo([(d.asset_key, d.number) for d in made], MIA)
    assert len(undone) == len(made)
    assert not stale
    assert all(desk.log.of(c.key).status == "open" for c, _ in choice)


def test_bulk_leaves_alone_what_others_decided(desk: Desk) -> None:
    """An asset that somebody else was faster with is named, the rest goes through; undo leaves theirs alone too."""
    choice = desk.bulk_choice(Filter(), 1, None)
    other = Desk(desk.store, desk.config)
    card = choice[0][0]
    other.decide(card.key, "note", 0, TOM, note="wait")
    made, stale = desk.approve_in_bulk(choice, MIA)
    assert stale == [card.id]
    assert len(made) == len(choice) - 1
    second = choice[1][0]
    other.log.refresh()
    other.decide(second.key, "note", 1, TOM, note="mine now")
    undone, stale = desk.undo([(d.asset_key, d.number) for d in made], MIA)
    assert len(undone) == len(made) - 1
    assert stale == [second.id]


# --- filters ---


def test_filters_narrow(desk: Desk) -> None:
    """Status, column, score, reviewer, text: each alone and together."""
    gallery, log = desk.gallery, desk.log

    def ids(**wanted: Any) -> set[str]:
        return {c.id for c in apply_filter(Filter(**wanted), gallery, log)}

    everything = {c.id for c in gallery.cards}
    assert ids() == everything
    assert ids(column="group", value="A") == {"000", "001", "002"}
    assert ids(text="RED4") == {"004"}
    assert ids(text="hat red1") == {"001"}
    assert ids(text="nothing like it") == set()
    assert ids(template="main") == everything
    assert ids(template="other") == set()
    middle = sorted(c.best for c in gallery.cards)[3]
    assert ids(low=middle) | ids(high=middle) == everything
    assert len(ids(low=middle, high=middle)) == 1
    desk.decide(first(desk).key, "approve", 0, MIA, blob=first(desk).pictures[0].blob)
    assert ids(status="approved") == ids(reviewer="Mia") == {"000"}
    assert ids(status="review") == everything - {"000"}
    assert ids(status="published") == everything
    assert ids(reviewer="Tom") == set()
    assert [c.id for c in apply_filter(Filter(sort="id"), gallery, log)] == sorted(everything)
    best = [c.best for c in apply_filter(Filter(sort="best"), gallery, log)]
    assert best == sorted(best, reverse=True)


def test_filters_of_a_run(desk: Desk) -> None:
    """A run's contact sheet shows what it set out to make."""
    run = desk.gallery.runs[0].id
    assert len(desk.find(Filter(run=run))) == 6
    assert desk.find(Filter(run="01NOSUCHRUN")) == []


@pytest.mark.parametrize("query", [{"status": "liked"}, {"sort": "random"}, {"low": "much"}, {"high": "nan"}])
def test_unusable_filters_are_named(query: dict[str, str]) -> None:
    """An address that was typed wrong says what is wrong with it."""
    with pytest.raises(InputError):
        parse_filter(query)
    assert parse_filter({"status": "review", "low": " 0.5 "}) == Filter(status="review", low=0.5)


# --- progress and export ---


def decision(n: int, seconds: float, by: str = "Mia", kind: str = "approve") -> Decision:
    at = datetime.fromisoformat("2026-01-05T09:00:00+00:00") + timedelta(seconds=seconds)
    return Decision(asset_id=f"a{n}", kind=kind, by=by, number=1, id=f"{n:026d}", at=at.isoformat(), blob="0" * 64)


def test_pace_leaves_breaks_out() -> None:
    """Ten seconds an asset with a night in between is 360 an hour; others' work and notes are not mine."""
    mine = [decision(n, n * 10 + (40_000 if n > 5 else 0)) for n in range(12)]
    others = [decision(n + 50, n, by="Tom") for n in range(9)] + [decision(99, 5, kind="note")]
    found = measure_progress([*mine, *others], "Mia", left=30, total=60)
    assert (found.decided_by_you, found.left) == (12, 30)
    assert found.pace == pytest.approx(360)
    assert found.seconds_left == pytest.approx(300)
    assert measure_progress(mine[:3], "Mia", 1, 2).pace is None
    slow = [decision(n, n * (PAUSE + 1)) for n in range(9)]
    assert measure_progress(slow, "Mia", 1, 2).pace is None


# --- over the web ---


def test_the_page_decides_and_answers_409(desk: Desk) -> None:
    """Two windows: the second gets 409, who was faster, and the asset as it now is."""
    one, two = Browser(desk), Browser(desk, name="Tom")
    (card, *_) = one.cards()
    assert one.decide(card, "approve", blob=card["pictures"][0]["blob"]).json()["card"]["status"] == "approved"
    answer = two.decide(card, "reject", blob=card["pictures"][0]["blob"], reason="dull")
    assert answer.status_code == 409
    assert answer.json()["taken"]["by"] == "Mia"
    assert answer.json()["card"]["status"] == "approved"
    assert one.decide(card, "approve", blob=card["pictures"][0]["blob"]).status_code == 409
    assert len(read_decisions(desk.store, NAME)) == 1


def test_a_name_is_wanted(desk: Desk) -> None:
    """Nobody decides without saying who they are; the name is kept in a cookie that no script reads."""
    page = Browser(desk, name="")
    page.csrf = page.get("/").text.partition('name="csrf" content="')[2].partition('"')[0]
    (card, *_) = page.cards()
    assert page.decide(card, "approve", blob=card["pictures"][0]["blob"]).status_code == 428
    assert page.post("/api/name", {"name": "  \n "}).status_code == 422
    answer = page.post("/api/name", {"name": " Mia  Ö. "})
    assert answer.json() == {"name": "Mia Ö."}
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert page.get("/api/start").json()["name"] == "Mia Ö."


@pytest.mark.parametrize(
    "post",
    [
        {"kind": "love"}, {"kind": "approve"}, {"kind": "approve", "blob": "x"}, {"kind": 7}, {"seen": -1},
        {"seen": "0"}, {"seen": True}, {"kind": "note", "note": ""}, {"kind": "reroll", "override": {}},
        {"kind": "reroll", "override": {"seeds": 10**6}}, {"kind": "reroll", "override": []}, {"order": "abc"},
        {"kind": "undo", "undoes": 5}, {"kind": "reopen"},
    ],
)  # fmt: skip
def test_posts_that_make_no_sense_are_refused(desk: Desk, post: dict[str, Any]) -> None:
    """422 with the reason; nothing is recorded."""
    page = Browser(desk)
    (card, *_) = page.cards()
    answer = page.post(f"/api/assets/{card['key']}/decide", {"kind": "note", "seen": 0, "note": "fine", **post})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]
    assert len(desk.log) == 0


def test_bulk_over_the_web(desk: Desk) -> None:
    """Counted first, then done, then taken back."""
    page = Browser(desk)
    body = {"filter": {"status": "review"}, "top": 1, "threshold": None}
    assert page.post("/api/bulk", {**body, "dry": True}).json() == {"assets": 6, "pictures": 6}
    assert len(desk.log) == 0
    made = page.post("/api/bulk", body).json()
    assert len(made["decisions"]) == 6
    assert page.get("/api/overview").json()["counts"]["approved"] == 6
    undone = page.post("/api/undo", {"decisions": made["decisions"]}).json()
    assert (undone["undone"], undone["stale"]) == (6, [])
    assert page.post("/api/bulk", {**body, "threshold": "high"}).status_code == 422
    assert page.post("/api/undo", {"decisions": [["x", "y"]]}).status_code == 422


def test_what_runs_made_since_is_read_on_demand(tmp_path: Path) -> None:
    """A page that stays open shows the new night's pictures after it was told to read again."""
    production = Production(tmp_path, rows(1))
    production.run()
    page = Browser(desk_over(production))
    assert len(page.cards()) == 1
    production.sheet = rows(2)
    production.write()
    production.run()
    assert len(page.cards()) == 1
    assert page.post("/api/reload", {}).status_code == 200
    assert len(page.cards()) == 2


def test_pictures_are_served_as_copies(desk: Desk) -> None:
    """Thumbnails, large pictures and masters come as WebP, made anew, cached for good."""
    page = Browser(desk)
    (card, *_) = page.cards()
    master = first(desk).pictures[0].master
    for path in (f"/thumbnails/{card['pictures'][0]['blob']}.webp", f"/pictures/{master}.webp"):
        answer = page.get(path)
        assert answer.headers["content-type"] == "image/webp"
        assert answer.content[8:12] == b"WEBP"


def test_exports_come_as_files(desk: Desk) -> None:
    """Both forms download under the config's name, formulas made harmless; there is no third."""
    page = Browser(desk, name="=cmd|' /C calc'!A0")
    page.decide(page.cards()[0], "note", note="+1")
    assert json.loads(page.get("/export/decisions.json").text)[0]["note"] == "+1"
    (line,) = csv.DictReader(io.StringIO(page.get("/export/decisions.csv").content.decode("utf-8-sig")))
    assert (line["note"], line["by"]) == ("'+1", "'=cmd|' /C calc'!A0")
    for form in ("csv", "json"):
        answer = page.get(f"/export/decisions.{form}")
        assert answer.headers["content-disposition"] == f'attachment; filename="{NAME}-decisions.{form}"'
    assert page.get("/export/decisions.xlsx").status_code == 404
