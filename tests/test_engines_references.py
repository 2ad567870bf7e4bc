"""Reference images are found, checked and pinned; what is read once is not read again."""

from __future__ import annotations

import io
import ipaddress
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assetmill.config import ReferencesConfig, StoreConfig
from assetmill.deliver.picture import decode
from assetmill.engines.references import References, StoredPictures, UnusableReference, alpha_mask, luminance
from assetmill.records import InputError, Reference, Request, blob_key
from assetmill.storage.layout import blob_path, references_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, open_store, put_blob
from picture_server import PictureServer, picture_server, png


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(StoreConfig(options={"durability": "process"}), str(tmp_path / "out"))


@pytest.fixture
def site() -> Iterator[PictureServer]:
    with picture_server() as server:
        yield server


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def make(
    store: Store, base: Path, decoder: Any = decode, folders: tuple[Path, ...] = (), **settings: Any
) -> References:
    settings = {"networks": ["127.0.0.0/8"], **settings}
    return References(store, ReferencesConfig(**settings), "toys", base, folders, decoder)


def request(*references: Reference) -> Request:
    return Request("simulated", 1, "m", "r", "a", 0, 8, 8, 1, 1.0, operation="inpaint", references=references)


def test_a_file_is_found_kept_and_read_back(store: Store, base: Path) -> None:
    """A path gives hash, size and format; after `keep` the store has the bytes as they are, engines their pixels."""
    data = png(12, 8)
    (base / "photo.png").write_bytes(data)
    references = make(store, base)
    found = references.find("photo.png")
    assert (found.blob, found.extension, found.width, found.height, found.alpha) == (blob_key(data), "png", 12, 8, "")
    assert store.stat(blob_path(found.blob, "png")) is None
    references.keep([found.blob])
    assert store.get(blob_path(found.blob, "png")) == data
    pixels = StoredPictures(store, decode)([request(Reference("init", found.blob))])[found.blob]
    assert (pixels.shape, pixels.dtype, tuple(pixels[0, 0])) == ((8, 12, 3), np.uint8, (200, 30, 60))


def test_size_is_that_of_the_upright_picture(store: Store, base: Path) -> None:
    """EXIF orientation counts: what engines see is what was measured."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(base / "phone.jpg", exif=exif)
    found = make(store, base).find("phone.jpg")
    assert (found.width, found.height, found.extension) == (10, 20, "jpg")


def test_an_unchanged_file_is_not_decoded_again(store: Store, base: Path) -> None:
    """A picture is decoded once per content, in this run and in later ones; a changed file again."""
    seen: list[int] = []

    def counting(data: bytes, **options: Any) -> np.ndarray:
        seen.append(len(data))
        return decode(data, **options)

    (base / "a.png").write_bytes(png())
    for _ in range(2):
        references = make(store, base, counting)
        references.prepare(["a.png", "./a.png", "a.png"])
        first = references.find("a.png")
    assert len(seen) <= 2  # both spellings at once, then never again
    done = len(seen)
    (base / "a.png").write_bytes(png(9, 9))
    assert make(store, base, counting).find("a.png") != first
    assert len(seen) == done + 1


@pytest.mark.parametrize("text", ["../secret.png", "/etc/hostname", "link.png", "sub/../../secret.png", "~/x.png"])
def test_paths_stay_inside(store: Store, base: Path, text: str) -> None:
    """A path out of the config's folder, also by a link, is refused; `references.folders` opens further ones."""
    (base.parent / "secret.png").write_bytes(png())
    (base / "link.png").symlink_to(base.parent / "secret.png")
    with pytest.raises(UnusableReference, match="leads out of|no image at") as caught:
        make(store, base).find(text)
    assert "secret" not in str(caught.value)
    assert make(store, base, folders=(base.parent,)).find("../secret.png").width == 8


