"""A rehearsal as one HTML page: how far it drifted, and every golden picture beside its old one. Nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from assetmill.curate.drift import LEVEL
from assetmill.operate.baselines import Rehearsal, Take
from assetmill.operate.morning.pictures import small_picture
from assetmill.storage.store import Store

_MOST = 400
"""Pairs on a page: more would not be looked at, and make it heavy."""


MEANINGS = {
    "score": "the judge's score, mean",
    "yield": "share of pictures that pass all gates",
    "approvals": "of what was approved or chosen, the share that has a near one in the new choice",
    "similarity": "how near each picture is to its old one (cosine)",
}


def draw_page(store: Store, found: Rehearsal, former: Rehearsal | None) -> bytes:
    """The page as UTF-8, rows that fell most first. Texts are escaped; pictures that are gone leave an empty place."""
    from jinja2 import Environment

    text = (resources.files("assetmill.operate") / "rehearsal.html").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    template.globals.update(number=_number, moment=_moment, level=f"{LEVEL:.0%}", meanings=MEANINGS)
    before = {take.slot: take for take in former.takes} if former is not None else {}
    by_row: dict[str, list[Take]] = {row.key: [] for row in found.rows}
    for take in found.takes:
        by_row[take.row].append(take)
    # Scores of two judges are not compared.
    scored = before if former is not None and former.setup["judge"] == found.setup["judge"] else {}
    falls = {key: _fall(takes, scored) for key, takes in by_row.items()}
    entries, left = [], _MOST
    for row in sorted(found.rows, key=lambda r: -(falls[r.key] or 0.0)):
        takes = by_row[row.key][:left]
        left -= len(takes)
        pairs = [(_shown(store, before.get(take.slot)), _shown(store, take)) for take in takes]
        if pairs:
            entries.append({"row": row, "fell": falls[row.key], "pairs": pairs})
    omitted = len(found.takes) - (_MOST - left)
    page = template.render(found=found, former=former, scored=bool(scored), entries=entries, omitted=omitted)
    return page.encode("utf-8", "replace")


def _fall(takes: Sequence[Take], before: Mapping[tuple[str, int], Take]) -> float | None:
    """How far the mean score of a row fell; None where it cannot be said."""
    pairs = [(before[t.slot].score, t.score) for t in takes if t.slot in before]
    falls = [old - new for old, new in pairs if old is not None and new is not None]
    return sum(falls) / len(falls) if falls else None


def _number(value: float, *, sign: bool = True) -> str:
    """Four digits with a true minus, no sign before nothing."""
    text = f"{value:+.4f}" if sign else f"{value:.4f}"
    return "0" if sign and not float(text) else text.replace("-", "−")


def _moment(at: str) -> str:
    return at[:16].replace("T", " ") + " UTC"


def _shown(store: Store, take: Take | None) -> Mapping[str, Any] | None:
    if take is None:
        return None
    score = "no score" if take.score is None else f"{take.score:.3f}"
    return {"picture": _picture(store, take), "caption": take.rejected or score, "take": take}


def _picture(store: Store, take: Take) -> str:
    """A small copy as a data URL, empty where there is no picture."""
    small = small_picture(store, take.blob, take.media_type) if take.blob else None
    return f"data:image/webp;base64,{base64.b64encode(small).decode()}" if small else ""
