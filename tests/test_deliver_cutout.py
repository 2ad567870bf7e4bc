"""Cut-outs: the ground goes, the object stays, edges are soft and keep nothing of the ground's colour."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from assetmill.curate.cutout_gates import measure_fringe
from assetmill.deliver.cutout import Cutout, apply_alpha, bleed, cut_out
from assetmill.starter.renderer import draw, sample_spec

RED = (200, 40, 40)


def disc(
    size: int = 64, radius: float = 20.0, hole: float = 0.0, centre: tuple[float, float] | None = None
) -> np.ndarray:
    """The alpha of a disc with antialiased edges, float (size, size), with a round hole of radius `hole`."""
    big = (np.arange(size * 4) + 0.5) / 4
    x, y = centre or (size / 2, size / 2)
    away = np.hypot(big[None, :] - x, big[:, None] - y)
    inside = (away < radius) & (away >= hole)
    return inside.reshape(size, 4, size, 4).mean(axis=(1, 3))


def compose(alpha: np.ndarray, colour: tuple[int, int, int], ground: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """uint8 picture of a colour with an alpha over a ground."""
    part = alpha[..., None]
    return np.rint(np.array(colour) * part + np.broadcast_to(ground, (*alpha.shape, 3)) * (1 - part)).astype(np.uint8)


def agreement(cutout: Cutout, alpha: np.ndarray) -> float:
    """Soft IoU: the smaller of both alphas over the larger, summed over the picture."""
    found = cutout.rgba[..., 3] / 255
    return float(np.minimum(found, alpha).sum() / np.maximum(found, alpha).sum())


@pytest.mark.parametrize("ground", [(255, 255, 255), (58, 61, 70), (40, 200, 60), (0, 0, 0)])
def test_a_disc_is_cut_out(ground: tuple[int, int, int]) -> None:
    """A disc on any plain ground is found with its soft edge, and its colour holds nothing of the ground."""
    alpha = disc()
    cutout = cut_out(compose(alpha, RED, ground))
    assert agreement(cutout, alpha) > 0.99
    assert cutout.coverage == pytest.approx(alpha.mean(), abs=0.003)
    visible = cutout.rgba[cutout.rgba[..., 3] > 0][:, :3].astype(int)
    assert np.abs(visible - RED).max() <= 12
    assert cutout.ground is not None
    assert cutout.ground.colour == ground


def test_laid_back_on_its_ground_it_is_the_picture() -> None:
    """Over the ground that was taken off, a cut-out gives the picture back."""
    picture, _ = draw(sample_spec("cutout-test", 3), 256)
    cutout = cut_out(picture)
    assert cutout.ground is not None
    rows, columns = np.indices(picture.shape[:2]).reshape(2, -1)
    ground = cutout.ground.at(rows, columns, picture.shape[:2]).reshape(picture.shape)
    part = cutout.rgba[..., 3:] / 255
    again = cutout.rgba[..., :3] * part + ground * (1 - part)
    assert np.abs(again - picture).mean() < 0.5


def test_a_gradient_goes_too() -> None:
    """A soft gradient is taken off like a flat ground."""
    ground = np.linspace([232, 238, 248], [92, 108, 146], 96)[:, None]
    alpha = disc(96, 30)
    assert agreement(cut_out(compose(alpha, RED, ground)), alpha) > 0.98


def test_holes_open_and_highlights_stay() -> None:
    """The hole of a ring is cut out; a highlight that fades into the object is not, though as pale as the ground."""
    ring = disc(96, 36, hole=14)
    picture = compose(ring, RED, (255, 255, 255))
    assert agreement(cut_out(picture), ring) > 0.98
    assert agreement(cut_out(picture, holes=False), disc(96, 36)) > 0.98
    full = disc(96, 36)
    shine = np.exp(-((np.arange(96)[:, None] - 40) ** 2 + (np.arange(96)[None, :] - 44) ** 2) / 60)[..., None]
    shiny = np.rint(np.array(RED) * (1 - shine) + 255 * shine)
    picture = np.rint(shiny * full[..., None] + 255 * (1 - full[..., None])).astype(np.uint8)
    assert agreement(cut_out(picture), full) > 0.98


def test_pixel_art_keeps_hard_edges() -> None:
    """A picture of blocks is cut along its blocks: alpha is 0 or 255, colours are untouched."""
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[16:48, 16:48] = (30, 90, 200)
    picture[16:32, 16:32] = (250, 200, 60)
    cutout = cut_out(picture)
    assert cutout.edge == 0
    assert np.array_equal(cutout.rgba[..., 3] == 255, (picture != 255).any(-1))
    assert np.array_equal(cutout.rgba[16:48, 16:48, :3], picture[16:48, 16:48])


def test_dirt_is_swept_away() -> None:
    """A speck on the ground is not part of the object."""
    alpha = disc(128, 40)
    picture = compose(alpha, RED, (255, 255, 255))
    picture[3, 3] = 0
    assert cut_out(picture).rgba[3, 3, 3] == 0


def stained(seed: int) -> np.ndarray:
    """A disc of 64 x 64 on white that is stained round it, as soft generators leave it, scaled up to 256 x 256."""
    away = np.hypot(*(np.indices((64, 64)) - 31.5))
    blotches = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8))
    fading = np.where(away > 18.5, np.clip((25 - away) / 6, 0, 1), 0)
    stains = 26 * fading * np.asarray(blotches.resize((64, 64), Image.Resampling.BICUBIC)) / 255
    small = np.clip(compose(disc(64, 18.0), RED, (255, 255, 255)) - stains[..., None], 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC))


def test_stains_of_soft_pictures_go() -> None:
    """What a generator and an upscaler leave beside an object goes with the ground, in steps as it is."""
    found = [agreement(cut_out(stained(seed)), disc(256, 72.0)) for seed in range(8)]
    assert np.mean(found) > 0.95
    assert min(found) > 0.93


@pytest.mark.parametrize("scaling", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_blurred_edges_get_soft_alphas(scaling: Image.Resampling) -> None:
    """An edge that fades over many pixels, in steps or without, keeps nothing of the ground's colour."""
    sharp = Image.fromarray(np.rint(disc(64, 18.0) * 255).astype(np.uint8))
    alpha = np.asarray(sharp.filter(ImageFilter.GaussianBlur(1.5))) / 255
    small = Image.fromarray(compose(alpha, (150, 75, 30), (58, 61, 70)))
    picture = np.asarray(small.resize((256, 256), scaling))
    cutout = cut_out(picture)
    assert cutout.edge >= 2
    assert measure_fringe(picture, cutout.rgba) < 0.1


