"""The figures mean what they say, on made-up truths where the answer is known."""

from __future__ import annotations

import numpy as np

from assetmill.starter.evaluate import bootstrap_mean, measure_ranking
from assetmill.starter.judge import attributes_right


def test_a_perfect_ranker_captures_the_whole_gain() -> None:
    """Scores equal to the truth give a gain of 1; the opposite order gives a negative one."""
    counts = np.random.default_rng(0).integers(1, 6, size=(64, 8))
    assert measure_ranking(counts, counts.astype(float))["best_of_8_captured_gain"]["value"] == 1.0
    assert measure_ranking(counts, -counts.astype(float))["best_of_8_captured_gain"]["value"] < 0


def test_a_blind_ranker_captures_nothing() -> None:
    """Random scores give a gain near 0 whose interval holds 0, and an error ratio near 1."""
    rng = np.random.default_rng(1)
    figures = measure_ranking(rng.integers(1, 6, size=(400, 8)), rng.random((400, 8)))
    gain, errors = figures["best_of_8_captured_gain"], figures["best_of_8_error_ratio"]
    assert gain["low"] < 0 < gain["high"]
    assert abs(errors["value"] - 1) < 0.1
    assert gain["n"] == 400


def test_seeds_that_are_all_alike_leave_nothing_to_rank() -> None:
    """Where every seed is equally right the gain is 0, not a division by zero."""
    assert measure_ranking(np.full((8, 4), 5), np.zeros((8, 4)))["best_of_8_captured_gain"]["value"] == 0


def test_the_interval_holds_the_mean() -> None:
    """A bootstrap interval encloses the mean it belongs to."""
    values = np.random.default_rng(2).random(200)
    low, high = bootstrap_mean(values)
    assert low < values.mean() < high


def test_attributes_are_counted_by_name() -> None:
    """Counting right attributes can be limited to some of them."""
    read, asked = np.array([[0, 1, 2, 3, 0]]), np.array([[0, 1, 0, 3, 1]])
    assert attributes_right(read, asked).tolist() == [3]
    assert attributes_right(read, asked, ("object", "pattern")).tolist() == [1]
