"""Reference pictures are scaled to cover a request's size and cropped at the centre, by one rule for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.engines.framing import compose, frame
from assetmill.engines.protocols import EngineError


def test_the_right_size_is_left_alone() -> None:
    """A picture of the asked size keeps every pixel."""
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(frame(picture, 40, 24)), picture)
    np.testing.assert_array_equal(np.asarray(frame(picture[..., 0], 40, 24)), picture[..., 0])


@given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 6), st.integers(1, 6))
def test_covers_and_crops_at_the_centre(width: int, height: int, across: int, down: int) -> None:
    """Whatever the sizes, the result has the asked one, shows the centre, and a mask stays within 0 to 255 untinted."""
    y, x = np.mgrid[0:height, 0:width]
    mask = np.uint8(255 * (x >= width / 2))
    picture = np.stack([np.uint8(255 * x / width), np.uint8(255 * y / height), np.zeros_like(mask)], -1)
    made = frame(picture, 8 * across, 8 * down)
    assert (made.size, made.mode) == ((8 * across, 8 * down), "RGB")
    array = np.asarray(made).astype(float)
    assert abs(array[..., 0].mean() - picture[..., 0].mean()) < 12
    assert abs(array[..., 1].mean() - picture[..., 1].mean()) < 12
    marked = np.asarray(frame(mask, 8 * across, 8 * down))
    assert marked.shape == (8 * down, 8 * across)
    assert (marked[:, 0] < 128).all()
    assert (marked[:, -1] > 127).all()


def test_other_shapes_are_refused() -> None:
    """Pictures with transparency, floats and stacks are refused by shape and type."""
    for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((1, 4, 4, 3), np.uint8)):
        with pytest.raises(EngineError, match="uint8"):
            frame(wrong, 8, 8)


def test_compose() -> None:
    """A composed picture is the made one inside the mask, the kept one outside, and mixed at soft edges."""
    made, kept = np.full((1, 3, 1, 3), 0.8), np.full((1, 3, 1, 3), 0.2)
    masks = np.array([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(compose(made, kept, masks)[0, 0, 0], [0.2, 0.5, 0.8])
