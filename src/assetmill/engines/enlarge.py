"""What every upscaler can do beside colour: transparency enlarged with the picture, tileable pictures kept tileable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assetmill.engines.protocols import Upscaler
from assetmill.engines.seamless import read_axes
from assetmill.engines.weighting import plain_text
from assetmill.records import Request

WRAP = 32
"""Pixels of the opposite edge that a tileable picture is continued with on each side, at most a half of it."""


def enlarge(
    upscaler: Upscaler, pixels: np.ndarray, texts: Sequence[str] | None = None, *, tileable: str = ""
) -> np.ndarray:
    """Pictures uint8 (N, H, W, 3 or 4) enlarged `upscaler.scale` times, with as many channels as they had.

    Alpha is enlarged as a grey picture by the same model, so that its edges lie where those of the colours lie; by
    Lanczos where the model invents detail, which transparency must not have. Colours of fully transparent pixels are
    first replaced by the nearest visible ones: whatever lay there would bleed into the edges.

    Along the axes of `tileable` (`x`: left meets right, `y`: top meets bottom, `xy`) opposite edges go on meeting: the
    picture is continued by its own opposite side before, and what that gives beyond the edge is blended into the edge
    it continues.
    """
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[-1] not in (3, 4):
        raise ValueError(f"pictures are {pixels.dtype} {pixels.shape}; expected uint8 (N, H, W, 3 or 4)")
    if tileable:
        return _enlarge_wrapped(upscaler, pixels, texts, tileable)
    if pixels.shape[-1] == 3:
        return upscaler.upscale(pixels, texts)
    colour = upscaler.upscale(_spread_colours(pixels), texts)
    return np.concatenate([colour, _enlarge_alpha(upscaler, pixels[..., 3], texts)], axis=-1)


def tileable_axes(request: Request) -> str:
    """The axes along which a request's picture tiles: `x`, `y`, `xy` or none."""
    return read_axes(dict(request.options).get("seamless", False))


def text_of(request: Request) -> str:
    """What a request's picture shows, for upscalers that read it: the prompt, without the marks of its weights."""
    return plain_text(request.positive) if dict(request.options).get("weights") else request.positive


# --- inside -------------------------------------------------------------------------------------------------


def _enlarge_wrapped(upscaler: Upscaler, pixels: np.ndarray, texts: Sequence[str] | None, axes: str) -> np.ndarray:
    height, width = pixels.shape[1:3]
    top = min(WRAP, height // 2) if "y" in axes else 0
    left = min(WRAP, width // 2) if "x" in axes else 0
    large = enlarge(upscaler, np.pad(pixels, ((0, 0), (top, top), (left, left), (0, 0)), mode="wrap"), texts)
    large = _close(large, height * upscaler.scale, top * upscaler.scale, axis=1)
    return _close(large, width * upscaler.scale, left * upscaler.scale, axis=2)


def _close(large: np.ndarray, length: int, margin: int, *, axis: int) -> np.ndarray:
    """The middle of a wrapped picture along one axis, its end blended into what lies before its beginning.

    Row -1 of a wrapped picture meets row 0 as the model made them; so does the last row, once it equals row -1. Where
    the model gave both the same, as one without noise does given enough context, nothing changes.
    """
    if not margin:
        return large
    large = np.moveaxis(large, axis, 0)
    before, inside = large[:margin].astype(np.float32), large[margin : margin + length].copy()
    ramp = (np.arange(1, margin + 1, dtype=np.float32) / margin).reshape(-1, *[1] * (large.ndim - 1))
    blended = inside[length - margin :] * (1 - ramp) + before * ramp
    inside[length - margin :] = blended.round().astype(np.uint8)
    return np.moveaxis(inside, 0, axis)


def _enlarge_alpha(upscaler: Upscaler, alpha: np.ndarray, texts: Sequence[str] | None) -> np.ndarray:
    """Alpha uint8 (N, H, W) enlarged: (N, H x scale, W x scale, 1). Wholly opaque or transparent stays exactly so."""
    from PIL import Image

    height, width = (side * upscaler.scale for side in alpha.shape[1:3])
    out = np.empty((len(alpha), height, width, 1), np.uint8)
    mixed = []
    for i, plane in enumerate(alpha):
        if plane.min() == plane.max():
            out[i] = plane[0, 0]
        elif getattr(upscaler, "generative", False):
            out[i, :, :, 0] = Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS)
        else:
            mixed.append(i)
    if mixed:
        grey = np.repeat(alpha[mixed][..., None], 3, axis=-1)
        large = upscaler.upscale(grey, None if texts is None else [texts[i] for i in mixed])
        out[mixed] = large.mean(axis=-1, keepdims=True).round().astype(np.uint8)
    return out


def _spread_colours(pixels: np.ndarray) -> np.ndarray:
    """The colours of RGBA pictures, those of fully transparent pixels replaced by the nearest visible ones."""
    from scipy.ndimage import distance_transform_edt

    colour = pixels[..., :3].copy()
    for i, plane in enumerate(pixels[..., 3]):
        hidden = plane == 0
        if hidden.any() and not hidden.all():
            rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
            colour[i] = colour[i][rows, columns]
    return colour
