"""Figures with their uncertainty: shares by Wilson's interval, means and differences by a seeded bootstrap.

Intervals are of 95 % unless `level` says otherwise. A bootstrap draws whole units (assets, say) with replacement and
takes percentiles of the statistic (Efron and Tibshirani 1993, chapter 13); its seed is fixed, so that a report made
again says the same. Below MIN_UNITS units it knows too little of the tails, and no interval is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MIN_UNITS = 6
"""Units from which a bootstrap gives an interval: with fewer, percentiles are those of a handful of numbers."""

_RESAMPLES = 2000
_SEED = 20_000
_AT_ONCE = 4_000_000
"""Numbers drawn at a time: bounds memory for large nights."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its interval (None where there is too little to say) and how many units it rests on."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def known(self) -> bool:
        return self.low is not None and self.high is not None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def share(successes: int, trials: int, *, level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927). ValueError without trials."""
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} of {trials} is no share")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / trials
    scale = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    reach = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / scale
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == trials else centre + reach
    return Estimate(rate, low, high, trials)


def mean(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """The mean of values, one per unit. ValueError without values."""
    import numpy as np

    data = np.asarray(values, np.float64)
    if not len(data):
        raise ValueError("no values have no mean")
    low, high = _interval(_resampled(data), level) if len(data) >= MIN_UNITS else (None, None)
    return Estimate(float(data.mean()), low, high, len(data))


def difference(new: Sequence[float], old: Sequence[float], *, level: float = 0.95) -> Estimate:
    """The difference of two means over different units, new minus old; its count is that of the fewer units."""
    import numpy as np

    a, b = np.asarray(new, np.float64), np.asarray(old, np.float64)
    if not len(a) or not len(b):
        raise ValueError("no values have no mean")
    fewer = min(len(a), len(b))
    low, high = _interval(_resampled(a, 1) - _resampled(b, 2), level) if fewer >= MIN_UNITS else (None, None)
    return Estimate(float(a.mean() - b.mean()), low, high, fewer)


def _resampled(data: np.ndarray, stream: int = 0) -> np.ndarray:
    """Means of resamples, float64 (_RESAMPLES,)."""
    import numpy as np

    rng = np.random.default_rng([_SEED, stream])
    step = max(1, _AT_ONCE // len(data))
    parts = [
        data[rng.integers(0, len(data), (min(step, _RESAMPLES - start), len(data)))].mean(axis=1)
        for start in range(0, _RESAMPLES, step)
    ]
    return np.concatenate(parts)


def _interval(means: np.ndarray, level: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
