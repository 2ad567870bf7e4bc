"""Sharing out seeds: to assets without enough candidates first, then to where a better one is likely."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.curate.adaptive import allocate, expected_rise, fit

SCORES = st.lists(st.lists(st.floats(-1, 1, width=32), max_size=6), min_size=1, max_size=8)


@given(SCORES, st.integers(0, 40), st.integers(1, 3))
def test_all_seeds_are_given_and_none_beyond_the_room(scores: list[list[float]], num_seeds: int, keep: int) -> None:
    """The shares add up to the seeds, or to the room where that is less; no asset gets more than its room."""
    room = [(i * 7) % 5 for i in range(len(scores))]
    given_out = allocate(scores, num_seeds, keep=keep, room=room)
    assert sum(given_out) == min(num_seeds, sum(room))
    assert all(0 <= share <= most for share, most in zip(given_out, room, strict=True))
    assert sum(allocate(scores, num_seeds, keep=keep)) == num_seeds


def test_assets_without_enough_candidates_come_first() -> None:
    """While an asset has fewer than `keep` candidates, no other gets a seed."""
    assert allocate([[0.3, 0.2], [], [0.1]], 3, keep=2) == [0, 2, 1]
    assert allocate([[0.3, 0.2], [], [0.1]], 2, keep=2) == [0, 1, 1]


def test_poor_assets_get_more() -> None:
    """The asset with one lucky candidate gets no more seeds; of the others those that can still catch up do."""
    lucky = [0.2, 0.21, 0.19, 0.6]
    unlucky = [0.2, 0.21, 0.19, 0.22]
    wide = [0.0, 0.4, 0.1, 0.3]
    shares = allocate([lucky, unlucky, wide], 12)
    assert shares[0] == 0
    assert shares[1] > 0


def test_beyond_the_aspiration_seeds_still_go_somewhere() -> None:
    """Where every asset but one has reached what half of them have, no seed is kept back."""
    assert sum(allocate([[0.5, 0.5], [0.5, 0.4], [0.5, 0.3]], 6)) == 6


def test_below_the_floor_counts_more() -> None:
    """Of assets that are nearly alike, the one just below the floor gets more seeds than without a floor."""
    low, same, high = [0.10, 0.14, 0.12, 0.08], [0.105, 0.145, 0.125, 0.085], [0.50, 0.54, 0.52, 0.48]
    plain = allocate([low, same, high, high], 9)
    floored = allocate([low, same, high, high], 9, floor=0.142)
    assert floored[0] > plain[0]
    assert floored[0] > floored[1]


@pytest.mark.parametrize(("best", "draws"), [(0.0, 1), (1.0, 1), (0.5, 4), (-2.0, 3), (2.5, 8)])
def test_expected_rise_is_that_of_simulated_draws(best: float, draws: int) -> None:
    """The integral agrees with the mean over two hundred thousand simulated rounds within 1e-2."""
    rng = np.random.default_rng(3)
    simulated = np.maximum(rng.normal(0.0, 1.0, (200_000, draws)).max(axis=1) - best, 0).mean()
    assert expected_rise(best, 0.0, 1.0, draws) == pytest.approx(simulated, abs=1e-2)


def test_a_limit_caps_the_rise() -> None:
    """No rise is counted beyond the limit, and all of it with a limit far away."""
    assert expected_rise(0.0, 1.0, 1.0, 2, 0.1) <= 0.1
    assert expected_rise(0.0, 0.0, 1.0, 3, 50.0) == pytest.approx(expected_rise(0.0, 0.0, 1.0, 3), abs=1e-6)
    assert expected_rise(0.5, 0.0, 1.0, 3, 0.4) == 0.0


def test_one_draw_has_a_closed_form() -> None:
    """One draw is worth s φ(z) + (m - b) Φ(z), z = (m - b) / s."""
    for best in (-1.0, 0.2, 1.5):
        z = -best
        closed = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) + z * 0.5 * math.erfc(-z / math.sqrt(2))
        assert expected_rise(best, 0.0, 1.0, 1) == pytest.approx(closed, abs=2e-3)


def test_spreads_are_shared_in_part() -> None:
    """An asset of two equal scores is not taken for one that never varies."""
    means, spreads = fit([[0.1, 0.1], [0.0, 0.4], [0.2, 0.6], []])
    assert means[3] == pytest.approx(np.mean([0.1, 0.1, 0.0, 0.4, 0.2, 0.6]))
    assert spreads[0] > 0.05
    assert fit([])[0].size == 0
