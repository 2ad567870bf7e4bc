"""An experiment's arms beside the control: yield, scores and approvals over pairs of pictures of one seed.

The unit is an asset. Of each, only pairs count whose two pictures both came to an end; what a measure says of an asset
is the difference of the two sides over its pairs. Intervals are a bootstrap over assets. With several arms each
interval is wider, so that all arms together err as seldom as one (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assetmill.intake.plan import requests_of
from assetmill.operate.experiments import Arm, drawn_assets, pairs_of
from assetmill.operate.morning.statistics import Estimate, mean
from assetmill.records import Asset, InputError, Prompt, request_keys
from assetmill.storage.reviews import NOTHING, ReviewState

if TYPE_CHECKING:
    from assetmill.operate.job import Job
    from assetmill.storage.index import AssetHistory

MEASURES = {
    "yield": "images that passed",
    "score": "score of an image",
    "best": "best score of an asset",
    "approval": "decided images that were approved",
}
"""What is compared, and how people call it."""

_SHARES = ("yield", "approval")

NUM_EXAMPLES = 6
"""Assets whose best pictures of both sides are shown."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One picture that came to an end: whether it passed, its score, its blob."""

    passed: bool
    score: float | None = None
    blob: str = ""
    media_type: str = ""


@dataclass(slots=True)
class _Unit:
    """An asset: its pairs (control, arm), and of each measure what both sides come to."""

    asset: Asset
    pairs: list[tuple[_Side, _Side]] = field(default_factory=list)
    values: dict[str, tuple[float, float]] = field(default_factory=dict)


def compare_arms(job: Job, reviews: Mapping[str, ReviewState]) -> list[dict[str, Any]]:
    """Each arm beside the control, as plain JSON values; empty where the config has no experiment.

    An arm gives `experiment`, `arm`, `assets` and `pairs` (how many were compared), `waiting` (images that are still to
    be made), `level` (of the intervals), `measures`: by name `control` and `arm` (means over assets), `difference` (an
    `Estimate`, or None where no asset has both) and `says` (a sentence), `examples` (pictures), and `verdict`.
    """
    if job.experiment is None:
        return []
    assets = drawn_assets(job)
    histories = job.index.history([a.id for a in assets])
    level = 1 - 0.05 / len(job.experiment.arms)
    return [
        {"experiment": job.experiment.name, **_compare(job, arm, assets, histories, reviews, level)}
        for arm in job.experiment.arms
    ]


def _compare(
    job: Job, arm: Arm, assets: Sequence[Asset], histories: Mapping[str, AssetHistory],
    reviews: Mapping[str, ReviewState], level: float,
) -> dict[str, Any]:  # fmt: skip
    units: list[_Unit] = []
    waiting = 0
    for asset in assets:
        try:
            unit, lacking = _unit_of(job, arm, asset, histories[asset.id])
        except InputError:
            continue  # the plan says what is wrong with it
        waiting += lacking
        if unit.pairs:
            _measure(unit, reviews.get(asset.id, NOTHING))
            units.append(unit)
    measures = {name: _sum_up(name, arm.name, units, level) for name in MEASURES}
    return {
        "arm": arm.name,
        "assets": len(units),
        "pairs": sum(len(u.pairs) for u in units),
        "waiting": waiting,
        "level": level,
        "measures": measures,
        "verdict": _say_all(arm.name, measures, bool(units), waiting),
        "examples": _examples(units),
    }


