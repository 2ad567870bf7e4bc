"""A night beside the nights before it: what was changed in between, how scores moved, which gates refuse more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assetmill.operate.morning.statistics import Estimate, difference, mean, share

_QUIET = ("base",)
"""Settings that say where a config lies and nothing of what it makes."""

_PIN_NAMES = {"sheet": "the sheet", "templates": "the templates", "judge": "the judge", "upscaler": "the upscaler"}


@dataclass(frozen=True, slots=True)
class Change:
    """Something that differs between two nights. `old` or `new` is empty where there was none."""

    what: str
    old: str
    new: str


def changes_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What a person, or an update, changed between two nights' facts: settings, sheet, templates, models, libraries."""
    found: list[Change] = []
    for name, words in _PIN_NAMES.items():
        before, after = old.get("pins", {}).get(name, ""), new.get("pins", {}).get(name, "")
        if before != after and before and after:
            found.append(Change(words, _short(before), _short(after)))
    before, after = old.get("pins", {}).get("model", ""), new.get("pins", {}).get("model", "")
    if before != after and before and after:
        found.append(Change("the model", before, after))
    settings = dict(_flat(old.get("settings", {}))), dict(_flat(new.get("settings", {})))
    found += _differing(*settings)
    # A night that made nothing loaded no library and knows no versions.
    versions = old.get("versions", {}), new.get("versions", {})
    if all(versions):
        found += _differing(*versions)
    return found


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    names = sorted({*old, *new})
    return [Change(n, old.get(n, ""), new.get(n, "")) for n in names if old.get(n) != new.get(n)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested settings by their path, as a config file would have them."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            if path or name not in _QUIET:
                yield from _flat(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    """A hash as people compare them."""
    return text[:12]


@dataclass(frozen=True, slots=True)
class ScoreShift:
    """How scores of the chosen moved since the last night that made something: over all, and on the same assets.

    None where there is nothing to compare, or another judge scored.
    """

    overall: Estimate | None
    paired: Estimate | None


def shift_of(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> ScoreShift:
    """The shift of a night's scores. Pairs are an asset's published picture of before and the one chosen now."""
    pairs = new.get("pairs", ())
    paired = mean([after - before for before, after in pairs]) if pairs else None
    comparable = old is not None and old.get("judge") == new.get("judge") and old.get("scores") and new.get("scores")
    overall = difference(new["scores"], old["scores"]) if comparable and old is not None else None
    return ScoreShift(overall, paired)


def say_shift(shift: Estimate, what: str) -> str:
    """A shift as one sentence that claims no more than its interval does."""
    if not shift.known or shift.low is None or shift.high is None:
        return f"{what}: {shift.value:+.3f} over {shift.count}, too few to tell from chance."
    span = f"{shift.value:+.3f}, 95 % interval {shift.low:+.3f} to {shift.high:+.3f}, {shift.count} assets"
    if shift.low > 0:
        return f"{what} rose ({span})."
    if shift.high < 0:
        return f"{what} fell ({span})."
    return f"{what}: no change that stands out from chance ({span})."


@dataclass(frozen=True, slots=True)
class Spike:
    """A gate that refuses a larger share of tonight's images than of those of the nights before."""

    gate: str
    now: Estimate
    before: Estimate


def spikes_of(new: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> list[Spike]:
    """Gates whose share tonight lies above that of former nights, the two intervals apart. Largest share first."""
    trials, past = num_trials(new), sum(num_trials(night) for night in earlier)
    if not trials or not past:
        return []
    found = []
    for gate, said in new.get("rejections", {}).items():
        before = sum(night.get("rejections", {}).get(gate, {}).get("count", 0) for night in earlier)
        now_share, past_share = share(min(said["count"], trials), trials), share(min(before, past), past)
        if now_share.low is not None and past_share.high is not None and now_share.low > past_share.high:
            found.append(Spike(gate, now_share, past_share))
    return sorted(found, key=lambda spike: -spike.now.value)


def num_trials(night: Mapping[str, Any]) -> int:
    """How many images of a night came to an end that counts: passed, refused or failed."""
    return sum(tally["trials"] for tally in night.get("yields", {}).get("template", {}).values())


def num_passed(night: Mapping[str, Any]) -> int:
    return sum(tally["passed"] for tally in night.get("yields", {}).get("template", {}).values())
