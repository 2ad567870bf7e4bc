"""Pictures as bytes: fast lossless encoding with settings in the file, and decoding that trusts nobody.

Pixels are uint8 (H, W, C) in sRGB, C being 3, or 4 with straight alpha.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MEDIA_TYPES: Mapping[str, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "avif": "image/avif",
}
"""Media type by the name of a format."""

EXTENSIONS: Mapping[str, str] = {
    "image/png": "png",
    "image/webp": "webp",
    "image/jpeg": "jpg",
    "image/avif": "avif",
}
"""File name extension (without the dot) by media type."""

ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
"""What `decode` opens. Everything else Pillow could read is refused: SVG, PSD, EPS and the like run code or bombs."""

MAX_PIXELS = 2**26
"""Largest picture `decode` opens by default (67 million pixels, 8192 × 8192)."""

MAX_BYTES = 256 * 2**20
"""Largest file `decode` opens."""

PARAMETERS = "parameters"
"""Keyword under which generation settings stand in a picture, as image tools look for them."""

_WEBP_EDGE = 16383
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError, ZeroDivisionError,
    NotImplementedError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders are known to raise on damaged files."""


class PictureError(ValueError):
    """Bytes that cannot be used as a picture; the message says why and the way out."""


# --- encoding -----------------------------------------------------------------------------------------------


def encode(pixels: np.ndarray, format: str, text: Mapping[str, str] | None = None) -> bytes:
    """The picture as `png` or `webp` (both lossless) with texts inside; see `encode_png` and `encode_webp`."""
    if format == "png":
        return encode_png(pixels, text)
    if format == "webp":
        return encode_webp(pixels, text)
    raise ValueError(f"cannot encode as {format!r}; use png or webp")


def encode_png(pixels: np.ndarray, text: Mapping[str, str] | None = None, *, level: int = 1) -> bytes:
    """A PNG of uint8 (H, W), (H, W, 3) or (H, W, 4) pixels.

    `level` 1 is the fastest that still compresses, 9 the smallest. `text` becomes iTXt chunks (UTF-8, so any
    language); keywords have 1 to 79 characters of Latin-1. NUL and lone surrogates, which no text chunk can hold,
    become U+FFFD.
    """
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        _check_keyword(keyword)
        chunks.add_itxt(keyword, _storable(value))
    out = io.BytesIO()
    _image(pixels).save(out, "PNG", compress_level=level, pnginfo=chunks)
    return out.getvalue()


def encode_webp(pixels: np.ndarray, text: Mapping[str, str] | None = None, *, method: int = 0) -> bytes:
    """A lossless WebP of uint8 (H, W, 3) or (H, W, 4) pixels, colours under transparency kept.

    `method` 0 is the fastest, 6 the smallest. WebP has no text chunks: `text` stands in the EXIF user comment,
    plain where it is only `parameters`, as other image tools write it, else as one JSON object.
    """
    image = _image(pixels)
    if max(image.size) > _WEBP_EDGE:
        raise ValueError(f"{image.width}×{image.height} pixels: WebP ends at {_WEBP_EDGE} an edge; use png")
    options = {"exif": comment_exif(text)} if text else {}
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True, quality=0, method=method, exact=True, **options)
    return out.getvalue()


# --- decoding -----------------------------------------------------------------------------------------------


def decode(
    data: bytes,
    *,
    alpha: bool = False,
    ground: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    name: str = "",
) -> np.ndarray:
    """The pixels of a PNG, JPEG, WebP or AVIF file: uint8 (H, W, 3), or (H, W, 4) with `alpha`.

    Turned upright as its EXIF orientation says, converted to sRGB where it carries another colour profile, 16 bits
    a channel brought to 8. Without `alpha`, transparent parts are laid on `ground`. The size is checked before any
    pixel is decoded. `name` is named in errors.

    Raises PictureError on other formats, pictures larger than `max_pixels`, animations, truncated and damaged files.
    """
    with open_picture(data, name=name, max_pixels=max_pixels) as image:
        try:
            image.load()
            upright = _upright(image)
            rgba = _to_srgb(upright)
        except _DECODER_ERRORS as error:
            raise PictureError(f"{_called(name)}the picture is truncated or damaged ({_first_line(error)})") from error
    if alpha:
        return np.array(rgba.convert("RGBA"))
    if rgba.mode == "RGB":
        return np.array(rgba)
    return _lay_on(np.array(rgba), ground)


