"""The seam of a picture: what is compared, what passes and what the gate says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.curate.seam import check_seam, measure_seam


def waves(periods: float, size: int = 48) -> np.ndarray:
    """A smooth pattern along both axes; it tiles where `periods` is whole."""
    x = np.linspace(0, 2 * np.pi * periods, size, endpoint=False)
    grid = np.sin(x)[None, :] + np.cos(x)[:, None]
    return np.repeat(np.round(127 + 60 * grid)[..., None], 3, axis=-1).astype(np.uint8)


def test_whole_periods_tile_and_others_do_not() -> None:
    """A wave that ends where it began passes along both axes, one cut off mid-way fails and is described."""
    assert check_seam(waves(3), "xy", 1.25).passed
    verdict = check_seam(waves(2.25), "xy", 1.25)
    assert (verdict.gate, verdict.passed) == ("seam", False)
    assert verdict.value is not None
    assert verdict.value > 1.25
    assert "edge differ by" in verdict.reason


def test_only_the_asked_axis_counts() -> None:
    """A picture that runs from dark to light downwards tiles along x and not along y."""
    ramp = np.repeat(np.linspace(0, 250, 32).astype(np.uint8)[:, None, None], 32, axis=1).repeat(3, axis=2)
    assert check_seam(ramp, "x", 1.25).passed
    assert not check_seam(ramp, "y", 1.25).passed
    assert not check_seam(ramp, "xy", 1.25).passed
    assert check_seam(ramp.transpose(1, 0, 2), "y", 1.25).passed


@given(seed=st.integers(0, 2**16), shift=st.integers(1, 31))
def test_a_roll_keeps_a_tiling_picture_tiling(seed: int, shift: int) -> None:
    """Rolling a picture moves its seam inside: a hard one is then no longer at the edge, and the measure says so."""
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    noise[:, -1] = noise[:, 0] // 2 + 120
    seam = measure_seam(np.roll(noise, shift, axis=1), "x")
    lines = np.abs(np.diff(noise.astype(int), axis=1)).mean(axis=(0, 2))
    assert seam.edge == pytest.approx(lines[-shift] if shift <= len(lines) else 0)


def test_plain_ground_has_no_seam() -> None:
    """A motif on an even ground tiles, however hard its own edges are; a difference nobody sees is none."""
    picture = np.full((32, 32, 3), 250, np.uint8)
    picture[8:24, 8:24] = 10
    assert measure_seam(picture, "x").ratio == 0
    picture[:, -1] -= 1
    assert check_seam(picture, "x", 1.25).passed


def test_nothing_to_compare_is_an_error() -> None:
    """Axes other than x and y, and pictures without an inside, are refused."""
    with pytest.raises(ValueError, match="axis"):
        measure_seam(waves(1), "z")
    with pytest.raises(ValueError, match="no inside"):
        measure_seam(np.zeros((8, 2, 3), np.uint8), "x")
