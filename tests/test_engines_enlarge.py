"""Enlarging beside colour: transparency goes along, tileable pictures stay tileable, whatever the upscaler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import UpscaleConfig
from assetmill.engines.enlarge import enlarge, text_of, tileable_axes
from assetmill.engines.registry import load_upscaler, resolve_upscaler
from assetmill.records import Request


def load(**settings: Any) -> Any:
    config = UpscaleConfig(device="cpu", **settings)
    return load_upscaler(resolve_upscaler(config, Path), config)


class Noisy:
    """An upscaler that invents: every picture gets noise of its own, strongest at no edge in particular."""

    key, scale, generative = "noisy", 2, True

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        large = pixels.repeat(2, axis=1).repeat(2, axis=2).astype(int)
        rows = np.linspace(0, 120, large.shape[1])[None, :, None, None]  # a drift from top to bottom
        return (large + rows).clip(0, 255).astype(np.uint8)


def make_tile(size: int = 64) -> np.ndarray:
    """A smooth picture whose opposite edges meet."""
    y, x = np.meshgrid(*[np.arange(size) * 2 * np.pi / size] * 2, indexing="ij")
    channels = [np.sin(y + c) * np.cos(2 * x) * 60 + 128 for c in range(3)]
    return np.stack(channels, axis=-1)[None].round().astype(np.uint8)


def seam(large: np.ndarray, axis: int) -> tuple[float, float]:
    """Mean difference of the two edges that meet, and the largest of two neighbours inside."""
    values = np.moveaxis(large.astype(float), axis, 0)
    inside = np.abs(np.diff(values, axis=0)).mean(axis=tuple(range(1, values.ndim)))
    return float(np.abs(values[0] - values[-1]).mean()), float(inside.max())


@pytest.mark.parametrize("settings", [{}, {"engine": "lanczos", "scale": 4}, {"tile": 48}], ids=str)
def test_tileable_stays_tileable(settings: dict[str, Any]) -> None:
    """Opposite edges of an enlarged tile differ no more than neighbouring rows and columns inside it."""
    large = enlarge(load(**settings), make_tile(), tileable="xy")
    assert large.shape == (1, 256, 256, 3)
    for axis in (1, 2):
        edge, inside = seam(large, axis)
        assert edge <= inside * 1.1


def test_one_axis() -> None:
    """Along the axis that was not asked for, pictures are enlarged as ever."""
    tile, upscaler = make_tile(), Noisy()
    large = enlarge(upscaler, tile, tileable="x")
    assert large.shape == (1, 128, 128, 3)
    assert seam(large, 1)[0] > 40
    assert seam(enlarge(upscaler, tile, tileable="y"), 1)[0] < 4
    np.testing.assert_array_equal(large[:, :, :32], enlarge(upscaler, tile)[:, :, :32])


def test_requests_say_what_tiles() -> None:
    """The option that made a picture seamless is the one that keeps it so."""
    plain = Request("diffusers", 1, "m", "r", "moss", 0, 64, 64, 4, 3.0)
    assert tileable_axes(plain) == ""
    assert tileable_axes(replace(plain, options=(("seamless", True),))) == "xy"
    assert tileable_axes(replace(plain, options=(("seamless", "x"),))) == "x"


def test_upscalers_read_the_prompt_without_its_marks() -> None:
    """Weights of words are marks for the generator; where it reads none, brackets are text."""
    plain = Request("diffusers", 1, "m", "r", "a (red:1.3) mug", 0, 64, 64, 4, 3.0)
    assert text_of(plain) == "a (red:1.3) mug"
    assert text_of(replace(plain, options=(("weights", True),))) == "a red mug"


def test_even_what_drifts_is_closed() -> None:
    """An upscaler that treats top and bottom differently leaves a seam; with `tileable` there is none."""
    tile = make_tile()
    open_edge, inside = seam(enlarge(Noisy(), tile), 1)
    closed_edge, _ = seam(enlarge(Noisy(), tile, tileable="xy"), 1)
    assert open_edge > 40 > inside
    assert closed_edge < 4


def test_shifting_a_tile_commutes() -> None:
    """Enlarging a rolled tile gives the rolled result: the edge has context like the rest."""
    upscaler, tile = load(engine="lanczos", scale=2), make_tile()
    plain = enlarge(upscaler, tile, tileable="xy").astype(int)
    rolled = enlarge(upscaler, np.roll(tile, (16, 16), axis=(1, 2)), tileable="xy").astype(int)
    assert np.abs(np.roll(plain, (32, 32), axis=(1, 2)) - rolled).max() <= 1


def test_alpha_goes_along() -> None:
    """Colour is the same with and without alpha, opaque stays opaque, and hidden colours don't bleed into edges."""
    upscaler = load(engine="lanczos", scale=2)
    colour = np.full((1, 32, 32, 3), (200, 40, 40), np.uint8)
    alpha = np.zeros((1, 32, 32, 1), np.uint8)
    alpha[:, 8:24, 8:24] = 255
    colour[alpha[..., 0] == 0] = (0, 255, 0)  # what lies under full transparency is arbitrary
    large = enlarge(upscaler, np.concatenate([colour, alpha], axis=-1))
    assert large.shape == (1, 64, 64, 4)
    assert large[0, 32, 32, 3] == 255
    assert large[0, 2, 2, 3] == 0
    visible = large[large[..., 3] > 0]
    assert np.abs(visible[:, :3].astype(int) - (200, 40, 40)).max() <= 2
    opaque = np.concatenate([make_tile(32), np.full((1, 32, 32, 1), 255, np.uint8)], axis=-1)
    large = enlarge(upscaler, opaque)
    assert (large[..., 3] == 255).all()
    np.testing.assert_array_equal(large[..., :3], enlarge(upscaler, opaque[..., :3]))


def test_alpha_of_what_invents() -> None:
    """Where an upscaler invents detail, alpha is resized instead: a half stays a half."""
    picture = np.concatenate([make_tile(32), np.zeros((1, 32, 32, 1), np.uint8)], axis=-1)
    picture[:, :, 16:, 3] = 128
    alpha = enlarge(Noisy(), picture)[..., 3]
    assert alpha[0, 50, 50] == 128
    assert alpha[0, 50, 5] == 0


def test_shapes_that_are_no_pictures() -> None:
    """Grey, float and single pictures are refused."""
    for wrong in (np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            enlarge(load(engine="nearest"), wrong)
