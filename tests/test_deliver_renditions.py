"""Renditions: exact canvases, the subject within its margins, nothing enlarged, edges without a fringe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.config import ChannelConfig, RenditionConfig
from assetmill.deliver.renditions import (
    Composed,
    channel_renditions,
    compose,
    needs_cutout,
    recipe_of,
    subject_box,
    too_small,
)

PACKS = ("shop", "social", "game", "pixel-game")


def disc(width: int = 256, height: int = 256, radius: float = 80, *, colour: tuple[int, int, int] = (220, 60, 30)):
    """A soft-edged disc of one colour, with another colour lying under all that is transparent."""
    y, x = np.mgrid[:height, :width]
    opacity = np.clip(radius + 0.5 - np.hypot(x - (width - 1) / 2, y - (height - 1) / 2), 0, 1)
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[...] = (0, 255, 0, 0)
    pixels[opacity > 0, :3] = colour
    pixels[..., 3] = (opacity * 255).round()
    return pixels


def photo(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def pixel_art(blocks: int = 16, factor: int = 4) -> np.ndarray:
    """Random blocks within a transparent frame of one block, each block `factor` pixels wide."""
    small = np.random.default_rng(3).integers(0, 256, (blocks, blocks, 4)).astype(np.uint8)
    small[..., 3] = 255
    small[[0, -1]] = 0
    small[:, [0, -1]] = 0
    return small.repeat(factor, axis=0).repeat(factor, axis=1)


def rendition(**values: object) -> RenditionConfig:
    """A checked rendition."""
    return channel_renditions(ChannelConfig.model_validate({"renditions": [values]}))[0]


def edges(made: Composed) -> tuple[int, int]:
    assert not made.problem, made.problem
    return made.pixels.shape[1], made.pixels.shape[0]


# --- canvases -----------------------------------------------------------------------------------------------

lengths = st.integers(20, 300)


@settings(deadline=None, max_examples=60)
@given(lengths, lengths, st.integers(8, 400), st.integers(8, 400), st.sampled_from(["fit", "pad", "cover"]))
def test_a_size_is_exact_or_refused(width: int, height: int, across: int, down: int, fit: str) -> None:
    """`pad` and `cover` give the size to the pixel, `fit` stays inside and touches it; a small master is refused."""
    bars = {"bars": "white"} if fit == "pad" else {}
    spec = rendition(size=f"{across}x{down}", fit=fit, **bars)
    made = compose(photo(width, height), spec)
    scale = (max if fit == "cover" else min)(across / width, down / height)
    if scale > 1:
        assert "never enlarged" in made.problem
        assert too_small(spec, width, height) == made.problem
    elif fit == "fit":
        got = edges(made)
        assert got[0] == across or got[1] == down
        assert abs(got[0] - width * scale) <= 1
        assert abs(got[1] - height * scale) <= 1
    else:
        assert edges(made) == (across, down)
        assert not too_small(spec, width, height)


@settings(deadline=None, max_examples=60)
@given(
    lengths, lengths, st.integers(1, 20), st.integers(1, 20), st.sampled_from(["pad", "cover"]),
    st.none() | st.integers(64, 320),
)  # fmt: skip
def test_an_aspect_is_met_within_a_pixel(
    width: int, height: int, across: int, down: int, fit: str, most: int | None
) -> None:
    """The canvas has the shape, ends at `max_edge`, and is no larger than the picture can fill."""
    bars = {"bars": "#123456"} if fit == "pad" else {}
    spec = rendition(aspect=f"{across}:{down}", fit=fit, **bars, **({"max_edge": most} if most else {}))
    got = edges(compose(photo(width, height), spec))
    assert abs(got[0] * down - got[1] * across) <= max(across, down)
    assert most is None or max(got) <= most
    if fit == "cover":
        assert got[0] <= width
        assert got[1] <= height


@settings(deadline=None, max_examples=60)
@given(
    st.integers(40, 200), st.floats(0.2, 0.5), st.floats(0, 30), st.sampled_from(["white", "transparent"]),
    st.sampled_from([{"size": 64}, {"size": "96x48"}, {"aspect": "3:2"}, {"aspect": "1:1", "max_edge": 40}]),
    st.integers(0, 2),
)  # fmt: skip
def test_the_subject_keeps_its_margins(
    length: int, share: float, margin: float, ground: str, canvas: dict[str, object], extrude: int
) -> None:
    """No visible pixel of the subject lies in the margin, and the subject is never larger than it was."""
    cut = disc(length, length, length * share)
    spec = rendition(fit="pad", ground="transparent", margin=margin, min_fill=0, extrude=extrude, **canvas)
    made = compose(cut, spec)
    if made.problem:
        assert "never enlarged" in made.problem
        return
    height, width = made.pixels.shape[:2]
    free = margin / 100 * min(width, height)
    box, was = subject_box(made.pixels[..., 3]), subject_box(cut[..., 3])
    if free < 1e-6 and extrude:
        return  # extrusion repeats the subject's own edge into the room kept for it
    assert box is not None
    assert was is not None
    assert min(box[0], box[1], width - box[2], height - box[3]) >= free - 1e-6
    assert box[2] - box[0] <= was[2] - was[0]
    assert box[3] - box[1] <= was[3] - was[1]
    laid = compose(cut, spec.model_copy(update={"ground": "white"}))
    assert laid.pixels.shape == (height, width, 3)


def test_a_following_canvas_fits_the_subject() -> None:
    """Without a size a cut-out fills its canvas but for the margin, at its own size, pixel for pixel."""
    made = compose(disc(radius=60), rendition(aspect="1:1", fit="pad", ground="transparent", margin=10))
    box = subject_box(made.pixels[..., 3])
    assert box is not None
    assert box[2] - box[0] == 120
    assert made.pixels.shape[0] in (150, 151, 152)
    assert np.array_equal(made.pixels[box[1] : box[3], box[0] : box[2], 3], disc(radius=60)[68:188, 68:188, 3])


def test_a_small_subject_is_refused() -> None:
    """A subject that would be lost on its canvas is a gate, with the numbers."""
    made = compose(disc(radius=30), rendition(size=256, fit="pad", ground="white"))
    assert (
        made.problem == "the subject of 60×60 fills 23 % of 256×256 pixels, below min_fill 50 %, and is never enlarged"
    )
    assert not compose(disc(radius=30), rendition(size=256, fit="pad", ground="white", min_fill=20)).problem


def test_a_short_edge_is_refused() -> None:
    """`min_edge` is a gate of canvases that follow the picture."""
    spec = rendition(max_edge=500, min_edge=300)
    assert too_small(spec, 256, 400) == compose(photo(256, 400), spec).problem != ""
    assert not too_small(spec, 300, 400)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(8, 120), st.integers(8, 120), st.floats(0, 0.7),
    st.sampled_from(
        [{"size": "60x40", "fit": "pad"}, {"aspect": "2:3", "fit": "pad", "max_edge": 50, "min_edge": 30},
         {"max_edge": 40, "min_edge": 20, "margin": 12.0, "extrude": 3}, {"size": 30, "fit": "cover"},
         {"size": 32, "fit": "pad", "resample": "nearest"}, {"size": 24, "fit": "cover", "resample": "nearest"},
         {"size": 32, "fit": "pad", "resample": "nearest", "frame": "picture"}]
    ),
)  # fmt: skip
def test_plans_refuse_only_what_must_be(width: int, height: int, share: float, values: dict[str, object]) -> None:
    """Where `too_small` finds nothing to pass, no subject on a master of that size passes."""
    spec = rendition(ground="white", **values)
    made = compose(disc(width, height, share * min(width, height)), spec)
    assert made.problem or not too_small(spec, width, height)


def test_covering_pixel_art() -> None:
    """`nearest` covers by the smallest whole factor that reaches, and cuts on whole pixels."""
    art = pixel_art(blocks=16, factor=1)
    made = compose(art, rendition(size="40x24", fit="cover", ground="transparent", resample="nearest"))
    assert np.array_equal(made.pixels, art.repeat(3, axis=0).repeat(3, axis=1)[12:36, 4:44])


def test_a_kept_picture_needs_no_subject() -> None:
    """An empty cut-out refuses what is made of it, and not the plain master."""
    nothing = np.zeros((64, 64), np.uint8)
    made = compose(photo(64, 64), rendition(size=32, fit="cover"), alpha=nothing)
    assert edges(made) == (32, 32)
    with pytest.raises(ValueError, match="is not that of a master"):
        compose(photo(64, 64), rendition(size=32, fit="cover"), alpha=nothing[:3])


def test_an_empty_cutout_is_refused() -> None:
    assert compose(np.zeros((64, 64, 4), np.uint8), rendition(ground="white")).problem == "nothing in it is opaque"


# --- what is cut off and what is added ----------------------------------------------------------------------


def test_cover_keeps_the_subject_in_view() -> None:
    """The cut goes round the middle of what is opaque, as far as the picture reaches; a point may be given."""
    picture = photo(300, 100)
    alpha = np.zeros((100, 300), np.uint8)
    alpha[40:60, 220:240] = 255
    spec = rendition(aspect="1:1", fit="cover")
    assert np.array_equal(compose(picture, spec, alpha=alpha).pixels, picture[:, 180:280])
    assert np.array_equal(compose(picture, spec).pixels, picture[:, 100:200])
    right = rendition(aspect="1:1", fit="cover", focal=(1.0, 0.5))
    assert np.array_equal(compose(picture, right).pixels, picture[:, 200:300])


def test_borders_go_on() -> None:
    """`bars: border` continues a gradient without a seam, and a colour is that colour."""
    y = np.linspace(40, 200, 120)[:, None, None]
    ground = np.broadcast_to(y, (120, 90, 3)).round().astype(np.uint8)
    made = compose(ground, rendition(aspect="16:9", fit="pad", bars="border"))
    assert edges(made) == (214, 120)
    assert np.abs(made.pixels.astype(int) - made.pixels[:, 107:108]).max() <= 4
    plain = compose(ground, rendition(aspect="16:9", fit="pad", bars="#0a141e"))
    assert (plain.pixels[:, 0] == (10, 20, 30)).all()


def test_extrusion_repeats_edges() -> None:
    """The outer pixels repeat the ones inside them, within the canvas."""
    tile = photo(64, 64)
    made = compose(tile, rendition(size=32, fit="cover", extrude=3)).pixels
    assert made.shape == (32, 32, 3)
    assert np.array_equal(made, np.pad(made[3:-3, 3:-3], ((3, 3), (3, 3), (0, 0)), mode="edge"))
    follows = compose(tile, rendition(extrude=2)).pixels
    assert np.array_equal(follows, np.pad(tile, ((2, 2), (2, 2), (0, 0)), mode="edge"))


# --- transparency and colours -------------------------------------------------------------------------------


def test_no_fringe() -> None:
    """What lies under transparent pixels (green here) never shows: not in scaling, not on a ground."""
    small = compose(disc(), rendition(size=48, fit="pad", ground="transparent")).pixels
    seen = small[small[..., 3] > 64][:, :3].astype(int)
    assert np.abs(seen - (220, 60, 30)).max() <= 4
    white = compose(disc(), rendition(size=48, fit="pad", ground="white")).pixels.astype(int)
    # On white every mix of red and white has at least as much blue as the disc and less green than blue + 31.
    assert (white[..., 1] - white[..., 2] <= 34).all()
    assert tuple(white[0, 0]) == (255, 255, 255)


def test_bleeding_continues_colours() -> None:
    """With `bleed` all that is transparent carries the subject's colour; without, nothing; visible pixels are equal."""
    plain = compose(disc(), rendition(size=64, fit="pad", ground="transparent", margin=8)).pixels
    bled = compose(disc(), rendition(size=64, fit="pad", ground="transparent", margin=8, bleed=True)).pixels
    hidden = plain[..., 3] == 0
    assert (plain[hidden] == 0).all()
    assert np.abs(bled[hidden][:, :3].astype(int) - (220, 60, 30)).max() <= 4
    assert np.array_equal(bled[..., 3], plain[..., 3])
    assert np.array_equal(bled[~hidden], plain[~hidden])