def _unit_of(job: Job, arm: Arm, asset: Asset, history: AssetHistory) -> tuple[_Unit, int]:
    """An asset's pairs, and how many of the arm's images are still to be made."""
    unit, lacking = _Unit(asset), 0
    count = asset.overrides.candidates or job.config.candidates
    refused = {g.subject for g in history.gates if g.stage == "candidate" and not g.passed}
    for pair in pairs_of(job, arm, asset):
        text = pair.control[1].rank_text
        scores = {
            s.request_key: s.value
            for s in history.scores.values()
            if s.judge == job.judge.key and s.rank_text == text and s.value is not None
        }
        keys = [_keys(job, *side, count) for side in (pair.control, pair.arm)]
        ours, theirs = ([_ended(key, history, scores, refused) for key in some] for some in keys)
        lacking += sum(side is None and key not in history.cuts for side, key in zip(theirs, keys[1], strict=True))
        unit.pairs += [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return unit, lacking


def _keys(job: Job, asset: Asset, prompt: Prompt, count: int) -> list[str]:
    request, seeds = requests_of(asset, prompt, job.recipes.base_of, job.config, range(count))
    return list(request_keys(request, seeds))


def _ended(
    key: str, history: AssetHistory, scores: Mapping[str, float], refused: set[str]
) -> _Side | None:  # fmt: skip
    """What came of a request; None where nothing came of it yet, or it was cut mid-way."""
    made = history.candidates.get(key)
    if made is not None:
        return _Side(key not in refused, scores.get(key), made.blob, made.media_type)
    failure = history.failures.get(key)
    return _Side(False) if failure is not None and failure.kind == "poison" else None


def _measure(unit: _Unit, review: ReviewState) -> None:
    pairs = unit.pairs
    unit.values["yield"] = _mean([float(a.passed) for a, _ in pairs]), _mean([float(b.passed) for _, b in pairs])
    scored = [(a.score, b.score) for a, b in pairs if a.passed and b.passed]
    both = [(a, b) for a, b in scored if a is not None and b is not None]
    if both:
        unit.values["score"] = _mean([a for a, _ in both]), _mean([b for _, b in both])
    best = [max((s.score for s in side if s.passed and s.score is not None), default=None) for side in _sides(pairs)]
    if best[0] is not None and best[1] is not None:
        unit.values["best"] = best[0], best[1]
    decided = [
        [s.blob in review.approved for s in side if s.blob in review.approved or s.blob in review.rejected]
        for side in _sides(pairs)
    ]
    if decided[0] and decided[1]:
        unit.values["approval"] = _mean([float(a) for a in decided[0]]), _mean([float(b) for b in decided[1]])


def _sides(pairs: Sequence[tuple[_Side, _Side]]) -> tuple[list[_Side], list[_Side]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- in words -----------------------------------------------------------------------------------------------


def _sum_up(name: str, arm: str, units: Sequence[_Unit], level: float) -> dict[str, Any]:
    values = [u.values[name] for u in units if name in u.values]
    if not values:
        why = "nobody has decided on both sides of an asset yet" if name == "approval" else "nothing to compare yet"
        return {"control": None, "arm": None, "difference": None, "leads": "", "says": f"{MEASURES[name]}: {why}."}
    differences = [b - a for a, b in values]
    estimate = mean(differences, level=level)
    if max(differences) - min(differences) < 1e-12:
        # All draws of equal numbers are equal: an interval would claim to know more than it does.
        estimate = Estimate(estimate.value, None, None, estimate.count)
    leads = ""
    if estimate.low is not None and estimate.high is not None:
        leads = "arm" if estimate.low > 0 else "control" if estimate.high < 0 else ""
    control, other = _mean([a for a, _ in values]), _mean([b for _, b in values])
    return {
        "control": round(control, 6),
        "arm": round(other, 6),
        "difference": {k: round(v, 6) if isinstance(v, float) else v for k, v in estimate.as_dict().items()},
        "leads": leads,
        "says": _say(name, arm, control, other, estimate, leads, level),
    }


def _say(name: str, arm: str, control: float, other: float, estimate: Estimate, leads: str, level: float) -> str:
    """A measure in one sentence that claims no more than its interval does."""
    of = f"{estimate.count} asset" + ("" if estimate.count == 1 else "s")
    sides = f"{show(name, other)} with {arm}, {show(name, control)} without"
    if not estimate.known:
        if estimate.value == 0:
            return f"{MEASURES[name]}: the same on both sides, {show(name, control)}, on each of {of}."
        return f"{MEASURES[name]}: {sides}, {of}: too few, or too much alike, to tell from chance."
    span = f"{show_difference(name, estimate.value)}, {percent(level)} interval {show_span(name, estimate)}, {of}"
    if leads:
        return f"{MEASURES[name]}: {'higher' if leads == 'arm' else 'lower'} with {arm}, {sides} ({span})."
    return f"{MEASURES[name]}: no difference that stands out from chance, {sides} ({span})."


def _say_all(arm: str, measures: Mapping[str, Mapping[str, Any]], compared: bool, waiting: int) -> str:
    """What can be said of an arm, in one sentence."""
    if not compared:
        return f"Nothing of {arm} can be compared yet."
    ahead = [MEASURES[n] for n, m in measures.items() if m["leads"] == "arm"]
    behind = [MEASURES[n] for n, m in measures.items() if m["leads"] == "control"]
    if ahead and behind:
        said = f"{arm} is ahead in {_listed(ahead)}, and behind in {_listed(behind)}."
    elif ahead:
        said = f"{arm} is ahead in {_listed(ahead)}; nothing speaks against it."
    elif behind:
        said = f"{arm} is behind in {_listed(behind)}; nothing speaks for it."
    else:
        said = f"{arm} differs from the config in nothing that stands out from chance."
    return said + (f" {waiting:,} of its images are still to be made." if waiting else "")


def show(name: str, value: float) -> str:
    return f"{value:.0%}".replace("%", " %") if name in _SHARES else f"{value:.3f}"


def show_difference(name: str, value: float) -> str:
    return f"{value * 100:+.1f} points" if name in _SHARES else f"{value:+.4f}"


def show_span(name: str, estimate: Estimate) -> str:
    low, high = estimate.low or 0.0, estimate.high or 0.0
    return f"{low * 100:+.1f} to {high * 100:+.1f}" if name in _SHARES else f"{low:+.4f} to {high:+.4f}"


def percent(level: float) -> str:
    return f"{level * 100:.4g} %"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# --- pictures -----------------------------------------------------------------------------------------------


def _examples(units: Sequence[_Unit]) -> list[dict[str, Any]]:
    """The assets on which the best pictures of the two sides lie farthest apart, one side first, then the other."""
    scored = sorted((u for u in units if "best" in u.values), key=lambda u: u.values["best"][1] - u.values["best"][0])
    half = NUM_EXAMPLES // 2
    some = scored if len(scored) <= NUM_EXAMPLES else [*scored[-half:], *scored[:half]]
    found = []
    for unit in sorted(some, key=lambda u: u.values["best"][0] - u.values["best"][1]):
        control, arm = (_best(side) for side in _sides(unit.pairs))
        found.append({"id": unit.asset.id, "control": _as_json(control), "arm": _as_json(arm)})
    return found


def _best(side: Sequence[_Side]) -> _Side:
    return max((s for s in side if s.passed and s.score is not None), key=lambda s: (s.score or 0.0, s.blob))


def _as_json(side: _Side) -> dict[str, Any]:
    return {"blob": side.blob, "media_type": side.media_type, "score": round(side.score or 0.0, 5)}
