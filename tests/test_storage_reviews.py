"""Folding decisions: undo and redo, whatever two people do between each other; replay gives what incremental gave."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from assetmill.storage.reviews import (
    NOTHING,
    Decision,
    Place,
    ReviewState,
    decision_bytes,
    fold_decisions,
    parse_decision,
)

BLOBS = tuple(c * 64 for c in "abc")


def decided(*made: dict[str, Any]) -> list[Decision]:
    """Decisions numbered in order."""
    plain = {"asset_id": "mug", "by": "ada", "id": "0" * 26, "at": "2026-01-01"}
    return [Decision(**{**plain, "number": n, **values}) for n, values in enumerate(made, 1)]


def fold(*made: dict[str, Any]) -> ReviewState:
    return fold_decisions(decided(*made))


def approve(blob: str, **more: Any) -> dict[str, Any]:
    return {"kind": "approve", "blob": blob, **more}


def reject(blob: str, reason: str = "") -> dict[str, Any]:
    return {"kind": "reject", "blob": blob, "reason": reason}


def undo(number: int) -> dict[str, Any]:
    return {"kind": "undo", "undoes": number}


def test_nothing_decided_is_open() -> None:
    assert fold_decisions([]) == NOTHING
    assert NOTHING.status == "open"


def test_approvals_keep_their_order_and_the_last_word_counts() -> None:
    state = fold(approve(BLOBS[1]), approve(BLOBS[0]), approve(BLOBS[1]), reject(BLOBS[2], "blurred"))
    assert state.approved == (BLOBS[1], BLOBS[0])
    assert (state.status, dict(state.rejected)) == ("approved", {BLOBS[2]: "blurred"})
    assert fold(approve(BLOBS[0]), reject(BLOBS[0], "no")).status == "rejected"
    assert fold(reject(BLOBS[0]), approve(BLOBS[0])).approved == (BLOBS[0],)


def test_an_undo_takes_back_and_its_undo_restores() -> None:
    made = (approve(BLOBS[0]), reject(BLOBS[0], "no"), undo(2))
    assert fold(*made).approved == (BLOBS[0],)
    assert fold(*made, undo(3)).approved == ()
    assert dict(fold(*made, undo(3)).rejected) == {BLOBS[0]: "no"}
    assert fold(*made, undo(3), undo(4)).approved == (BLOBS[0],)
    assert fold(approve(BLOBS[0]), undo(2)).approved == (BLOBS[0],), "nothing undoes itself"


def test_reopening_unpins_one_or_all() -> None:
    both = (approve(BLOBS[0]), approve(BLOBS[1]), reject(BLOBS[2]))
    assert fold(*both, {"kind": "reopen", "blob": BLOBS[0]}).approved == (BLOBS[1],)
    state = fold(*both, {"kind": "reopen"})
    assert (state.approved, set(state.rejected), state.status) == ((), {BLOBS[2]}, "open")
    assert fold(*both, {"kind": "reopen", "blob": BLOBS[2]}).rejected == {}


def test_what_is_asked_for_adds_up() -> None:
    place = {"template": "main", "cell": {"b": "2", "a": "1"}}
    state = fold(
        {"kind": "reroll", "override": {"seeds": 2, "steps": 10, "positive": "a mug"}},
        {"kind": "reroll", "override": {"seeds": 3, "steps": 20, "negative": "text"}},
        {"kind": "reroll", "override": {"positive": "a jug", **place}},
        {"kind": "vary", "blob": BLOBS[0], "template": "main", "override": {"seeds": 2}},
        {"kind": "vary", "blob": BLOBS[0], "template": "main", "override": {"seeds": 1}},
    )
    asked = state.overrides
    assert (asked.seeds, dict(asked.settings), state.status) == (5, {"steps": 20}, "rerolled")
    assert [(t.positive, t.negative, t.place) for t in asked.texts] == [
        ("a mug", "text", None),
        ("a jug", None, Place("main", (("a", "1"), ("b", "2")))),
    ]
    assert [(v.blob, v.seeds) for v in asked.variations] == [(BLOBS[0], 3)]
    assert asked.as_json()["variations"][0]["seeds"] == 3
    assert not fold({"kind": "reroll", "override": {"seeds": 2}}, undo(1)).overrides


@st.composite
def logs(draw: st.DrawFn) -> list[Decision]:
    """What two people may do to one asset, in any order."""
    made = []
    for number in range(1, draw(st.integers(1, 14)) + 1):
        kind = draw(st.sampled_from(["approve", "reject", "reopen", "note", "reroll", "vary", "adopt", "undo"]))
        values: dict[str, Any] = {"kind": kind, "by": draw(st.sampled_from(["ada", "bob"]))}
        if kind in ("approve", "reject", "vary", "adopt") or (kind == "reopen" and draw(st.booleans())):
            values["blob"] = draw(st.sampled_from(BLOBS))
        if kind == "undo":
            values["undoes"] = draw(st.integers(1, number))
        if kind in ("reroll", "vary"):
            values["override"] = {"seeds": draw(st.integers(1, 3))}
        made.append(values)
    return decided(*made)


@given(logs())
def test_any_interleaving_gives_one_defined_state(log: list[Decision]) -> None:
    state = fold_decisions(log)
    assert not set(state.approved) & set(state.rejected)
    assert len(set(state.approved)) == len(state.approved)
    assert set(state.approvals) == set(state.approved)
    assert (state.status == "approved") == bool(state.approved)
    assert state.number == len(log)
    assert all(d.number not in state.undone for d in (*state.approvals.values(), *state.rejections.values()))


@given(logs())
def test_replay_from_the_store_gives_what_was_kept(log: list[Decision]) -> None:
    read = [parse_decision(f"{d.asset_key}/{d.number:06d}.json", decision_bytes(d)) for d in log]
    assert fold_decisions(read) == fold_decisions(log)


@given(logs())
def test_undoing_the_last_decision_gives_the_state_before_and_undoing_that_restores(log: list[Decision]) -> None:
    def said(state: ReviewState) -> tuple[Any, ...]:
        return state.status, state.approved, dict(state.rejected), state.adopted, state.overrides, state.notes

    plain = [(d.kind, d) for d in log]
    again = [d for _, d in plain]
    more = decided(*[{"kind": "note"}] * len(log), undo(len(log)), undo(len(log) + 1))[len(log) :]
    before, after = fold_decisions(log[:-1]), fold_decisions(log)
    assert said(fold_decisions([*again, more[0]])) == said(before)
    assert said(fold_decisions([*again, *more])) == said(after)
