"""Adaptive best-of-N: where the next seeds of a shared budget do most good. Pure functions over scores.

Each asset's scores are taken as draws from a normal distribution of its own mean and a spread that assets share in
part. A further seed is worth the rise it is expected to bring to the asset's best score (expected improvement, Mockus
1974; Jones, Schonlau & Welch 1998, for several draws at once), counted up to an aspiration: the best score that half of
the assets have reached. So good assets get no more, poor ones with a chance to catch up get most; a seed counts more
still where it may lift its asset over the floor.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

_PRIOR_DRAWS = 2.0
"""How many draws the spread that all assets share counts for, beside an asset's own."""

_FLOOR_WORTH = 2.0
"""What lifting an asset over the floor is worth, in spreads of one asset's scores."""

_BEYOND = 1e-3
"""What a rise above the aspiration counts for, beside one below it: where nothing else is left to do."""

_POINTS = 48


def allocate(
    scores: Sequence[Sequence[float]],
    num_seeds: int,
    *,
    keep: int = 1,
    floor: float | None = None,
    room: Sequence[int] | None = None,
) -> list[int]:
    """How many of `num_seeds` further seeds each asset gets.

    `scores` are those of the candidates that passed every gate, per asset, higher is better. Assets with fewer than
    `keep` of them come first, one seed each in turn; the rest goes, seed by seed, to where it is worth most. `room` is
    the most an asset can take (None: no limit). Fewer seeds are given out only when there is no more room.
    """
    left = [num_seeds] * len(scores) if room is None else list(room)
    given = [0] * len(scores)
    remaining = num_seeds
    short = [i for i, own in enumerate(scores) if len(own) < keep and left[i] > 0]
    while short and remaining:
        for i in list(short):
            if not remaining:
                break
            given[i] += 1
            left[i] -= 1
            remaining -= 1
            if left[i] <= 0 or len(scores[i]) + given[i] >= keep:
                short.remove(i)
    means, spreads = fit(scores)
    shared = float(np.median(spreads)) if len(spreads) else 0.0
    reached = [sorted(own, reverse=True)[keep - 1] for own in scores if len(own) >= keep]
    aspiration = float(np.median(reached)) if reached else math.inf

    def worth(i: int) -> float:
        return _worth(scores[i], means[i], spreads[i], shared, keep, aspiration, floor, given[i])

    heap: list[tuple[float, int]] = []
    for i in range(len(scores)):
        if left[i] > 0:
            heap.append((-worth(i), i))
    heapq.heapify(heap)
    while heap and remaining:
        _, i = heapq.heappop(heap)
        given[i] += 1
        left[i] -= 1
        remaining -= 1
        if left[i] > 0:
            heapq.heappush(heap, (-worth(i), i))
    return given


def fit(scores: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and predictive spread (standard deviation) of each asset's scores, float64 (N,).

    Variances are shrunk towards the pooled one, which counts for two draws; an asset without scores gets the mean of
    all. The spread covers the uncertainty of the mean: s² (1 + 1/n).
    """
    counts = np.array([len(own) for own in scores], np.float64)
    everything = [value for own in scores for value in own]
    overall = float(np.mean(everything)) if everything else 0.0
    means = np.array([np.mean(own) if len(own) else overall for own in scores])
    squares = np.array([np.sum((np.asarray(own) - mean) ** 2) for own, mean in zip(scores, means, strict=True)])
    degrees = np.maximum(counts - 1, 0)
    pooled = squares.sum() / degrees.sum() if degrees.sum() else float(np.var(everything)) if everything else 0.0
    variances = (_PRIOR_DRAWS * pooled + squares) / (_PRIOR_DRAWS + degrees)
    return means, np.sqrt(variances * (1 + 1 / np.maximum(counts, 1)))


def expected_rise(best: float, mean: float, spread: float, num_draws: int, limit: float = math.inf) -> float:
    """E[max(0, min(limit, max of `num_draws` normal draws) - best)], in the unit of the scores.

    The integral of 1 - Φ((x - mean) / spread)^n over x from `best` to `limit`, by the midpoint rule.
    """
    if num_draws < 1 or limit <= best:
        return 0.0
    if spread <= 0:
        return max(0.0, min(limit, mean) - best)
    start = max(best, mean - 8 * spread)
    end = min(limit, max(best, mean) + 6 * spread)
    if end <= start:
        return end - best
    step = (end - start) / _POINTS
    points = start + step * (np.arange(_POINTS) + 0.5)
    return float(np.sum(1 - _below(points, mean, spread) ** num_draws) * step + (start - best))


def _worth(
    own: Sequence[float],
    mean: float,
    spread: float,
    shared: float,
    keep: int,
    aspiration: float,
    floor: float | None,
    given: int,
) -> float:
    """What one more seed is worth, after `given` that are on their way."""
    ranked = sorted(own, reverse=True)
    best = ranked[keep - 1] if len(ranked) >= keep else mean

    def marginal(limit: float) -> float:
        more = expected_rise(best, mean, spread, given + 1, limit)
        return more - expected_rise(best, mean, spread, given, limit)

    worth = marginal(aspiration) + _BEYOND * marginal(math.inf)
    if floor is not None and best < floor and spread > 0:
        below = float(_below(np.array([floor]), mean, spread)[0])
        worth += _FLOOR_WORTH * shared * below**given * (1 - below)
    return worth


def _below(points: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """Φ((x - mean) / spread)."""
    return np.array([0.5 * math.erfc(-(x - mean) / (spread * math.sqrt(2))) for x in points])
