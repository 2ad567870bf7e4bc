"""Renditions: a master, or its cut-out, as the pixels that a channel asks for.

Pixels are uint8 (H, W, C) in sRGB, C being 3, or 4 with straight alpha. Scaling works on alpha-weighted colours, so
that what lies under transparent pixels never shows at an edge. It averages sRGB values as they are stored, as browsers,
game engines and image editors do by default: light is not linear in them, so fine patterns of light and dark come out
a little darker than they would to the eye, while edges keep the weight that was drawn and no halo is added.

Everything here is a pure function: the same input gives the same bytes, from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from assetmill.config import ChannelConfig, RenditionConfig
from assetmill.config.packs import join_renditions
from assetmill.deliver.palette import lock_colours, read_palette
from assetmill.deliver.picture import lay_on_ground
from assetmill.deliver.placing import Box, Placement, place, too_small, whole_factor
from assetmill.records import content_key

__all__ = ["Composed", "channel_renditions", "compose", "needs_cutout", "recipe_of", "subject_box", "too_small"]

EPOCH = 1
"""Raised by hand when `compose` or `encode_rendition` give other bytes for the same settings."""

VISIBLE = 8
"""Alpha (of 255) from which a pixel counts as part of the subject: below, nobody sees it."""

_GAP = 3.0
"""How many times larger than its target a picture may still be when Lanczos takes over from plain averaging: more costs
time in proportion to the master and is not seen (Pillow, `Image.resize`, `reducing_gap`)."""

_HALF = 128
_KEPT = 128
"""Alpha from which a pixel's colour is continued under transparent ones: that of fainter ones says little."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A rendition's pixels, uint8 (H, W, 3), or (H, W, 4) where it has transparency.

    A `problem` says why a gate refused it; then there are no pixels.
    """

    pixels: np.ndarray
    problem: str = ""

    @property
    def alpha(self) -> bool:
        return self.pixels.shape[2] == 4


def channel_renditions(channel: ChannelConfig, base: Path = Path()) -> tuple[RenditionConfig, ...]:
    """A channel's renditions: its pack's with its own over them, checked, palettes' paths made absolute from `base`.

    Raises InputError where a palette cannot be read.
    """
    specs = []
    for spec in join_renditions(channel.pack, channel.renditions, channel.palette):
        if spec.palette is not None:
            path = (base / spec.palette.expanduser()).resolve()
            read_palette(path)
            spec = spec.model_copy(update={"palette": path})
        specs.append(spec)
    return tuple(specs)


def needs_cutout(channels: Iterable[ChannelConfig]) -> bool:
    """Whether any of their renditions is composed from a cut-out."""
    return any(
        spec.cut_out
        for channel in channels
        for spec in join_renditions(channel.pack, channel.renditions, channel.palette)
    )


def recipe_of(spec: RenditionConfig) -> str:
    """The key of all in a rendition that decides its bytes, beside the master and the metadata: 64 hex digits.

    Its name is left out, the palette counts by its colours and not by its path.
    """
    fields = spec.model_dump(mode="json", exclude={"name", "palette"}, exclude_defaults=True)
    colours = read_palette(spec.palette).tobytes().hex() if spec.palette else ""
    return content_key("rendition", {"epoch": EPOCH, "fields": fields, "palette": colours})


def subject_box(alpha: np.ndarray) -> Box | None:
    """The box of what is visible in alpha, uint8 (H, W); None where nothing is."""
    seen = alpha >= VISIBLE
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def compose(master: np.ndarray, spec: RenditionConfig, *, alpha: np.ndarray | None = None) -> Composed:
    """The pixels of one rendition, or the reason why there are none.

    `master` is the plain master for `ground: keep` and the cut-out, uint8 (H, W, 4), for any other. `alpha`, uint8
    (H, W), tells where the subject of a plain master lies, for the focal point; without it, it is the whole picture.
    Palettes are read from the absolute path that `channel_renditions` gave.
    """
    if master.dtype != np.uint8 or master.ndim != 3 or master.shape[2] not in (3, 4) or 0 in master.shape:
        raise ValueError(f"a master is uint8 (H, W, 3) or (H, W, 4), not {master.dtype} {master.shape}")
    if spec.cut_out and master.shape[2] != 4:
        raise ValueError(f"rendition {spec.name!r} has ground {spec.ground!r}: it needs the cut-out's alpha")
    if master.shape[2] == 4 and not spec.cut_out and master[..., 3].min() == 255:
        master = master[..., :3]
    if master.shape[2] == 4 and spec.format == "jpeg" and not spec.cut_out:
        return _refused("the master is transparent and JPEG is not: give a ground colour, or another format")
    if alpha is not None and alpha.shape != master.shape[:2]:
        raise ValueError(f"alpha {alpha.shape} is not that of a master of {master.shape[:2]}")
    where = master[..., 3] if master.shape[2] == 4 else alpha
    subject = subject_box(where) if where is not None else None
    if master.shape[2] == 4 and subject is None:
        return _refused("nothing in it is opaque")
    if spec.resample == "nearest":
        height, width = master.shape[:2]
        up, down, problem = whole_factor(spec, width, height, subject)
        if problem:
            return _refused(problem)
        master = _scale_whole(master, up, down)
        subject = subject_box(_scale_whole(where, up, down)) if where is not None else None
        if master.shape[2] == 4 and subject is None:
            return _refused(f"nothing opaque is left of it at 1/{down}")
    placed = place(spec, master.shape[1], master.shape[0], subject)
    if placed.problem:
        return _refused(placed.problem)
    return Composed(_finish(_lay(master, placed, spec), spec))


def _refused(problem: str) -> Composed:
    return Composed(np.zeros((0, 0, 3), np.uint8), problem)


# --- onto the canvas ----------------------------------------------------------------------------------------


def _lay(master: np.ndarray, placed: Placement, spec: RenditionConfig) -> np.ndarray:
    """The picture at its place on the canvas, what is round it filled: transparent, or with bars."""
    content = _scale(master, placed)
    if placed.size == placed.canvas:
        return content
    left, top = placed.at
    right, bottom = (placed.canvas[i] - placed.at[i] - placed.size[i] for i in (0, 1))
    if spec.bars == "border":
        return _continue_border(content, left, top, right, bottom)
    canvas = np.zeros((placed.canvas[1], placed.canvas[0], content.shape[2]), np.uint8)
    if spec.bars:
        canvas[..., :3] = _rgb(spec.bars)
        canvas[..., 3:] = 255
    canvas[top : top + placed.size[1], left : left + placed.size[0]] = content
    return canvas


def _scale(master: np.ndarray, placed: Placement) -> np.ndarray:
    left, top, right, bottom = placed.source
    if (right - left, bottom - top) == placed.size and left == int(left) and top == int(top):
        return master[int(top) : int(bottom), int(left) : int(right)]
    if master.shape[2] == 3:
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(master))
        return np.asarray(image.resize(placed.size, Image.Resampling.LANCZOS, placed.source, _GAP))
    return _scale_weighted(master, placed)


def _scale_weighted(master: np.ndarray, placed: Placement) -> np.ndarray:
    """Colours weighted by alpha, scaled, and divided by the alpha scaled likewise: those of a flat subject stay.

    In floating point: Pillow's own way through 8 bits clips where Lanczos overshoots, which draws a bright rim.
    """
    from PIL import Image

    left, top, right, bottom = placed.source
    # No more than the source and its filter's reach: three times the reduction, and one for rounding.
    reach = [3 * (b - a) / n + 1 for a, b, n in ((left, right, placed.size[0]), (top, bottom, placed.size[1]))]
    x, y = max(0, int(left - reach[0])), max(0, int(top - reach[1]))
    part = master[y : ceil(bottom + reach[1]), x : ceil(right + reach[0])]
    box = (left - x, top - y, right - x, bottom - y)
    planes = _planes(part)
    planes[:3] *= planes[3]
    method = Image.Resampling.LANCZOS
    images = [Image.fromarray(plane).resize(placed.size, method, box, _GAP) for plane in planes]
    scaled = np.stack([np.asarray(image) for image in images])
    scaled[:3] /= np.maximum(scaled[3], 0.5)  # what is fainter is rounded to nothing
    return _pixels(scaled)


def _scale_whole(pixels: np.ndarray, up: int, down: int) -> np.ndarray:
    """Every pixel `up` times in both directions, or the middle one of each block of `down` × `down`."""
    if up > 1:
        return pixels.repeat(up, axis=0).repeat(up, axis=1)
    return pixels[down // 2 :: down, down // 2 :: down]


def _continue_border(content: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """The picture with its edges continued outwards: flat grounds and soft gradients go on without a seam."""
    above, below = (_smooth_line(line) for line in (content[0], content[-1]))
    tall = np.concatenate([np.tile(above, (top, 1, 1)), content, np.tile(below, (bottom, 1, 1))])
    before, after = (_smooth_line(line)[:, None] for line in (tall[:, 0], tall[:, -1]))
    return np.concatenate([np.tile(before, (1, left, 1)), tall, np.tile(after, (1, right, 1))], axis=1)


def _smooth_line(line: np.ndarray) -> np.ndarray:
    """A line of pixels (N, C) without its fine detail, which would be drawn out into streaks."""
    reach = min(len(line) // 24, len(line) - 1)
    if reach < 1:
        return line
    # Turned round its ends, a slope goes on: smoothing leaves it as it is.
    wide = np.pad(line.astype(np.float32), ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    tent = np.bartlett(2 * reach + 3)[1:-1]
    smooth = [np.convolve(channel, tent / tent.sum(), mode="valid") for channel in wide.T]
    return (np.stack(smooth, axis=-1).clip(0, 255) + 0.5).astype(np.uint8)


# --- and finished -------------------------------------------------------------------------------------------


def _finish(pixels: np.ndarray, spec: RenditionConfig) -> np.ndarray:
    """Alpha, ground, edges and colours, in this order: each sees what the one before left."""
    if spec.hard_alpha:
        pixels = pixels.copy()
        pixels[..., 3] = np.where(pixels[..., 3] >= _HALF, 255, 0)
    if spec.cut_out and spec.ground != "transparent":
        pixels = lay_on_ground(pixels, _rgb(spec.ground))
    if edge := spec.extrude:
        pixels = np.pad(pixels[edge:-edge, edge:-edge], ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    if pixels.shape[2] == 4:
        pixels = bleed_colours(pixels) if spec.bleed else _clear_hidden(pixels)
    if spec.palette is not None:
        locked = lock_colours(pixels, read_palette(spec.palette))
        pixels = locked if spec.bleed else _clear_hidden(locked)
    return np.ascontiguousarray(pixels)


def _clear_hidden(pixels: np.ndarray) -> np.ndarray:
    """Black under what is wholly transparent: nobody sees it, and it packs to nothing."""
    return pixels if pixels.shape[2] == 3 else _put_under(pixels, np.zeros((1, 1, 4), np.uint8))


def bleed_colours(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) with the colours of its edges continued under all that is transparent; visible colours stay.

    Colours are averaged down to one pixel and filled in from there, coarse to fine, so that what is far from an edge
    takes the mean of a wider part of it (S. Gortler et al., "The Lumigraph", 1996, section 3.2.2: pull-push).
    """
    planes = _planes(pixels)
    known = planes[3] >= _KEPT
    if not known.any():
        known = planes[3] > 0
    planes[3] = known
    planes[:3] *= planes[3]
    filled = _pull_push(planes)
    filled[3] = 0
    return _put_under(pixels, _pixels(filled))


