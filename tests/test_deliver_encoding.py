"""Rendition files: what was composed comes back, says it is sRGB, and stays within its bytes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from assetmill.config import ChannelConfig, RenditionConfig
from assetmill.deliver.encoding import encode_rendition, srgb_profile
from assetmill.deliver.metadata import PNG_XMP, FileMetadata
from assetmill.deliver.picture import decode, measure, read_text
from assetmill.deliver.renditions import channel_renditions, compose

FORMATS = ("png", "jpeg", "webp", "webp-lossless", "avif")
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="mill"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def picture(channels: int = 3, size: int = 96, noise: float = 12) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    base = np.stack([x * 255 / size, y * 255 / size, (x + y) * 127 / size], axis=-1)
    noisy = base + np.random.default_rng(5).normal(0, noise, base.shape)
    pixels = noisy.clip(0, 255).astype(np.uint8)
    if channels == 4:
        opacity = np.clip((size * 0.4 - np.hypot(x - size / 2, y - size / 2)) * 64 + 128, 0, 255)
        pixels = np.dstack([pixels, opacity.astype(np.uint8)])
    return pixels


def rendition(**values: object) -> RenditionConfig:
    return channel_renditions(ChannelConfig.model_validate({"renditions": [values]}))[0]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_it_is_srgb(format: str) -> None:
    """The profile is in the file, byte for byte, and Little CMS takes it for sRGB."""
    made = encode_rendition(picture(), rendition(format=format))
    assert opened(made.data).info["icc_profile"] == srgb_profile()
    assert measure(made.data) == (made.media_type, 96, 96)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    grey = Image.fromarray(picture())
    same = ImageCms.profileToProfile(grey, profile, ImageCms.createProfile("sRGB"))
    assert same is not None
    assert np.abs(np.asarray(same).astype(int) - picture()).max() <= 1


@pytest.mark.parametrize("format", FORMATS)
def test_another_reader_finds_profile_and_metadata(format: str, tmp_path: Path) -> None:
    """exiftool reads the profile, the EXIF and the XMP of every format."""
    if shutil.which("exiftool") is None:
        assert not os.environ.get("CI"), "exiftool is missing"
        pytest.skip("needs exiftool")
    exif = Image.Exif()
    exif[0x8298] = "nobody"  # Copyright
    metadata = FileMetadata({"parameters": "a sword"}, exif.tobytes(), XMP)
    data = encode_rendition(picture(), rendition(format=format), metadata).data
    file = tmp_path / f"file.{format[:4]}"
    file.write_bytes(data)
    read = subprocess.run(["exiftool", "-j", "-G0", str(file)], check=True, capture_output=True, text=True).stdout
    found = json.loads(read)[0]
    assert found["ICC_Profile:ProfileDescription"] == "sRGB built-in"
    assert found["XMP:Source"] == "mill"
    assert "ExifTool:Warning" not in found
    if format == "png":
        assert found["PNG:Parameters"] == "a sword"
        assert read_text(data)["parameters"] == "a sword"
        assert PNG_XMP in read_text(data)
    else:
        assert found["EXIF:Copyright"] == "nobody"


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("format", ["png", "webp-lossless"])
def test_lossless_formats_keep_every_pixel(format: str, channels: int) -> None:
    """Colours under transparent pixels too: a game filters them."""
    pixels = picture(channels)
    made = encode_rendition(pixels, rendition(format=format))
    assert np.array_equal(decode(made.data, alpha=channels == 4), pixels)
    assert made.quality is None


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_lossy_formats_stay_close(format: str) -> None:
    """At high quality the colours are nearly the same, at full resolution of colour."""
    pixels = picture(noise=0)
    if format != "webp":  # lossy WebP always halves the resolution of colour
        pixels[::2, ::2] = (255, 0, 0)
    made = encode_rendition(pixels, rendition(format=format, quality=95))
    off = np.abs(decode(made.data).astype(int) - pixels)
    assert off.mean() < 4
    assert made.quality == 95


@pytest.mark.parametrize("format", ["webp", "avif"])
def test_lossy_formats_keep_alpha(format: str) -> None:
    pixels = picture(4)
    got = decode(encode_rendition(pixels, rendition(format=format, quality=90)).data, alpha=True)
    assert np.abs(got[..., 3].astype(int) - pixels[..., 3]).max() <= 40
    assert np.abs(got[..., 3].astype(int) - pixels[..., 3]).mean() < 1


@pytest.mark.parametrize("reserve", [0, 700])
@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_bytes_are_met_by_quality(format: str, reserve: int) -> None:
    """The file and what a signature adds stay within `max_bytes`, with the highest quality that does."""
    pixels, metadata = picture(size=160), FileMetadata({}, b"", XMP)
    free = len(encode_rendition(pixels, rendition(format=format, quality=90), metadata).data)
    limit = free * 2 // 3
    spec = rendition(format=format, quality=90, min_quality=5, max_bytes=limit)
    made = encode_rendition(pixels, spec, metadata, reserve=reserve)
    assert not made.problem
    assert len(made.data) + reserve <= limit
    assert made.quality is not None
    assert 5 <= made.quality < 90
    better = rendition(format=format, quality=made.quality + 1)
    assert len(encode_rendition(pixels, better, metadata).data) + reserve > limit


@pytest.mark.parametrize("format", FORMATS)
def test_what_does_not_fit_is_refused(format: str) -> None:
    """Never worse than allowed: the reason names both sizes."""
    made = encode_rendition(picture(), rendition(format=format, max_bytes=900), reserve=100)
    assert made.data == b""
    assert "beside 100 for its signature, above max_bytes 900" in made.problem


def test_a_png_gives_up_colours_only_where_allowed() -> None:
    """`min_colours` lets a PNG have fewer colours, as many as fit."""
    pixels = picture(4, size=128)
    whole = len(encode_rendition(pixels, rendition()).data)
    limit = whole // 3
    assert "lossless the file has" in encode_rendition(pixels, rendition(max_bytes=limit)).problem
    made = encode_rendition(pixels, rendition(max_bytes=limit, min_colours=16))
    assert len(made.data) <= limit
    assert made.quality in (256, 128, 64, 32, 16)
    got = decode(made.data, alpha=True)
    assert len(np.unique(got.reshape(-1, 4), axis=0)) <= made.quality
    assert np.abs(got[..., 3].astype(int) - pixels[..., 3]).mean() < 12


def test_a_locked_palette_is_stored_as_one(tmp_path: Path) -> None:
    """A picture of few colours is an indexed PNG, and every pixel comes back."""
    (tmp_path / "p.hex").write_text("112233\n445566\nffffff")
    channel = ChannelConfig.model_validate({"renditions": [{"palette": "p.hex"}]})
    spec = channel_renditions(channel, tmp_path)[0]
    for channels in (3, 4):
        pixels = compose(picture(channels, noise=60), spec).pixels
        data = encode_rendition(pixels, spec).data
        assert opened(data).mode == "P"
        assert np.array_equal(decode(data, alpha=channels == 4), pixels)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bytes_from_every_thread(format: str) -> None:
    pixels = picture(3 if format == "jpeg" else 4)
    spec = rendition(format=format)
    with ThreadPoolExecutor(4) as pool:
        made = {r.data for r in pool.map(lambda _: encode_rendition(pixels, spec), range(8))}
    assert len(made) == 1


def test_metadata_that_a_format_cannot_hold_is_refused() -> None:
    """JPEG ends at 64 KB a block: said, not cut off."""
    made = encode_rendition(picture(), rendition(format="jpeg"), FileMetadata(xmp=XMP + b" " * 70_000))
    assert made.data == b""
    assert "a JPEG holds" in made.problem


def test_wrong_pixels_are_errors() -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode_rendition(np.zeros((4, 4), np.uint8), rendition())
    with pytest.raises(ValueError, match="ground"):
        encode_rendition(picture(4), rendition(format="jpeg"))
