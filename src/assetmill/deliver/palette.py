"""Palettes that a picture is locked to: read from a file, matched by nearness in OKLab."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from assetmill.deliver.ground import to_lab
from assetmill.deliver.picture import PictureError, decode
from assetmill.records import InputError, Problem

MOST_COLOURS = 256
"""Largest palette: what an indexed PNG holds."""

_SHARE = 2**22
"""Distances computed at a time: bounds memory."""


@lru_cache(maxsize=32)
def read_palette(path: Path) -> np.ndarray:
    """The colours of a palette file, uint8 (N, 3) in sRGB, in the file's order and each once.

    A picture (its visible colours), `.hex` (one RRGGBB a line), `.gpl` (GIMP) or `.pal` (JASC). Raises InputError for
    what is none, or has no colours or more than 256.
    """
    try:
        data = path.read_bytes()
        found = _READERS.get(path.suffix.casefold(), _from_picture)(data)
    except (OSError, ValueError, PictureError) as error:
        raise InputError(
            Problem(
                f"the palette cannot be read ({error})", "give a picture, or a .hex, .gpl or .pal file", file=str(path)
            )
        ) from error
    colours = np.array(list(dict.fromkeys(map(tuple, found))), np.uint8).reshape(-1, 3)
    if not 1 <= len(colours) <= MOST_COLOURS:
        raise InputError(
            Problem(
                f"the palette has {len(colours)} colours", f"it needs 1 to {MOST_COLOURS}; reduce it", file=str(path)
            )
        )
    colours.flags.writeable = False
    return colours


def lock_colours(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3 or 4) with every colour replaced by the nearest of `palette`, uint8 (N, 3); alpha stays.

    No dithering. Of equally near colours the first counts.
    """
    rgb = np.ascontiguousarray(pixels[..., :3]).reshape(-1, 3).astype(np.uint32)
    packed = rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]
    colours, where = np.unique(packed, return_inverse=True)
    seen = to_lab(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8))
    wanted = to_lab(palette)
    nearest = np.empty(len(seen), np.intp)
    rows = max(1, _SHARE // len(wanted))
    for start in range(0, len(seen), rows):
        apart = seen[start : start + rows, None] - wanted[None]
        nearest[start : start + rows] = np.einsum("ijk,ijk->ij", apart, apart).argmin(axis=1)
    locked = pixels.copy()
    locked[..., :3] = palette[nearest][where].reshape(*pixels.shape[:2], 3)
    return locked


# --- files --------------------------------------------------------------------------------------------------


def _from_picture(data: bytes) -> list[tuple[int, ...]]:
    rgba = decode(data, alpha=True)
    visible = rgba[rgba[..., 3] > 0][:, :3]
    colours, first = np.unique(visible, axis=0, return_index=True)
    return [tuple(colours[i].tolist()) for i in np.argsort(first)]


def _from_hex(data: bytes) -> list[tuple[int, ...]]:
    lines = [line.strip().lstrip("#") for line in data.decode("utf-8-sig").splitlines()]
    return [_parse_hex(line) for line in lines if line and not line.startswith(";")]


def _from_gpl(data: bytes) -> list[tuple[int, ...]]:
    lines = data.decode("utf-8-sig").splitlines()
    if not lines or lines[0].strip() != "GIMP Palette":
        raise ValueError("its first line is not GIMP Palette")
    return [tuple(map(int, m.groups())) for line in lines[1:] if (m := _THREE.match(line))]


def _from_pal(data: bytes) -> list[tuple[int, ...]]:
    lines = data.decode("utf-8-sig").splitlines()
    if not lines or lines[0].strip() != "JASC-PAL":
        raise ValueError("its first line is not JASC-PAL")
    return [tuple(map(int, m.groups())) for line in lines[3:] if (m := _THREE.match(line))]


def _parse_hex(line: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9a-fA-F]{6}", line):
        raise ValueError(f"{line[:20]!r} is no RRGGBB")
    return tuple(bytes.fromhex(line))


_THREE = re.compile(r"\s*(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})(?:\s|$)")
_READERS = {".hex": _from_hex, ".gpl": _from_gpl, ".pal": _from_pal}
