"""The product lock: what comes back exactly, what is measured, what fails and what the heat map shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.curate.product_lock import (
    HELD,
    ChangeLimits,
    check_change,
    draw_heat,
    held_area,
    measure_change,
    put_back,
    soften,
)


def scene(seed: int = 0, size: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A made picture, an original, and a mask that keeps a square in the middle."""
    rng = np.random.default_rng(seed)
    made, original = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    keep = np.zeros((size, size), np.uint8)
    keep[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 255
    return made, original, keep


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), width=st.sampled_from([0.0, 1.0, 2.0, 3.5]))
def test_kept_pixels_come_back_exactly(seed: int, width: float) -> None:
    """Where the softened mask is 1 the original's pixels stand, where the mask is 0 the made ones, exactly."""
    made, original, keep = scene(seed)
    locked = put_back(made, original, keep, width=width)
    held = held_area(keep, width=width) == 255
    assert held.any()
    np.testing.assert_array_equal(locked[held], original[held])
    np.testing.assert_array_equal(locked[keep == 0], made[keep == 0])
    low, high = np.minimum(made, original), np.maximum(made, original)
    assert ((locked >= low) & (locked <= high)).all()
    assert check_change(measure_change(locked, original, held_area(keep, width=width)), HELD).passed


def test_softening_goes_inwards() -> None:
    """No weight appears outside the mask, weights rise to 1 inside, and the picture's own border is no edge."""
    keep = np.zeros((16, 16), np.uint8)
    keep[:, 6:] = 255
    weights = soften(keep, 2.0)
    assert not weights[:, :6].any()
    np.testing.assert_allclose(weights[0, 6:9], [1 / 3, 2 / 3, 1])
    assert (weights[:, 9:] == 1).all()
    assert (soften(np.full((8, 8), 255, np.uint8)) == 1).all()


def test_change_counts_inside_alone() -> None:
    """Differences outside the kept area change no figure; inside their mean, maximum and SSIM are those measured."""
    made, original, keep = scene()
    outside = np.where((keep == 255)[..., None], original, made)
    same = measure_change(outside, original, keep)
    assert (same.most, same.mean, same.num_pixels) == (0, 0, 256)
    assert same.ssim == pytest.approx(1)
    shifted = original.copy()
    shifted[10, 10] = original[10, 10] ^ 64
    change = measure_change(shifted, original, keep)
    assert change.most == 64
    assert change.mean == pytest.approx(64 / 256)
    assert change.ssim < 1


def test_a_changed_product_fails_with_reason_and_value() -> None:
    """Past a limit the verdict names which figure, its value and the limit; a wide limit passes the same picture."""
    made, original, keep = scene()
    change = measure_change(made, original, keep)
    verdict = check_change(change, ChangeLimits(most=255, mean=10, ssim=-1))
    assert not verdict.passed
    assert "mean difference" in verdict.reason
    assert "limit 10" in verdict.reason
    assert "SSIM" not in verdict.reason
    assert verdict.value == pytest.approx(change.mean, abs=1e-4)
    assert check_change(change, ChangeLimits(255, 255, -1)).passed
    assert "SSIM" in check_change(change, HELD).reason


def test_a_mask_without_product_fails() -> None:
    """A lock that keeps nothing has protected nothing, and says so."""
    made, original, keep = scene()
    verdict = check_change(measure_change(made, original, keep // 4), ChangeLimits(255, 255, -1))
    assert not verdict.passed
    assert "keeps no pixel" in verdict.reason


def test_heat_shows_where_it_changed() -> None:
    """Unchanged product is black, far-off pixels are white, the surroundings are grey."""
    _, original, keep = scene()
    made = original.copy()
    made[12, 12] = original[12, 12] ^ 128
    heat = draw_heat(made, original, keep)
    assert heat[12, 12].tolist() == [255, 255, 255]
    assert not heat[14, 14].any()
    assert heat[0, 0, 0] == heat[0, 0, 1] == heat[0, 0, 2] > 0
    assert (heat.dtype, heat.shape) == (np.uint8, original.shape)


def test_sizes_that_do_not_fit_are_refused() -> None:
    """A mask or original of another size is an error, never a quiet crop."""
    made, original, keep = scene()
    with pytest.raises(ValueError, match="do not fit"):
        measure_change(made, original, keep[:-1])
    with pytest.raises(ValueError, match="original"):
        put_back(made, original[..., :1], keep)
