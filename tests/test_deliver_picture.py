"""Pictures as bytes: lossless both ways, texts kept, and nothing that a stranger's file can do."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from assetmill.deliver.picture import (
    PictureError,
    decode,
    encode,
    encode_png,
    encode_webp,
    lay_on_ground,
    measure,
    read_text,
)

ODD_TEXT = "a sword — 剣, ⚔️\nSteps: 20, Seed: 7"


def photo(width: int = 48, height: int = 32, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 5, y * 7, x + y, 255 - x], axis=-1).astype(np.uint8)
    return picture[..., :channels]


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


small = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([3, 4])))


@settings(deadline=None)
@given(small, st.sampled_from(["png", "webp"]))
def test_lossless_both_ways(pixels: np.ndarray, format: str) -> None:
    """What is encoded comes back pixel for pixel, colours under transparency included."""
    assert np.array_equal(decode(encode(pixels, format), alpha=pixels.shape[2] == 4), pixels)


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(["png", "webp"]))
def test_any_text_comes_back(text: str, format: str) -> None:
    """Any text a spreadsheet can hold survives in the file, save what no text chunk can hold."""
    got = read_text(encode(photo(4, 4), format, {"parameters": text, "Title": "x"}))
    want = "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)
    assert got == {"parameters": want, "Title": "x"}


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("text", [ODD_TEXT, "{a|b} sword", '{"a": 1}'])
def test_settings_alone_stand_in_the_file(format: str, text: str) -> None:
    """The settings text is found again under its usual keyword, whatever it begins with."""
    assert read_text(encode(photo(), format, {"parameters": text})) == {"parameters": text}


def test_settings_lie_where_image_tools_look() -> None:
    """PNG: the iTXt chunk `parameters`; WebP: the EXIF user comment in UTF-16."""
    png = Image.open(io.BytesIO(encode_png(photo(), {"parameters": ODD_TEXT})))
    assert png.info["parameters"] == ODD_TEXT
    webp = Image.open(io.BytesIO(encode_webp(photo(), {"parameters": ODD_TEXT})))
    assert webp.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + ODD_TEXT.encode("utf-16-be")


def test_a_file_without_texts_has_none() -> None:
    """Reading texts from pictures that carry none gives an empty mapping."""
    assert read_text(encode_png(photo())) == read_text(encode_webp(photo())) == {}


@pytest.mark.parametrize("keyword", ["", " a", "x" * 80, "剣", "a\nb"])
def test_wrong_keywords_are_refused(keyword: str) -> None:
    """A keyword that PNG cannot hold is a ValueError, not a file that others cannot read."""
    with pytest.raises(ValueError, match="keyword"):
        encode_png(photo(), {keyword: "x"})


def test_encoding_is_stable_and_level_counts() -> None:
    """The same pixels give the same bytes, and a higher level fewer of them."""
    assert encode_png(photo(256, 256)) == encode_png(photo(256, 256))
    assert len(encode_png(photo(256, 256), level=9)) < len(encode_png(photo(256, 256), level=1))


def test_wrong_pixels_are_refused() -> None:
    """Floats, five channels, no pixels, unknown formats and edges beyond WebP's are told."""
    with pytest.raises(ValueError, match="float64"):
        encode_png(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="uint8"):
        encode_png(np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="no pixels"):
        encode_png(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="use png or webp"):
        encode(photo(), "gif")
    with pytest.raises(ValueError, match="use png"):
        encode_webp(np.zeros((1, 16384, 3), np.uint8))


def test_measure_reads_the_header_alone() -> None:
    """Type and size are known without decoding; even of a file cut after its header."""
    assert measure(encode_png(photo())[:60]) == ("image/png", 48, 32)
    assert measure(encode_webp(photo())) == ("image/webp", 48, 32)
    assert measure(saved(Image.fromarray(photo()), "JPEG")) == ("image/jpeg", 48, 32)
    assert measure(saved(Image.fromarray(photo()), "AVIF")) == ("image/avif", 48, 32)


# --- what strangers send ------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("edge", [9000, 12000, 60000])
def test_image_bombs_are_errors(edge: int) -> None:
    """A file of a hundred bytes that claims billions of pixels is refused from its header, at every size."""
    with pytest.raises(PictureError, match="make it smaller"):
        decode(png_header(edge, edge))


def test_limit_of_the_caller_counts() -> None:
    """A caller's own limit on pixels holds, the size being named."""
    with pytest.raises(PictureError, match=r"ref\.png: 48×32 pixels are more than 1,000"):
        decode(encode_png(photo()), max_pixels=1000, name="ref.png")


