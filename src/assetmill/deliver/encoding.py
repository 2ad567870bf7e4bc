"""Renditions as files: PNG, JPEG, WebP and AVIF with an sRGB profile and metadata, within a number of bytes.

The same pixels, settings and metadata give the same bytes: no clocks, one thread, a profile that is kept as a file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.config import RenditionConfig
from assetmill.deliver.metadata import FileMetadata, save_options
from assetmill.deliver.picture import MEDIA_TYPES, PictureError

if TYPE_CHECKING:
    from PIL import Image

FULL_COLOUR = 80
"""Quality from which colour is stored at full resolution (4:4:4); below, at half of it (4:2:0)."""

_PNG_LEVEL, _PNG_SMALLEST = 3, 9
"""Of icons level 6 takes twice as long for files 13 % smaller, level 9 ten times as long for 17 %."""
_WEBP_METHOD, _WEBP_SMALLEST = 4, 6
_AVIF_SPEED = 8
"""0 to 10. Speed 6 takes four times as long for files some percent smaller."""

_EDGES = {"webp": 16383, "webp-lossless": 16383, "jpeg": 65500}
_MOST_COLOURS = 256


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendition's file. `quality` is the one it was written with; of a PNG with few colours, their number; None of
    other lossless files. A `problem` says why a gate refused it; then there are no bytes.
    """

    data: bytes
    media_type: str
    quality: int | None = None
    problem: str = ""


def encode_rendition(
    pixels: np.ndarray, spec: RenditionConfig, metadata: FileMetadata = FileMetadata(), *, reserve: int = 0
) -> Encoded:
    """The file of composed pixels, uint8 (H, W, 3 or 4), in sRGB and saying so.

    `metadata` stands in it, as `metadata.save_options` puts it into each format. With `max_bytes` the file and
    `reserve` more bytes (of a signature that comes later) stay within it: the highest quality from `quality` down to
    `min_quality` that fits, the strongest compression of lossless formats, and colours down to `min_colours` of a PNG.
    What does not fit is refused with its size.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise ValueError(f"pixels must be uint8 (H, W, 3) or (H, W, 4), not {pixels.dtype} {pixels.shape}")
    if pixels.shape[2] == 4 and spec.format == "jpeg":
        raise ValueError("JPEG has no transparency; compose lays a ground under it")
    media_type = MEDIA_TYPES[spec.format.removesuffix("-lossless")]
    most = _EDGES.get(spec.format)
    if most and max(pixels.shape[:2]) > most:
        return Encoded(b"", media_type, problem=f"{spec.format} ends at {most} pixels an edge; use png")
    try:
        options = {"icc_profile": srgb_profile(), **save_options(metadata, spec.format)}
    except PictureError as error:  # metadata that the format cannot hold
        return Encoded(b"", media_type, problem=str(error))
    limit = None if spec.max_bytes is None else spec.max_bytes - reserve
    if spec.format == "png":
        return _fit_png(pixels, spec, options, limit)
    if spec.format == "webp-lossless":
        return _fit_lossless(pixels, spec, options, limit)
    return _fit_quality(pixels, spec, options, limit)


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB (version 4, parametric curves, made by Little CMS, free of rights)."""
    return resources.files("assetmill.deliver").joinpath("srgb.icc").read_bytes()


# --- within a number of bytes -------------------------------------------------------------------------------


def _fit_quality(pixels: np.ndarray, spec: RenditionConfig, options: Mapping[str, Any], limit: int | None) -> Encoded:
    media_type = MEDIA_TYPES[spec.format]
    write = _LOSSY[spec.format]
    data = write(pixels, options, spec.quality)
    if limit is None or len(data) <= limit:
        return Encoded(data, media_type, spec.quality)
    lowest = min(spec.min_quality, spec.quality)
    best, best_quality = write(pixels, options, lowest), lowest
    if len(best) > limit:
        return Encoded(b"", media_type, problem=_too_large(f"at quality {lowest}", len(best), spec, limit))
    # `below` fits, `above` does not: halve what lies between. Sizes may waver by a step, so what is kept is what was
    # measured.
    below, above = lowest, spec.quality
    while above - below > 1:
        middle = (below + above) // 2
        data = write(pixels, options, middle)
        if len(data) <= limit:
            below, best, best_quality = middle, data, middle
        else:
            above = middle
    return Encoded(best, media_type, best_quality)


