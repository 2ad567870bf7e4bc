"""The ground's colour is found from a picture's border, flat or soft, and objects at the border don't pull it along."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.deliver.ground import Ground, estimate_ground, to_lab


def estimate(pixels: np.ndarray, tolerance: float = 2.0) -> Ground:
    return estimate_ground(pixels, to_lab(pixels), tolerance)


def ramp(low: float, high: float, size: int = 64) -> np.ndarray:
    """Grey from `low` at the top to `high` at the bottom."""
    rows = np.linspace(low, high, size)[:, None, None]
    return np.broadcast_to(np.rint(rows), (size, size, 3)).astype(np.uint8)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_a_flat_ground_is_its_colour(colour: tuple[int, int, int]) -> None:
    """A picture of one colour has that colour as its ground, everywhere, and nothing is off it."""
    ground = estimate(np.full((24, 32, 3), colour, np.uint8))
    assert (ground.colour, ground.degree, ground.share) == (colour, 0, 1.0)
    assert ground.distance(to_lab(np.full((24, 32, 3), colour, np.uint8))).max() < 0.1


def test_a_gradient_is_followed() -> None:
    """A soft gradient is one ground: all of it lies within reach, and its colour is known at every pixel."""
    pixels = ramp(120, 230)
    ground = estimate(pixels)
    assert ground.degree == 1
    assert ground.distance(to_lab(pixels)).max() < ground.reach
    found = ground.at(np.array([0, 32, 63]), np.array([5, 5, 5]), (64, 64))
    assert np.abs(found - pixels[[0, 32, 63], 5]).max() < 2


def test_a_vignette_is_followed() -> None:
    """A ground that darkens towards the corners is one ground too."""
    axis = np.linspace(-1, 1, 96)
    pixels = np.rint(220 - 30 * (axis[:, None] ** 2 + axis[None, :] ** 2))[..., None].repeat(3, 2).astype(np.uint8)
    ground = estimate(pixels)
    assert ground.degree == 2
    assert ground.distance(to_lab(pixels)).max() < ground.reach


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_an_object_at_the_border_does_not_pull(share: float) -> None:
    """An object that covers up to a third of the border leaves the ground's colour alone, and shows in its share."""
    pixels = ramp(120, 200)
    pixels[:, : round(share * 64)] = (200, 30, 30)
    ground = estimate(pixels)
    assert np.abs(ground.at(np.array([5, 60]), np.array([60, 60]), (64, 64)) - pixels[[5, 60], 60]).max() < 3
    assert ground.share < 1 - 0.5 * share


def test_noise_widens_the_reach() -> None:
    """On a noisy ground more counts as ground, up to twice the tolerance."""
    rng = np.random.default_rng(1)
    quiet = np.full((64, 64, 3), 180, np.uint8)
    noisy = np.clip(quiet + rng.normal(0, 4, quiet.shape), 0, 255).astype(np.uint8)
    wild = rng.integers(0, 256, quiet.shape).astype(np.uint8)
    assert estimate(quiet).reach == 2.0
    assert 2.0 < estimate(noisy).reach <= 4.0
    assert (estimate(noisy).share > 0.95, estimate(wild).share < 0.1, estimate(wild).reach) == (True, True, 4.0)


def test_lab_values() -> None:
    """OKLab of sRGB's corners is what its author's page says."""
    lab = to_lab(np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8))[0]
    assert np.allclose(lab, [[100, 0, 0], [0, 0, 0], [62.8, 22.49, 12.58]], atol=0.02)