def test_text_bombs_are_errors() -> None:
    """A compressed text chunk that unpacks to twenty megabytes is refused."""
    packed = b"zTXtbomb\0\0" + zlib.compress(b"x" * 20_000_000)
    chunk = struct.pack(">I", len(packed) - 4) + packed + struct.pack(">I", zlib.crc32(packed))
    png = encode_png(photo())
    with pytest.raises(PictureError, match="damaged"):
        decode(png[:33] + chunk + png[33:])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is not accepted"),
        (b"\xef\xbb\xbf<svg/>", "SVG is not accepted"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (saved(Image.new("P", (4, 4)), "GIF"), "GIF is not accepted"),
        (saved(Image.new("RGB", (4, 4)), "TIFF"), "TIFF is not accepted"),
        (saved(Image.new("RGB", (4, 4)), "BMP"), "BMP is not accepted"),
        (b"not a picture at all", "give a PNG, JPEG, WebP or AVIF"),
    ],
)
def test_other_formats_are_refused_by_name(data: bytes, words: str) -> None:
    """Everything off the allow-list is refused, and the error says what it seems to be."""
    with pytest.raises(PictureError, match=words):
        decode(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_truncated_files_are_clear_errors(format: str) -> None:
    """A file cut anywhere is an error that says so, or (a few bytes from its end) still the whole picture."""
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format)
    whole = decode(data)
    for length in [*range(0, len(data), max(1, len(data) // 60)), len(data) - 1]:
        try:
            got = decode(data[:length])
        except PictureError as error:
            assert any(word in str(error) for word in ("truncated or damaged", "not a picture", "empty"))  # noqa: PT017
        else:
            assert length > len(data) - 40
            assert np.array_equal(got, whole)


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_damaged_files_never_crash(junk: bytes, at: int, format: str) -> None:
    """Whatever bytes are overwritten, a file decodes or raises PictureError."""
    data = bytearray(saved(Image.fromarray(photo(16, 16)), format))
    data[at : at + len(junk)] = junk
    try:
        decode(bytes(data))
    except PictureError:
        pass


def test_animations_are_refused() -> None:
    """A moving picture isn't taken for its first frame."""
    frames = [Image.fromarray(photo()), Image.fromarray(255 - photo())]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match="animated"):
        decode(data)


# --- what other programs mean -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(format: str) -> None:
    """A picture that a camera stored lying comes back upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    upright = decode(saved(Image.fromarray(picture), format, exif=exif.tobytes()))
    assert upright.shape == (32, 16, 3)
    assert upright[:12].min() > 240
    assert upright[20:].max() < 15


def test_transparent_parts_lie_on_the_ground() -> None:
    """Without alpha wanted, what is transparent takes the ground's colour, not the hidden one."""
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = [[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 128]]
    data = encode_png(pixels)
    assert decode(data)[0].tolist() == [[255, 255, 255], [255, 0, 0], [127, 127, 127]]
    assert decode(data, ground=(0, 9, 0))[0, 0].tolist() == [0, 9, 0]
    assert np.array_equal(decode(data), lay_on_ground(pixels))
    assert lay_on_ground(photo()) is not None


def test_palette_transparency_is_kept() -> None:
    """Transparency that a palette declares counts as alpha."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    data = saved(image, "PNG", transparency=0)
    assert decode(data, alpha=True)[0].tolist() == [[255, 0, 0, 0], [0, 0, 255, 255]]
    assert decode(data)[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_grey_cmyk_and_sixteen_bits_become_rgb() -> None:
    """Grey, CMYK and 16-bit pictures come as RGB with the values they mean."""
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(decode(saved(Image.fromarray(grey), "PNG"))[..., 0], (grey // 257).astype(np.uint8))
    assert decode(saved(Image.new("L", (4, 4), 77), "PNG"))[0, 0].tolist() == [77, 77, 77]
    assert decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[4, 4, 0] > 200
    assert decode(saved(Image.new("1", (4, 4), 1), "PNG"))[0, 0].tolist() == [255, 255, 255]


def test_colour_profiles_are_converted() -> None:
    """A picture in another colour space changes its values to mean the same in sRGB; one in sRGB doesn't."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(saved(Image.fromarray(photo()), "PNG", icc_profile=srgb)), photo())
    swapped = swap_primaries(srgb)
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert decode(saved(red, "PNG", icc_profile=swapped))[0, 0].tolist() != [255, 0, 0]
    with pytest.raises(PictureError, match="colour profile"):
        decode(saved(red, "PNG", icc_profile=b"no profile at all"))


def swap_primaries(profile: bytes) -> bytes:
    """sRGB with red and blue exchanged, under another name: a profile whose effect is plain to see."""
    data = bytearray(profile.replace(b"s\0R\0G\0B", b"S\0w\0a\0p").replace(b"sRGB built-in", b"Swap built-in"))
    tags = {}
    for i in range(struct.unpack(">I", data[128:132])[0]):
        name, offset, size = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        tags[name] = (132 + 12 * i, offset, size)
    red, blue = tags[b"rXYZ"][0], tags[b"bXYZ"][0]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    return bytes(data)
