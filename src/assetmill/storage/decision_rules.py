"""Which decisions make sense: checked before one is put on record, so that the log holds none that say nothing."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from assetmill.records import OPERATIONS, InputError, Problem
from assetmill.storage.reviews import KINDS, TEXTS, Draft, ReviewState

MAX_NAME, MAX_REASON, MAX_TEXT, MAX_SHOWN = 100, 500, 8_000, 256 * 1024
"""Longest name of a person, reason, and note or prompt, in characters; largest ranking, in bytes of JSON."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

_NEEDS_BLOB = ("approve", "reject", "vary", "adopt")
_NO_BLOB = ("reroll", "undo")


def _whole(low: int, high: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"give a whole number from {low} to {high}"

    return check


def _number(low: float, high: float, *, above: bool = False) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if fits and low <= value <= high and not (above and value == low):
            return ""
        return f"give a number {f'above {low:g} up' if above else f'from {low:g}'} to {high:g}"

    return check


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and len(value) <= MAX_TEXT else f"give a text of at most {MAX_TEXT} characters"


def _operation(value: Any) -> str:
    return "" if value in OPERATIONS else f"use one of {', '.join(OPERATIONS)}"


def _variation(value: Any) -> str:
    return "" if value in ("image-to-image", "variation") else "use image-to-image or variation"


def _picture(value: Any) -> str:
    fits = isinstance(value, str) and _SHA256.fullmatch(value)
    return "" if fits else "give the 64 hex digits that name a stored picture"


def _cell(value: Any) -> str:
    fits = isinstance(value, Mapping) and all(isinstance(t, str) for pair in value.items() for t in pair)
    return "" if fits else "give axis values by axis name"


_COMMON: Mapping[str, Callable[[Any], str]] = {"positive": _text, "negative": _text}
OVERRIDES: Mapping[str, Mapping[str, Callable[[Any], str]]] = MappingProxyType(
    {
        "reroll": {
            **_COMMON, "seeds": _whole(0, 1024), "steps": _whole(1, 1000), "guidance": _number(0, 100),
            "strength": _number(0, 1, above=True), "scheduler": _text, "operation": _operation, "image": _picture,
            "width": _whole(8, 16384), "height": _whole(8, 16384), "template": _text, "cell": _cell,
        },
        "vary": {
            **_COMMON, "seeds": _whole(1, 1024), "operation": _variation, "strength": _number(0, 1, above=True),
            "weight": _number(0, 2),
        },
    }
)  # fmt: skip
"""What may be asked for, by kind of decision and name: each a check that gives the way out, or nothing."""


def check_draft(draft: Draft) -> None:
    """Raises InputError for a decision that makes no sense, whatever was decided before."""
    where = f"{draft.asset_id}: "
    problems: list[Problem] = []

    def complain(message: str, way_out: str, column: str = "") -> None:
        problems.append(Problem(where + message, way_out, column=column))

    if draft.kind not in KINDS:
        raise InputError(Problem(f"{where}there is no decision {draft.kind!r}", f"use one of {', '.join(KINDS)}"))
    if not draft.asset_id:
        complain("a decision needs an asset", "give its id")
    if not draft.by.strip() or len(draft.by) > MAX_NAME or any(unicodedata.category(c) == "Cc" for c in draft.by):
        complain("a decision needs the name of who decides", f"give 1 to {MAX_NAME} printable characters", "by")
    for name, longest in (("reason", MAX_REASON), ("note", MAX_TEXT)):
        if len(getattr(draft, name)) > longest:
            complain(f"the {name} is longer than {longest} characters", "shorten it", name)
    if draft.kind in _NEEDS_BLOB and not draft.blob:
        complain(f"{draft.kind} needs a picture", "name the candidate's blob", "blob")
    if draft.kind in _NO_BLOB and draft.blob:
        complain(f"{draft.kind} is about the asset, not about one picture", "leave the blob out", "blob")
    if draft.blob and not _SHA256.fullmatch(draft.blob):
        complain("a picture is named by 64 hex digits", "use the candidate's blob", "blob")
    if draft.kind == "note" and not draft.note.strip():
        complain("the note is empty", "write something", "note")
    if draft.kind != "undo" and draft.undoes:
        complain("only an undo takes a decision back", "leave `undoes` out", "undoes")
    _check_override(draft, complain)
    try:
        size = len(json.dumps(draft.shown, allow_nan=False))
    except (TypeError, ValueError) as error:
        complain(f"the ranking shown is no JSON: {error}", "give plain values", "shown")
    else:
        if size > MAX_SHOWN:
            complain(f"the ranking shown is larger than {MAX_SHOWN} bytes", "give the pictures that were seen", "shown")
    if problems:
        raise InputError(problems)


def _check_override(draft: Draft, complain: Callable[..., None]) -> None:
    known = OVERRIDES.get(draft.kind, {})
    if draft.override and not known:
        complain(f"{draft.kind} asks for no pictures", "leave the override out", "override")
        return
    for name, value in draft.override.items():
        if name not in known:
            complain(f"{draft.kind} has no {name!r}", f"use {', '.join(known)}", f"override.{name}")
        elif way_out := known[name](value):
            complain(f"{name} is {str(value)[:80]!r}", way_out, f"override.{name}")
    if draft.kind == "vary" and "seeds" not in draft.override:
        complain("a variation needs to know how many", "give seeds", "override.seeds")
    if draft.kind == "vary":
        operation = draft.override.get("operation")
        for name, other in (("strength", "variation"), ("weight", "image-to-image")):
            if name in draft.override and operation == other:
                complain(f"{name} has no meaning for {other}", "leave it out", f"override.{name}")
        if {"strength", "weight"} <= draft.override.keys():
            complain("strength is for image-to-image and weight for variation", "give one of them", "override")
    if draft.kind == "reroll":
        if not any(draft.override.get(name) not in (None, 0) for name in known if name not in ("template", "cell")):
            complain("a reroll that asks for nothing", "give seeds, a text or a setting", "override")
        if "cell" in draft.override and "template" not in draft.override:
            complain("a cell belongs to a template", "give the template too", "override.template")
        if "template" in draft.override and not any(t in draft.override for t in TEXTS):
            complain("a template and cell say where texts hold, and there are none", "give a text", "override")
        for one, other in (("width", "height"), ("height", "width")):
            if one in draft.override and other not in draft.override:
                complain(f"{one} without {other}", "give both", f"override.{other}")


def check_against(draft: Draft, state: ReviewState) -> None:
    """Raises InputError for a decision that makes no sense after those that were made before."""
    where = f"{draft.asset_id}: "
    if draft.kind == "undo" and not any(d.number == draft.undoes for d in state.decisions):
        raise InputError(Problem(f"{where}there is no decision {draft.undoes} to undo", "look at the asset again"))
    if draft.kind == "undo" and draft.undoes in state.undone:
        raise InputError(Problem(f"{where}decision {draft.undoes} is undone already", "undo the undo to have it back"))
    if draft.kind in ("reroll", "vary") and state.approved:
        raise InputError(
            Problem(f"{where}it has an approved picture, which stays as it is", "reopen it, then ask for more")
        )
    if draft.kind == "reopen":
        known = {*state.approved, *state.rejected}
        if (draft.blob and draft.blob not in known) or not (draft.blob or state.approved):
            raise InputError(Problem(f"{where}there is nothing to reopen", "look at the asset again"))