def _fit_lossless(pixels: np.ndarray, spec: RenditionConfig, options: Mapping[str, Any], limit: int | None) -> Encoded:
    media_type = MEDIA_TYPES["webp"]
    data = _write_webp_lossless(pixels, options, _WEBP_METHOD)
    if limit is not None and len(data) > limit:
        data = _write_webp_lossless(pixels, options, _WEBP_SMALLEST)
        if len(data) > limit:
            problem = _too_large("lossless", len(data), spec, limit) + "; allow more, or use webp or avif"
            return Encoded(b"", media_type, problem=problem)
    return Encoded(data, media_type)


def _fit_png(pixels: np.ndarray, spec: RenditionConfig, options: Mapping[str, Any], limit: int | None) -> Encoded:
    media_type = MEDIA_TYPES["png"]
    image = (_indexed(pixels) if spec.palette else None) or _image(pixels)
    data = _write_png(image, options, _PNG_LEVEL)
    if limit is None or len(data) <= limit:
        return Encoded(data, media_type)
    data = _write_png(image, options, _PNG_SMALLEST)
    if len(data) <= limit:
        return Encoded(data, media_type)
    if spec.min_colours is None or spec.palette:
        problem = _too_large("lossless", len(data), spec, limit) + "; allow more, give min_colours, or use webp or avif"
        return Encoded(b"", media_type, problem=problem)
    colours = _MOST_COLOURS
    while True:
        data = _write_png(_reduced(pixels, colours), options, _PNG_SMALLEST)
        if len(data) <= limit:
            return Encoded(data, media_type, colours)
        if colours == spec.min_colours:
            return Encoded(b"", media_type, problem=_too_large(f"with {colours} colours", len(data), spec, limit))
        colours = max(spec.min_colours, colours // 2)


def _too_large(how: str, size: int, spec: RenditionConfig, limit: int) -> str:
    kept = (spec.max_bytes or 0) - limit
    besides = f" beside {kept:,} for its signature" if kept else ""
    return f"{how} the file has {size:,} bytes{besides}, above max_bytes {spec.max_bytes:,}"


# --- formats ------------------------------------------------------------------------------------------------


def _image(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _save(image: Image.Image, format: str, **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **settings)
    return out.getvalue()


def _write_png(image: Image.Image, options: Mapping[str, Any], level: int) -> bytes:
    return _save(image, "PNG", compress_level=level, **options)


def _write_jpeg(pixels: np.ndarray, options: Mapping[str, Any], quality: int) -> bytes:
    sampling = "4:4:4" if quality >= FULL_COLOUR else "4:2:0"
    settings = {"quality": quality, "subsampling": sampling, "optimize": True, "progressive": True}
    return _save(_image(pixels), "JPEG", **settings, **options)


def _write_webp(pixels: np.ndarray, options: Mapping[str, Any], quality: int) -> bytes:
    # exact: colours under transparent pixels are part of the picture where they were continued there
    return _save(_image(pixels), "WEBP", quality=quality, method=_WEBP_METHOD, exact=True, **options)


def _write_webp_lossless(pixels: np.ndarray, options: Mapping[str, Any], method: int) -> bytes:
    settings = {"lossless": True, "quality": 75, "method": method, "exact": True}
    return _save(_image(pixels), "WEBP", **settings, **options)


def _write_avif(pixels: np.ndarray, options: Mapping[str, Any], quality: int) -> bytes:
    sampling = "4:4:4" if quality >= FULL_COLOUR else "4:2:0"
    settings = {"quality": quality, "subsampling": sampling, "speed": _AVIF_SPEED, "max_threads": 1}
    return _save(_image(pixels), "AVIF", **settings, **options)


_LOSSY: dict[str, Callable[[np.ndarray, Mapping[str, Any], int], bytes]] = {
    "jpeg": _write_jpeg,
    "webp": _write_webp,
    "avif": _write_avif,
}


def _indexed(pixels: np.ndarray) -> Image.Image | None:
    """The same picture with a colour table, a quarter of the bytes before compression; None above 256 colours."""
    from PIL import Image

    if _image(pixels).getcolors(_MOST_COLOURS) is None:
        return None
    height, width, channels = pixels.shape
    colours, where = np.unique(pixels.reshape(-1, channels), axis=0, return_inverse=True)
    image = Image.fromarray(where.reshape(height, width).astype(np.uint8), "L")
    image.putpalette(colours.tobytes(), "RGBA" if channels == 4 else "RGB")
    return image


def _reduced(pixels: np.ndarray, colours: int) -> Image.Image:
    """The picture with at most so many colours, none dithered."""
    from PIL import Image

    method = Image.Quantize.FASTOCTREE if pixels.shape[2] == 4 else Image.Quantize.MEDIANCUT
    return _image(pixels).quantize(colours, method=method, dither=Image.Dither.NONE)
