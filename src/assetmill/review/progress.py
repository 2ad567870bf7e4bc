"""How far a person has come: what is left, how fast it goes, and when it will be done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from assetmill.storage.decisions import Decision

PAUSE = 300.0
"""A longer gap between two decisions, in seconds, is a break and no work."""

RECENT = 50
"""Assets that the pace is measured over: the hand gets faster, and the pictures harder."""

FEWEST = 4
"""Gaps that a pace is measured from: fewer say nothing."""

_CLOSING = ("approve", "reject", "reroll", "vary")


@dataclass(frozen=True, slots=True)
class Progress:
    """`left` and `total` count assets. `pace` is in assets an hour and `seconds_left` what that comes to; both are None
    while there are too few decisions to measure.
    """

    left: int
    total: int
    decided_by_you: int
    pace: float | None
    seconds_left: float | None


def measure_progress(decisions: Iterable[Decision], reviewer: str, left: int, total: int) -> Progress:
    """The progress of one reviewer, from all decisions in the order they were made."""
    closed: dict[str, float] = {}
    for decision in decisions:
        if decision.by == reviewer and decision.kind in _CLOSING:
            closed[decision.asset_id] = datetime.fromisoformat(decision.at).timestamp()
    times = sorted(closed.values())[-RECENT:]
    gaps = [gap for a, b in pairwise(times) if (gap := b - a) <= PAUSE]
    if len(gaps) < FEWEST or not sum(gaps):
        return Progress(left, total, len(closed), None, None)
    each = sum(gaps) / len(gaps)
    return Progress(left, total, len(closed), 3600 / each, each * left)