def _put_under(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) with its wholly transparent pixels taken from another such picture."""
    whole, other = (np.ascontiguousarray(p).view(np.uint32) for p in (pixels, hidden))  # a pixel at a time
    return np.where(pixels[..., 3:] > 0, whole, other).view(np.uint8)


def _pull_push(planes: np.ndarray) -> np.ndarray:
    """float32 (4, H, W), colours that are zero where the fourth, 0 or 1, is: with these filled from the next coarser
    level that knows any of theirs."""
    weight = planes[3]
    height, width = weight.shape
    if weight.size == 1 or weight.all():
        return planes
    even = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2))) if height % 2 or width % 2 else planes
    columns = even[:, :, ::2] + even[:, :, 1::2]
    coarse = columns[:, ::2] + columns[:, 1::2]
    coarse /= np.maximum(coarse[3], 1)  # means of those known; the fourth becomes 1 where any is
    fine = _pull_push(coarse).repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
    return np.where(weight > 0, planes, fine)


def _planes(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) as float32 (C, H, W), in which sums run along whole rows."""
    return pixels.transpose(2, 0, 1).astype(np.float32, order="C")


def _pixels(planes: np.ndarray) -> np.ndarray:
    """The other way, rounded: uint8 (H, W, C)."""
    pixels = np.empty((*planes.shape[1:], len(planes)), np.uint8)
    for i, plane in enumerate(planes):
        pixels[..., i] = plane.clip(0, 255) + 0.5
    return pixels


def _rgb(colour: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue
