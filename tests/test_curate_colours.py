"""Palettes: a shift of all colours by ΔE is a distance of ΔE, whatever the picture's size, and places don't matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab

from assetmill.curate.colours import palette_distances, palette_of


def plain(*rgb: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.full((size, size, channels), (*rgb, 255)[:channels], np.uint8)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(palette_of(one) - palette_of(other)))


@given(st.tuples(*[st.integers(0, 255)] * 3), st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=30, deadline=None)
def test_plain_colours_are_their_difference_apart(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    expected = np.linalg.norm(rgb2lab(np.array([[one]], np.uint8)) - rgb2lab(np.array([[other]], np.uint8)))
    assert apart(plain(*one), plain(*other)) == pytest.approx(float(expected), abs=1e-3)


def test_neither_places_nor_size_matter() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    turned = picture[::-1, ::-1]
    assert apart(picture, turned) == pytest.approx(0, abs=1e-5)
    assert apart(picture, np.repeat(np.repeat(picture, 2, 0), 2, 1)) < 1.5


def test_how_much_there_is_of_a_colour_matters() -> None:
    red, blue = plain(200, 30, 30, size=16), plain(30, 30, 200, size=16)
    quarter, half = red.copy(), red.copy()
    quarter[:4], half[:8] = blue[:4], blue[:8]
    assert 0 < apart(red, quarter) < apart(red, half) < apart(red, blue)


def test_what_is_transparent_does_not_count() -> None:
    picture = plain(200, 30, 30, size=16, channels=4)
    picture[:8] = (30, 30, 200, 0)
    assert apart(picture, plain(200, 30, 30)) == pytest.approx(0, abs=1e-5)
    assert np.isfinite(palette_of(np.zeros((4, 4, 4), np.uint8))).all()


def test_distances_are_those_of_pairs() -> None:
    rng = np.random.default_rng(2)
    palettes = np.stack([palette_of(rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)) for _ in range(4)])
    found = palette_distances(palettes)
    for i in range(4):
        for j in range(4):
            assert found[i, j] == pytest.approx(np.linalg.norm(palettes[i] - palettes[j]), abs=1e-4)
    assert (found == found.T).all()
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a palette needs uint8"):
        palette_of(bad)