def test_what_is_no_picture_is_told(store: Store, base: Path) -> None:
    """Missing, cut-off, foreign, too large and too many-pixelled files each get a reason and a way out."""
    files = {"cut.png": png(200, 200, compress_level=0)[:900], "page.svg": b"<svg onload='x'/>", "empty.png": b""}
    files |= {"large.png": png(60, 60, compress_level=0), "bomb.png": png(4000, 4000)}
    for name, data in files.items():
        (base / name).write_bytes(data)
    (base / "folder.png").mkdir()
    limits = {"max_pixels": 10**6, "max_bytes": 60_000}
    (base / "heavy.png").write_bytes(b"x" * 60_001)
    for text, message in (
        ("no.png", "no image at"), ("folder.png", "no image at"), ("cut.png", "truncated or damaged"),
        ("page.svg", "SVG is not accepted"), ("empty.png", "the file is empty"), ("heavy.png", "larger than 60,000"),
        ("bomb.png", "more than 1,000,000 pixels"), ("s3://bucket/a.png", "s3: is no place"),
        ("file:///etc/passwd", "file: is no place"), ("data:image/png;base64,AA", "data: is no place"),
        ("a\0.png", "cannot be read"), ("f" * 64, "is not in the store"), ("x" * 5000, "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(UnusableReference, match=message) as caught:
            make(store, base, **limits).find(text)
        assert caught.value.way_out


def test_pictures_of_the_store(store: Store, base: Path) -> None:
    """A blob is named by its key or by its digits alone."""
    data = png(10, 6)
    blob = put_blob(store, data, "png", "image/png")
    for text in (blob, blob_path(blob, "png"), f"{blob}.png"):
        found = make(store, base).find(text)
        assert (found.blob, found.width, found.height) == (blob, 10, 6)


def test_transparency_becomes_a_mask(store: Store, base: Path) -> None:
    """The alpha of a cut-out is a mask of its own, white where opaque, the same bytes everywhere."""
    pixels = np.zeros((300, 301, 4), np.uint8)
    pixels[50:200, 20:90] = (10, 200, 30, 255)
    pixels[0, 0, 3] = 128
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    (base / "cut.png").write_bytes(out.getvalue())
    references = make(store, base)
    found = references.find("cut.png")
    mask = alpha_mask(pixels)
    assert found.alpha == blob_key(mask)
    assert blob_key(mask) == "4f5fd2c5" or len(mask) > 300 * 301
    with Image.open(io.BytesIO(mask)) as image:
        assert image.mode == "L"
        assert (np.array(image) == pixels[..., 3]).all()
    references.keep([found.blob, found.alpha])
    given = StoredPictures(store, decode)([request(Reference("init", found.blob), Reference("mask", found.alpha))])
    assert (given[found.alpha] == pixels[..., 3]).all()
    assert tuple(given[found.blob][250, 250]) == (255, 255, 255)  # what is transparent lies on white
    assert alpha_mask(np.full((4, 4, 4), 255, np.uint8)) == b""


def test_masks_are_grey(store: Store) -> None:
    """A coloured mask counts by its luma, as Pillow has it."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.abs(luminance(pixels).astype(int) - np.array(Image.fromarray(pixels).convert("L"))).max() <= 1


def test_a_file_changed_since_the_plan_is_refused(store: Store, base: Path) -> None:
    """Between plan and run a picture may neither change nor go."""
    (base / "a.png").write_bytes(png())
    (base / "b.png").write_bytes(png(9, 9))
    references = make(store, base)
    blobs = [references.find(name).blob for name in ("a.png", "b.png")]
    (base / "a.png").write_bytes(png(10, 10))
    (base / "b.png").unlink()
    with pytest.raises(InputError) as caught:
        references.keep(blobs)
    assert sorted(p.message.split(" (")[0] for p in caught.value.problems) == [
        "the reference image changed since it was planned", "the reference image is gone",
    ]  # fmt: skip


def test_a_corrupt_reference_is_set_aside(store: Store, base: Path, tmp_path: Path) -> None:
    """A flipped bit in the store is found when the picture is read, and the next run puts it there again."""
    (base / "a.png").write_bytes(png())
    references = make(store, base)
    blob = references.find("a.png").blob
    references.keep([blob])
    place = store.local_path(blob_path(blob, "png"))
    assert place is not None
    place.write_bytes(png()[:-1] + b"x")
    pictures = StoredPictures(store, decode)
    with pytest.raises(CorruptObject):
        pictures([request(Reference("init", blob))])
    with pytest.raises(MissingObject):
        pictures([request(Reference("init", blob))])
    references.keep([blob])
    assert pictures([request(Reference("init", blob))])[blob].shape == (8, 8, 3)


def test_a_url_is_fetched_once(store: Store, base: Path, site: PictureServer) -> None:
    """A URL's bytes lie in the store at once; a later plan within `refresh_hours` asks nobody."""
    url = site.serve("/a.png?token=canary", png(5, 7), ETag='"1"')
    found = make(store, base).find(url)
    assert (found.width, found.height) == (5, 7)
    assert store.get(blob_path(found.blob, "png")) == png(5, 7)
    assert make(store, base).find(url) == found
    assert make(store, base, refresh_hours=None).find(url) == found
    assert len(site.asked) == 1
    assert b"canary" not in store.get(references_path("toys"))


def test_an_old_copy_is_asked_for_again(store: Store, base: Path, site: PictureServer) -> None:
    """An unchanged URL costs a 304; a changed one gives the new picture."""
    url = site.serve("/a.png", png(), ETag='"1"')
    first = make(store, base, refresh_hours=0).find(url)
    assert make(store, base, refresh_hours=0).find(url) == first
    assert site.asked[1][1]["If-None-Match"] == '"1"'
    site.serve("/a.png", png(4, 4), ETag='"2"')
    assert make(store, base, refresh_hours=0).find(url).width == 4


def test_a_silent_server_does_not_stop_a_night(
    store: Store, base: Path, site: PictureServer, caplog: pytest.LogCaptureFixture
) -> None:
    """When a server that gave a picture fails later, the stored one is used, with a warning; a new URL is an error."""
    url = site.serve("/a.png", png())
    found = make(store, base).find(url)
    site.status("/a.png", 503)
    with caplog.at_level(logging.WARNING):
        assert make(store, base, refresh_hours=0).find(url) == found
    assert "answers 503" in caplog.text
    with pytest.raises(UnusableReference, match="answers 503"):
        make(store, base).find(site.status("/b.png", 503))


def test_urls_are_guarded(store: Store, base: Path, site: PictureServer) -> None:
    """Without an explicit network nothing private is asked; what comes is decoded like any file."""
    url = site.serve("/a.png", png())
    with pytest.raises(UnusableReference, match="not a public address"):
        make(store, base, networks=[]).find(url)
    with pytest.raises(UnusableReference, match="not among references.hosts"):
        make(store, base, hosts=["cdn.example.com"]).find(url)
    with pytest.raises(UnusableReference, match="GIF is not accepted"):
        make(store, base).find(site.serve("/a.gif", b"GIF89a....", "image/png"))
    assert ipaddress.ip_network("127.0.0.0/8") in make(store, base).guard.networks
