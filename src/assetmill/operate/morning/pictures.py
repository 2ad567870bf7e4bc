"""The small pictures inside the page: decoded by the strict decoder, made small, encoded anew without metadata."""

from __future__ import annotations

from assetmill.deliver.picture import EXTENSIONS, PictureError, decode, encode_webp
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob

EDGE = 192
"""Longest edge in pixels: sharp at the size of a card on usual screens; some 5 KB each."""

_QUALITY = 80


def small_picture(store: Store, blob: str, media_type: str) -> bytes | None:
    """A stored picture as a WebP of at most EDGE pixels; None where it is gone, damaged or of an unknown type."""
    extension = EXTENSIONS.get(media_type)
    if extension is None:
        return None
    try:
        pixels = decode(get_blob(store, blob, extension), alpha=True, name=f"blob {blob[:12]}")
    except (MissingObject, CorruptObject, PictureError):
        return None  # the report names damaged records; the card says that its picture is gone
    height, width = pixels.shape[:2]
    if max(height, width) <= EDGE // 2:
        return encode_webp(pixels)  # pixel art and the like stay as they are
    import io

    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if pixels[..., 3].min() == 255:
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()
