"""How far pictures made again have drifted from earlier ones: paired differences over assets, with intervals.

All candidates of an asset share its prompt, so assets are what is drawn, never candidates: an asset counts once, with
the mean over its pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

LEVEL = 0.95
"""Share of intervals that hold the true mean."""

RESAMPLES = 2000

_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing measured before and after. `change` is new - old, the mean over `num_assets`, in the same unit.

    `low` and `high` bound it at LEVEL; both None where fewer than two assets could be compared. `limit` is how far it
    may fall (None: it is only reported), `beyond` whether it fell further.
    """

    name: str
    old: float
    new: float
    change: float
    low: float | None
    high: float | None
    num_assets: int
    limit: float | None = None
    beyond: bool = False


def measure(name: str, pairs: Mapping[str, Sequence[tuple[float, float]]], *, seed: int) -> Measure | None:
    """The drift of pairs (old, new), given by asset; None where there are none. The same seed gives the same bounds."""
    means = [np.mean(np.asarray(some, np.float64), axis=0) for some in pairs.values() if len(some)]
    if not means:
        return None
    old, new = np.stack(means).T
    change = new - old
    low, high = mean_interval(change, seed=seed) or (None, None)
    return Measure(name, float(old.mean()), float(new.mean()), float(change.mean()), low, high, len(change))


def hold_against(found: Measure, limit: float | None, *, strict: bool = False) -> Measure:
    """The measure held against a limit on its fall; only falls count.

    What is looked at is the mean or, when `strict`, the lower end of its interval, so that drift is ruled out and not
    only unproven. Without an interval (one asset) a strict limit counts as passed by.
    """
    worst = found.low if strict else found.change
    beyond = limit is not None and (worst is None or -worst > limit + _SLACK)
    return replace(found, limit=limit, beyond=beyond)


def mean_interval(values: np.ndarray, *, seed: int) -> tuple[float, float] | None:
    """Bounds of the mean of float (N,) values at LEVEL, None for fewer than two.

    The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13); the same
    values and seed give the same bounds.
    """
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosines between the rows of two float (N, D) arrays: float64 (N,), NaN where a row has no direction."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    out = np.full(len(one), np.nan)
    usable = np.isfinite(lengths) & (lengths > 0)
    out[usable] = (one[usable] * other[usable]).sum(axis=1) / lengths[usable]
    return out
