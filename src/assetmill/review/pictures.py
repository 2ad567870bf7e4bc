"""Pictures for the page: small copies made once and kept in the store, large ones made when asked for.

Stored bytes are never handed out as they are. They may come from outside and hold anything behind their pixels, so
every picture is decoded by the strict decoder and encoded anew, without metadata.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from assetmill.deliver.picture import EXTENSIONS, PictureError, decode, encode_webp
from assetmill.storage.layout import thumbnail_path
from assetmill.storage.store import MissingObject, Store, get_blob

MEDIA_TYPE = "image/webp"

THUMBNAIL_EDGE = 320
"""Longest edge of a small copy, in pixels: sharp at the largest size of the contact sheet on a usual screen."""

LARGE_EDGE = 4096
"""Longest edge of a large copy, in pixels."""

_QUALITY = 82
_LARGE_QUALITY = 92
_LOSSLESS_PIXELS = 512 * 512
"""Up to that size a large copy is lossless: pixel art must not be smeared when it is looked at closely."""


class Pictures:
    """Makes and remembers copies. May be called from any thread; two threads that want one copy make it once."""

    def __init__(self, store: Store, *, memory: int = 96 * 2**20) -> None:
        self._store = store
        self._recent = _Recent(memory)
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def thumbnail(self, blob: str, media_type: str) -> bytes:
        """A WebP of at most THUMBNAIL_EDGE pixels. Raises MissingObject, CorruptObject, PictureError."""
        return self._once(f"s{blob}", lambda: self._stored_thumbnail(blob, media_type))

    def large(self, blob: str, media_type: str) -> bytes:
        """A WebP of the whole picture, at most LARGE_EDGE pixels. Raises MissingObject, CorruptObject, PictureError."""
        return self._once(f"l{blob}", lambda: encode_large(self._read(blob, media_type)))

    def _stored_thumbnail(self, blob: str, media_type: str) -> bytes:
        key = thumbnail_path(blob)
        try:
            data = self._store.get(key)
            if is_whole_webp(data):
                return data
            damaged = True
        except MissingObject:
            damaged = False
        data = encode_thumbnail(self._read(blob, media_type))
        put = self._store.replace if damaged else self._store.put_if_absent
        put(key, data, media_type=MEDIA_TYPE)
        return data

    def _read(self, blob: str, media_type: str) -> np.ndarray:
        extension = EXTENSIONS.get(media_type)
        if extension is None:
            raise PictureError(f"blob {blob[:12]} is of type {media_type!r}, which the page does not show")
        return decode(get_blob(self._store, blob, extension), alpha=True, name=f"blob {blob[:12]}")

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        if (found := self._recent.get(name)) is not None:
            return found
        with self._lock:
            alone = self._making.setdefault(name, threading.Lock())
        with alone:
            try:
                if (found := self._recent.get(name)) is None:
                    found = make()
                    self._recent.put(name, found)
                return found
            finally:
                with self._lock:
                    self._making.pop(name, None)


def encode_thumbnail(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 4) as a WebP whose longest edge is at most THUMBNAIL_EDGE; smaller pictures keep their size."""
    small = _shrink(pixels, THUMBNAIL_EDGE)
    if small.shape == pixels.shape:
        return encode_webp(_plain(pixels))
    return _lossy(small, _QUALITY)


def encode_large(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 4) as a WebP of at most LARGE_EDGE, lossless for small pictures."""
    large = _shrink(pixels, LARGE_EDGE)
    if large.shape[0] * large.shape[1] <= _LOSSLESS_PIXELS:
        return encode_webp(_plain(large))
    return _lossy(large, _LARGE_QUALITY)


def is_whole_webp(data: bytes) -> bool:
    """Whether bytes begin like a WebP and have the length that their header says (a cut file has not)."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") + 8 == len(data)


def _shrink(pixels: np.ndarray, edge: int) -> np.ndarray:
    from PIL import Image

    height, width = pixels.shape[:2]
    if max(height, width) <= edge:
        return pixels
    scale = edge / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Without an alpha that is opaque everywhere."""
    return pixels if pixels.shape[2] == 4 and pixels[..., 3].min() < 255 else np.ascontiguousarray(pixels[..., :3])


def _lossy(pixels: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(_plain(pixels)).save(out, "WEBP", quality=quality, method=3)
    return out.getvalue()


class _Recent:
    """Bytes by name, the least recently used dropped beyond a total size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        with self._lock:
            if (data := self._held.get(name)) is not None:
                self._held.move_to_end(name)
            return data

    def put(self, name: str, data: bytes) -> None:
        with self._lock:
            if name in self._held or len(data) > self._limit // 4:
                return
            self._held[name] = data
            self._size += len(data)
            while self._size > self._limit:
                _, dropped = self._held.popitem(last=False)
                self._size -= len(dropped)