@pytest.mark.parametrize("ground", ["transparent", "keep"])
def test_opaque_masters_of_the_plain_ground(ground: str) -> None:
    """A kept picture loses an alpha that says nothing, and keeps one that does."""
    opaque = np.dstack([photo(32, 32), np.full((32, 32), 255, np.uint8)])
    made = compose(opaque, rendition(ground=ground))
    assert made.alpha == (ground == "transparent")
    assert compose(disc(), rendition()).alpha


def test_jpeg_wants_an_opaque_picture() -> None:
    assert "JPEG is not" in compose(disc(), rendition(format="jpeg")).problem
    assert not compose(disc(), rendition(format="jpeg", ground="white")).alpha


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([8, 16, 24, 32, 64, 100, 128, 200, 256]), st.sampled_from([{}, {"margin": 5}]))
def test_nearest_keeps_the_colours(size: int, more: dict[str, object]) -> None:
    """Pixel art comes out in whole factors and exact divisors: every pixel of it is one of the master's."""
    art = pixel_art()
    spec = rendition(size=size, fit="pad", ground="transparent", frame="picture", resample="nearest", **more)
    made = compose(art, spec)
    if made.problem:
        assert "min_fill" in made.problem or "whole factor" in made.problem
        return
    known = {tuple(c) for c in art.reshape(-1, 4).tolist()} | {(0, 0, 0, 0)}
    assert {tuple(c) for c in made.pixels.reshape(-1, 4).tolist()} <= known
    assert edges(made) == (size, size)


