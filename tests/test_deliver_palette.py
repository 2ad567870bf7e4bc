"""Palettes: read from the files artists use, matched by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assetmill.deliver.palette import lock_colours, read_palette
from assetmill.deliver.picture import encode_png
from assetmill.records import InputError

GPL = "GIMP Palette\nName: three\nColumns: 3\n# a comment\n255 0 0 red\n  0 128   0\tgreen\n0 0 255\n"
PAL = "JASC-PAL\n0100\n3\n255 0 0\n0 128 0\n0 0 255\n"
WANT = [[255, 0, 0], [0, 128, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.hex", b"FF0000\n#008000\n\n0000ff\nff0000\n"),
        ("p.GPL", GPL.encode()),
        ("p.pal", PAL.encode()),
        ("p.png", encode_png(np.array([[[255, 0, 0, 255], [0, 128, 0, 255], [9, 9, 9, 0], [0, 0, 255, 9]]], np.uint8))),
    ],
)
def test_palettes_are_read(name: str, data: bytes, tmp_path: Path) -> None:
    """The colours in the file's order, each once; invisible ones are none."""
    (tmp_path / name).write_bytes(data)
    assert read_palette(tmp_path / name).tolist() == WANT


@pytest.mark.parametrize(
    ("name", "data"),
    [("p.hex", b"red"), ("p.gpl", b"1 2 3"), ("p.pal", b"x"), ("p.png", b"no"), ("p.hex", b"")],
)
def test_what_is_no_palette_is_an_error(name: str, data: bytes, tmp_path: Path) -> None:
    """The error names the file and the way out."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="palette") as error:
        read_palette(tmp_path / name)
    assert name in str(error.value)


def test_too_many_colours(tmp_path: Path) -> None:
    (tmp_path / "p.hex").write_text("\n".join(f"{i:06x}" for i in range(257)))
    with pytest.raises(InputError, match="257 colours"):
        read_palette(tmp_path / "p.hex")


def test_nearest_by_eye() -> None:
    """A dark yellow is nearer to yellow than to grey."""
    seen = np.array([[[150, 140, 20, 77]]], np.uint8)
    palette = np.array([[128, 128, 128], [255, 240, 40], [120, 110, 10]], np.uint8)
    assert lock_colours(seen, palette).tolist() == [[[120, 110, 10, 77]]]


def test_locked_pictures_stay() -> None:
    """Colours of the palette are their own nearest."""
    palette = np.random.default_rng(0).integers(0, 256, (40, 3)).astype(np.uint8)
    pixels = palette[np.random.default_rng(1).integers(0, 40, (30, 20))]
    assert np.array_equal(lock_colours(pixels, palette), pixels)
