"""Which assets the page shows, and in which order: a filter as it stands in an address, and what it lets through."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from assetmill.records import InputError, Problem
from assetmill.review.gallery import Card, Gallery
from assetmill.storage.decisions import DecisionLog, ReviewState

STATUSES = ("review", "approved", "rejected", "rerolled", "waiting", "published", "trouble")
"""`review`: open, with a picture to look at. `waiting`: held back until a person approves. `trouble`: no picture that
passed its gates. The others say what they are; one asset can have several."""

SORTS = ("sheet", "best", "worst", "id")
"""In the order of the sheet, by best score from either end, or by id."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What an asset must be to be shown; an empty field asks for nothing. Scores are those of its best picture."""

    status: str = ""
    run: str = ""
    template: str = ""
    column: str = ""
    value: str = ""
    low: float | None = None
    high: float | None = None
    reviewer: str = ""
    text: str = ""
    sort: str = "sheet"


def parse_filter(query: Mapping[str, str]) -> Filter:
    """The filter of an address. Raises InputError naming the part that cannot be used."""
    values: dict[str, Any] = {
        name: query.get(name, "").strip()[:500]
        for name in ("status", "run", "template", "column", "value", "reviewer", "text")
    }
    values["sort"] = query.get("sort") or "sheet"
    for name, known in (("status", ("", *STATUSES)), ("sort", SORTS)):
        if values[name] not in known:
            raise InputError(Problem(f"{name} {values[name][:40]!r} is unknown", f"use one of {', '.join(known)}"))
    for name in ("low", "high"):
        if text := query.get(name, "").strip():
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise InputError(Problem(f"{name} {text[:40]!r} is no number", "give a score such as 0.31"))
            values[name] = number
    return Filter(**values)


def statuses_of(card: Card, state: ReviewState) -> tuple[str, ...]:
    """All statuses that an asset has."""
    found = []
    if state.status == "open":
        found.append("review" if card.usable or state.adopted else "trouble")
    elif state.status == "rejected" and any(not p.refused and p.blob not in state.rejected for p in card.pictures):
        found.append("review")  # its next-ranked pictures have not been decided on
    else:
        found.append(state.status)
    if state.status != "approved" and card.outcome == "pending_review":
        found.append("waiting")
    if card.published:
        found.append("published")
    return tuple(found)


def count_statuses(gallery: Gallery, log: DecisionLog, within: Collection[str] | None = None) -> dict[str, int]:
    """How many assets have each status, of those `within`, or of all; `all` counts them."""
    counts: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
    for card in gallery.cards:
        if within is None or card.key in within:
            counts.update(statuses_of(card, log.of(card.key)))
            counts["all"] += 1
    return dict(counts)


def apply_filter(
    wanted: Filter, gallery: Gallery, log: DecisionLog, of_run: Collection[str] | None = None
) -> list[Card]:
    """The cards that pass, in order. `of_run` are the assets of the run that the filter names."""
    words = wanted.text.casefold().split()
    haystacks = gallery.haystacks if words else {}
    column_value = wanted.value.casefold()

    def passes(card: Card) -> bool:
        if of_run is not None and card.key not in of_run:
            return False
        if wanted.template and all(p.template != wanted.template for p in card.pictures):
            return False
        if wanted.column and card.columns.get(wanted.column, "").strip().casefold() != column_value:
            return False
        if wanted.low is not None and (card.best is None or card.best < wanted.low):
            return False
        if wanted.high is not None and (card.best is None or card.best > wanted.high):
            return False
        if words and not all(word in haystacks[card.key] for word in words):
            return False
        if not (wanted.status or wanted.reviewer):
            return True
        state = log.of(card.key)
        if wanted.status and wanted.status not in statuses_of(card, state):
            return False
        return not wanted.reviewer or any(
            d.by == wanted.reviewer and d.number not in state.undone for d in state.decisions
        )

    return _sort(filter(passes, gallery.cards), wanted.sort)


def _sort(cards: Iterable[Card], how: str) -> list[Card]:
    if how == "best":
        return sorted(cards, key=lambda card: -_score(card, -math.inf))
    if how == "worst":
        return sorted(cards, key=lambda card: _score(card, math.inf))
    return sorted(cards, key=lambda card: card.id) if how == "id" else list(cards)


def _score(card: Card, missing: float) -> float:
    best = card.best
    return missing if best is None else best