def test_nearest_goes_back_to_the_grid() -> None:
    """A quarter of art that was enlarged four times is the art, and the double has every pixel twice."""
    art = pixel_art()
    base = art[::4, ::4]
    spec = {"fit": "pad", "ground": "transparent", "frame": "picture", "resample": "nearest"}
    assert np.array_equal(compose(art, rendition(size=16, **spec)).pixels, base)
    double = compose(art, rendition(size=128, **spec)).pixels
    assert np.array_equal(double, art.repeat(2, axis=0).repeat(2, axis=1))


def test_nearest_says_no() -> None:
    """An odd master has no exact divisor for a smaller canvas."""
    odd = disc(251, 251)
    spec = rendition(size=64, fit="pad", ground="transparent", frame="picture", resample="nearest")
    assert "whole factor" in compose(odd, spec).problem or "min_fill" in compose(odd, spec).problem
    assert too_small(spec, 251, 251)


def test_a_palette_is_all_there_is(tmp_path: Path) -> None:
    """With a palette and hard alpha only its colours are left, the nearest by eye, and nothing is half transparent."""
    (tmp_path / "two.hex").write_text("d03010\n2040c0\nffffff\n")
    spec = {"ground": "transparent", "palette": "two.hex", "hard_alpha": True}
    channel = ChannelConfig.model_validate({"renditions": [spec]})
    made = compose(disc(), channel_renditions(channel, tmp_path)[0]).pixels
    assert {tuple(c) for c in made[made[..., 3] > 0].tolist()} == {(0xD0, 0x30, 0x10, 255)}
    assert set(np.unique(made[..., 3])) == {0, 255}