def measure(data: bytes, *, name: str = "", max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """Media type, width and height as stored, from the file's header alone. Raises PictureError like `decode`."""
    with open_picture(data, name=name, max_pixels=max_pixels) as image:
        kind = "jpeg" if image.format == "MPO" else str(image.format).lower()  # MPO: a phone's JPEG with a second view
        return MEDIA_TYPES[kind], image.width, image.height


def read_text(data: bytes, *, name: str = "") -> dict[str, str]:
    """The texts that `encode_png` or `encode_webp` put into a file, by keyword."""
    with open_picture(data, name=name) as image:
        try:
            if image.format == "PNG":
                image.load()  # text chunks may also follow the pixels
                return {str(k): str(v) for k, v in getattr(image, "text", {}).items()}
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
        except _DECODER_ERRORS as error:
            raise PictureError(f"{_called(name)}the texts are damaged ({_first_line(error)})") from error
    return _read_comment(comment)


def lay_on_ground(pixels: np.ndarray, ground: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """uint8 (H, W, 4) composited over a plain colour: uint8 (H, W, 3). Without alpha, the pixels themselves."""
    return _lay_on(pixels, ground) if pixels.shape[2] == 4 else pixels


def _image(pixels: np.ndarray) -> Image.Image:
    from PIL import Image

    shape = pixels.shape
    if pixels.dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4)):
        raise ValueError(f"pixels must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {pixels.dtype} {shape}")
    if 0 in shape:
        raise ValueError(f"the picture has no pixels: {shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def open_picture(data: bytes, *, name: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture with its header read and no pixel decoded. Raises PictureError like `decode`."""
    from PIL import Image, UnidentifiedImageError

    if len(data) > MAX_BYTES:
        raise PictureError(f"{_called(name)}{len(data):,} bytes are more than {MAX_BYTES:,}; make it smaller")
    try:
        image = Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{_called(name)}the picture is too large ({error}); make it smaller") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{_called(name)}{_guess(data)}; give a PNG, JPEG, WebP or AVIF file") from error
    except _DECODER_ERRORS as error:
        raise PictureError(f"{_called(name)}the picture is truncated or damaged ({_first_line(error)})") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise PictureError(
            f"{_called(name)}{width}×{height} pixels are more than {max_pixels:,} pixels; make it smaller"
        )
    if getattr(image, "is_animated", False) and image.format != "MPO":
        image.close()
        raise PictureError(f"{_called(name)}the picture is animated; give a still one")
    return image


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The picture as RGB or RGBA in sRGB."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow would clip 16 bits instead of scaling them
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    profile = image.info.get("icc_profile")
    transparent = image.has_transparency_data
    opacity = image.convert("RGBA").getchannel("A") if transparent else None
    if image.mode not in ("RGB", "L", "CMYK") or not profile:
        colours = image.convert("RGB") if not transparent else image.convert("RGBA").convert("RGB")
    else:
        colours = image
    if profile:
        colours = _convert_profile(colours, profile)
    colours = colours.convert("RGB")
    if opacity is not None:
        colours.putalpha(opacity)
    return colours


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).casefold():
            return image
        spaces = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
        space = source.profile.xcolor_space.strip()
        if spaces.get(image.mode) != space:
            return image  # a grey profile on what became RGB: the values already are what they should be
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"its colour profile is unusable: {error}; save it as sRGB") from error
    assert converted is not None  # only None when asked to work in place
    return converted


def _lay_on(rgba: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    opacity = rgba[..., 3:].astype(np.uint32)
    mixed = rgba[..., :3] * opacity + np.array(ground, np.uint32) * (255 - opacity)
    return ((mixed + 127) // 255).astype(np.uint8)


# --- texts --------------------------------------------------------------------------------------------------


def _check_keyword(keyword: str) -> None:
    fits = 1 <= len(keyword) <= 79 and keyword == keyword.strip() and keyword.isprintable()
    if not fits or any(ord(character) > 255 for character in keyword):
        raise ValueError(f"{keyword[:90]!r} is no PNG keyword: 1 to 79 printable Latin-1 characters, no outer spaces")


def _storable(text: str) -> str:
    return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def comment_exif(text: Mapping[str, str]) -> bytes:
    """An EXIF block whose user comment holds texts: plain where it is only `parameters`, else one JSON object."""
    from PIL import Image

    texts = {keyword: _storable(value) for keyword, value in text.items()}
    plain = texts.get(PARAMETERS, "{") if len(texts) == 1 else "{"
    comment = json.dumps(texts, ensure_ascii=False) if plain.startswith("{") else plain
    exif = Image.Exif()
    # EXIF 2.32, 4.6.5 UserComment: eight bytes name the character code, UNICODE being UTF-16
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be")
    return exif.tobytes()


def _read_comment(comment: bytes) -> dict[str, str]:
    if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
        return {}
    text = comment[8:].decode("utf-16-be", "replace")
    if text.startswith("{"):
        try:
            return {str(k): str(v) for k, v in json.loads(text).items()}
        except ValueError:
            pass  # someone else's comment that happens to begin with a brace
    return {PARAMETERS: text}


# --- words --------------------------------------------------------------------------------------------------


def _called(name: str) -> str:
    return f"{name}: " if name else ""


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _guess(data: bytes) -> str:
    """What bytes that no allowed decoder knows seem to be."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "the file is empty"
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "SVG is not accepted (it can load files and run scripts)"
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page, not a picture"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not a picture"
    for magic, kind in ((b"gif8", "GIF"), (b"%pdf", "PDF"), (b"8bps", "PSD"), (b"bm", "BMP"), (b"ii*\0", "TIFF")):
        if start.startswith(magic):
            return f"{kind} is not accepted"
    return "this is not a picture of an accepted format"
