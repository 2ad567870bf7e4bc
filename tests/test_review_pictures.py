"""Copies of pictures are small, made once, made anew from pixels, and healed where they are damaged."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assetmill.config import StoreConfig
from assetmill.deliver.picture import PictureError, decode, encode_png
from assetmill.review import pictures
from assetmill.review.pictures import (
    LARGE_EDGE,
    THUMBNAIL_EDGE,
    Pictures,
    encode_large,
    encode_thumbnail,
    is_whole_webp,
)
from assetmill.storage.layout import thumbnail_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, open_store, put_blob


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(StoreConfig(options={"durability": "process"}), str(tmp_path))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 255, (height, width, channels), dtype=np.uint8)


def test_a_thumbnail_is_small_and_kept(store: Store) -> None:
    """At most 320 pixels, shape kept, a WebP in the store that the next page takes as it is."""
    blob = put_blob(store, encode_png(noise(300, 900)), "png", "image/png")
    data = Pictures(store).thumbnail(blob, "image/png")
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", (THUMBNAIL_EDGE, round(THUMBNAIL_EDGE / 3)))
    assert store.get(thumbnail_path(blob)) == data
    store.delete(f"blobs/{blob[:2]}/{blob}.png")
    assert Pictures(store).thumbnail(blob, "image/png") == data


def test_small_pictures_keep_every_pixel(store: Store) -> None:
    """Pixel art is copied without loss, in both sizes, transparency included."""
    pixels = noise(32, 48, 4)
    for data in (encode_thumbnail(pixels), encode_large(pixels)):
        assert np.array_equal(decode(data, alpha=True), pixels)


def test_metadata_stays_behind(store: Store) -> None:
    """What is served holds the pixels and nothing else: prompts in text chunks do not leave."""
    blob = put_blob(store, encode_png(noise(64, 64), {"parameters": "secret prompt"}), "png", "image/png")
    shown = Pictures(store)
    for data in (shown.thumbnail(blob, "image/png"), shown.large(blob, "image/png")):
        assert b"secret" not in data
        assert is_whole_webp(data)


def test_large_pictures_have_a_limit() -> None:
    """No picture is served beyond the limit; up to it the size is kept."""
    assert decode(encode_large(np.zeros((8, LARGE_EDGE * 2, 3), np.uint8))).shape == (4, LARGE_EDGE, 3)
    assert decode(encode_large(np.zeros((700, 600, 3), np.uint8))).shape == (700, 600, 3)


def test_a_damaged_thumbnail_is_made_again(store: Store) -> None:
    """A cut or foreign file under a thumbnail's key is never served."""
    blob = put_blob(store, encode_png(noise(64, 64)), "png", "image/png")
    whole = Pictures(store).thumbnail(blob, "image/png")
    for damaged in (whole[:-9], b"<script>alert(1)</script>", b""):
        store.replace(thumbnail_path(blob), damaged)
        assert Pictures(store).thumbnail(blob, "image/png") == whole
        assert store.get(thumbnail_path(blob)) == whole


def test_lost_and_damaged_pictures_are_said(store: Store) -> None:
    """A missing blob, one whose bytes changed, and one that is no picture are three errors."""
    shown = Pictures(store)
    with pytest.raises(MissingObject):
        shown.thumbnail("0" * 64, "image/png")
    blob = put_blob(store, encode_png(noise(8, 8)), "png", "image/png")
    store.replace(f"blobs/{blob[:2]}/{blob}.png", b"other")
    with pytest.raises(CorruptObject):
        shown.large(blob, "image/png")
    text = put_blob(store, b"no picture", "png", "image/png")
    with pytest.raises(PictureError):
        shown.thumbnail(text, "image/png")
    with pytest.raises(PictureError, match="does not show"):
        shown.thumbnail(blob, "text/html")


def test_many_at_once_make_it_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty requests for one thumbnail decode its picture once."""
    blob = put_blob(store, encode_png(noise(64, 64)), "png", "image/png")
    calls = []

    def counted(pixels: np.ndarray) -> bytes:
        calls.append(1)
        return encode_thumbnail(pixels)

    monkeypatch.setattr(pictures, "encode_thumbnail", counted)
    shown = Pictures(store)
    threads = [threading.Thread(target=shown.thumbnail, args=(blob, "image/png")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_memory_is_bounded(store: Store) -> None:
    """What is remembered stays within its limit, the oldest dropped."""
    recent = pictures._Recent(100)
    for n in range(20):
        recent.put(str(n), b"x" * 20)
    assert recent.get("19") is not None
    assert recent.get("0") is None
    assert recent._size <= 100
    recent.put("huge", b"x" * 90)
    assert recent.get("huge") is None