def test_thin_lines_survive() -> None:
    """A line two pixels wide, which has no inside, is kept."""
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[10:54, 31:33] = (20, 20, 20)
    alpha = cut_out(picture).rgba[..., 3]
    assert alpha[10:54, 31:33].min() > 200
    assert alpha[:, :29].max() == 0


def test_starter_renders() -> None:
    """On renders whose true mask is known, every soft IoU is above 0.95 and their mean above 0.995."""
    found = []
    for index in range(12):
        picture, mask = draw(sample_spec("cutout-test", index), 256)
        found.append(agreement(cut_out(picture), mask / 255))
    assert min(found) > 0.95
    assert np.mean(found) > 0.995


@settings(max_examples=25, deadline=None)
@given(
    st.integers(8, 40), st.integers(8, 40), st.integers(0, 2**32 - 1),
    st.sampled_from(["flat", "noise", "blocks"]),
)  # fmt: skip
def test_any_picture_gives_a_cutout(height: int, width: int, seed: int, kind: str) -> None:
    """Whatever the picture, there is a cut-out of its size, the same each time, colourless far from the object."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == "noise":
        pixels = rng.integers(0, 256, pixels.shape).astype(np.uint8)
    elif kind == "blocks":
        pixels[height // 4 : height // 2, width // 4 :] = rng.integers(0, 256, 3)
    before = pixels.copy()
    first, second = cut_out(pixels), cut_out(pixels)
    assert first.rgba.shape == (height, width, 4)
    assert np.array_equal(first.rgba, second.rgba)
    assert np.array_equal(pixels, before), "the picture is left alone"
    assert 0 <= first.coverage <= 1
    if kind == "flat":
        assert first.coverage == 0
        assert not first.rgba.any()


def test_other_shapes_are_refused() -> None:
    """Floats, grey pictures and empty ones are refused."""
    for wrong in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            cut_out(wrong)
    with pytest.raises(ValueError, match="alpha must be"):
        apply_alpha(np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8), np.uint8))


# --- an alpha from elsewhere ------------------------------------------------------------------------------------


def test_a_given_alpha_is_cleaned() -> None:
    """Edges of a given alpha lose the ground's colour; the alpha itself stays as it is."""
    alpha = disc()
    given_alpha = np.rint(alpha * 255).astype(np.uint8)
    picture = compose(alpha, RED, (255, 255, 255))
    cutout = apply_alpha(picture, given_alpha)
    assert np.abs(cutout.rgba[..., 3].astype(int) - given_alpha).max() <= 11
    soft = (given_alpha > 20) & (given_alpha < 235)
    assert np.abs(cutout.rgba[soft][:, :3].astype(int) - RED).max() <= 16
    assert (np.abs(picture[soft].astype(int) - RED).max() > 150, cutout.ground) == (True, None)


def test_colours_bleed_under_transparency() -> None:
    """The object's colour goes on under the transparent pixels next to it, so that a scaler shows no halo."""
    alpha = disc(64, 20)
    cutout = cut_out(compose(alpha, RED, (255, 255, 255)))
    small = Image.fromarray(cutout.rgba[..., :3]).resize((16, 16), Image.Resampling.BOX)
    grown = np.asarray(Image.fromarray(cutout.rgba[..., 3]).resize((16, 16), Image.Resampling.BOX)) > 200
    assert np.abs(np.asarray(small)[grown].astype(int) - RED).max() <= 12
    assert not cutout.rgba[0, 0].any()


def test_bleed_reaches_so_far() -> None:
    """Bleeding stops after its width, and touches neither alpha nor visible colours."""
    rgba = np.zeros((9, 9, 4), np.uint8)
    rgba[4, 4] = (10, 200, 30, 255)
    out = bleed(rgba, 2)
    reached = out[..., 1] == 200
    assert (reached.sum(), reached[2:7, 2:7].all()) == (25, True)
    assert np.array_equal(out[..., 3], rgba[..., 3])
    assert not bleed(np.zeros((4, 4, 4), np.uint8)).any()