# --- packs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACKS)
def test_packs_work_on_small_masters(pack: str) -> None:
    """Every rendition of every shipped pack is made from a master of 256×256, and none is refused at plan time."""
    for spec in channel_renditions(ChannelConfig(pack=pack)):
        assert not too_small(spec, 256, 256), spec.name
        made = compose(disc() if spec.cut_out else photo(256, 256), spec)
        assert not made.problem, f"{spec.name}: {made.problem}"


def test_the_game_pack() -> None:
    """Four powers of two with alpha."""
    specs = channel_renditions(ChannelConfig(pack="game"))
    assert [edges(compose(disc(), spec)) for spec in specs] == [(256, 256), (128, 128), (64, 64), (32, 32)]
    assert all(compose(disc(), spec).alpha for spec in specs)
    assert needs_cutout([ChannelConfig(pack="game")])
    assert not needs_cutout([ChannelConfig(pack="social"), ChannelConfig()])


def test_own_renditions_change_a_pack() -> None:
    """One of a pack's name changes what it gives and keeps the rest; others are added."""
    own = [{"name": "icon-64", "margin": 9}, {"name": "splash", "size": 200, "ground": "white"}]
    specs = {s.name: s for s in channel_renditions(ChannelConfig.model_validate({"pack": "game", "renditions": own}))}
    assert list(specs) == ["icon-256", "icon-128", "icon-64", "icon-32", "splash"]
    assert (specs["icon-64"].margin, specs["icon-64"].size, specs["icon-64"].bleed) == (9, (64, 64), True)


def test_recipes(tmp_path: Path) -> None:
    """A recipe changes with what decides the bytes: not with the name, and with a palette's colours, not its path."""
    assert recipe_of(rendition(name="a")) == recipe_of(rendition(name="b"))
    assert recipe_of(rendition(size=64)) != recipe_of(rendition(size=65))
    keys = []
    for name, text in (("a.hex", "ff0000"), ("b.hex", "ff0000"), ("c.hex", "ff0001")):
        (tmp_path / name).write_text(text)
        channel = ChannelConfig.model_validate({"palette": name})
        keys.append(recipe_of(channel_renditions(channel, tmp_path)[0]))
    assert keys[0] == keys[1] != keys[2]


def test_composing_is_deterministic() -> None:
    for spec in channel_renditions(ChannelConfig(pack="game")):
        assert np.array_equal(compose(disc(), spec).pixels, compose(disc(), spec).pixels)


def test_wrong_pixels_are_errors() -> None:
    with pytest.raises(ValueError, match="uint8"):
        compose(np.zeros((4, 4, 3)), rendition())
    with pytest.raises(ValueError, match="cut-out"):
        compose(photo(16, 16), rendition(ground="white"))
