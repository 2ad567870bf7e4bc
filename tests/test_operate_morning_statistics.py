"""Figures with their uncertainty: intervals that hold as often as they say, and none where there is too little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.operate.morning.statistics import MIN_UNITS, difference, mean, share


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (7, 10, 0.39678, 0.89221), (50, 100, 0.40383, 0.59617)],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    """Shares have Wilson's interval, as tables of it say, also where none or all succeeded."""
    found = share(successes, trials)
    assert (found.value, found.count) == (successes / trials, trials)
    assert found.low == pytest.approx(low, abs=2e-5)
    assert found.high == pytest.approx(high, abs=2e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_lies_in_its_interval(counts: tuple[int, int]) -> None:
    """A share's interval holds it and stays within 0 and 1."""
    found = share(*counts)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_no_share_of_nothing() -> None:
    """Shares and means of nothing are errors, never a number."""
    for make in (lambda: share(0, 0), lambda: share(3, 2), lambda: mean([]), lambda: difference([1.0], [])):
        with pytest.raises(ValueError):
            make()


def test_few_values_have_no_interval() -> None:
    """With a handful of units there is a mean, and no claim about how sure it is."""
    few = mean([0.1] * (MIN_UNITS - 1))
    assert (few.known, few.count) == (False, MIN_UNITS - 1)
    assert not difference([1.0] * 50, [0.5] * 3).known
    assert mean([0.1, 0.2] * MIN_UNITS).known


def test_bootstrap_covers() -> None:
    """Intervals of means hold the true mean about as often as they say, and are the same each time."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        found = mean(list(rng.normal(0.3, 1.0, 40)))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    assert held >= 51
    values = list(rng.normal(0, 1, 30))
    assert mean(values) == mean(values)


def test_difference_tells_two_groups_apart() -> None:
    """A difference that is there is seen; none is seen between values of one kind."""
    rng = np.random.default_rng(2)
    a, b = list(rng.normal(0.5, 0.1, 60)), list(rng.normal(0.3, 0.1, 80))
    found = difference(a, b)
    assert found.low is not None
    assert found.low > 0
    assert found.count == 60
    same = difference(a[:30], a[30:])
    assert same.low is not None
    assert same.high is not None
    assert same.low < 0 < same.high
