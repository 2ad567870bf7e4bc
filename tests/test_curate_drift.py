"""Drift is the mean over assets of paired differences; its interval holds the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from assetmill.curate.drift import LEVEL, cosines, hold_against, mean_interval, measure


def test_assets_count_once_however_many_candidates_they_have() -> None:
    """One asset with many bad pairs doesn't outweigh another with one good one."""
    found = measure("score", {"a": [(0.5, 0.3)] * 9, "b": [(0.5, 0.6)], "empty": []}, seed=1)
    assert found is not None
    assert found.num_assets == 2
    assert found.change == pytest.approx((-0.2 + 0.1) / 2)
    assert found.old == pytest.approx(0.5)
    assert found.new == pytest.approx(0.45)


def test_nothing_to_compare_is_no_measure() -> None:
    """Without a pair there is no number, not a zero."""
    assert measure("score", {"a": []}, seed=1) is None


def test_equal_pictures_have_no_drift_and_an_interval_around_zero() -> None:
    """Where nothing changed, the interval is the point 0."""
    found = measure("score", {str(n): [(n / 9, n / 9)] for n in range(5)}, seed=3)
    assert found is not None
    assert (found.change, found.low, found.high) == (0, 0, 0)


def test_one_asset_has_no_interval() -> None:
    """One asset says nothing of the spread; a strict limit cannot be kept then."""
    found = measure("score", {"a": [(0.5, 0.6), (0.4, 0.6)]}, seed=1)
    assert found is not None
    assert found.low is None
    assert not hold_against(found, 0.02).beyond
    assert hold_against(found, 0.02, strict=True).beyond


def test_only_a_fall_is_beyond_a_limit() -> None:
    """Better scores are no reason to keep the old model; a fall of just the limit is not beyond it."""
    rose = measure("score", {"a": [(0.1, 0.9)], "b": [(0.1, 0.9)]}, seed=1)
    fell = measure("score", {"a": [(0.5, 0.4)], "b": [(0.5, 0.4)]}, seed=1)
    assert rose is not None
    assert fell is not None
    assert not hold_against(rose, 0).beyond
    assert not hold_against(fell, 0.1).beyond
    assert hold_against(fell, 0.09).beyond
    assert not hold_against(fell, None).beyond


def test_strict_limits_look_at_the_lower_end() -> None:
    """A mean within the limit that could as well be beyond it is beyond a strict one."""
    found = measure("yield", {str(n): [(1.0, float(n % 2 == 0))] for n in range(20)}, seed=1)
    assert found is not None
    assert found.low is not None
    assert found.low < -0.6 < found.change
    assert not hold_against(found, 0.6).beyond
    assert hold_against(found, 0.6, strict=True).beyond


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Over many draws of 40 assets the interval holds the true mean nearly as often as its level."""
    rng = np.random.default_rng(5)
    bounds = [mean_interval(rng.normal(0.1, 0.05, 40), seed=n) for n in range(200)]
    held = np.mean([b is not None and b[0] <= 0.1 <= b[1] for b in bounds])
    assert abs(held - LEVEL) < 0.05


def test_the_same_seed_gives_the_same_interval() -> None:
    """A rehearsal read again says what it said."""
    values = np.random.default_rng(1).random(12)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4) != mean_interval(values, seed=5)


def test_cosines_of_rows_without_direction_are_nan() -> None:
    """A picture that the judge sees nothing in is near to none."""
    found = cosines(np.array([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(2**-0.5)
