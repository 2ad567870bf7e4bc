"""Text on pictures, for whatever a spreadsheet holds: fonts by what they cover, lines broken and cut to fit.

Pillow's own font comes first; characters it lacks are looked for in the DejaVu font that matplotlib brings and then
in well-known fonts of the system. What no font holds is drawn as a box.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Colour = tuple[int, int, int]

INK: Colour = (33, 35, 41)

_SYSTEM_FONTS = (
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "NotoSansJP-Regular.otf",
    "NotoSansKR-Regular.otf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "NotoEmoji-Regular.ttf",
    "Symbola.ttf",
)
_LONGEST = 2000
_FINE = 4
"""How much larger than needed letters are drawn."""


class Lettering:
    """Draws and measures single lines of any text. Sizes, widths and positions in pixels.

    `weight` is the width of an outline in the text's colour: 0.35 reads as medium, 0.6 as bold.
    """

    def width(self, text: str, size: int, *, weight: float = 0.0) -> int:
        """Width of a line, rounded up."""
        length = sum(font.getlength(run) for font, run in _runs(clean(text), size * _FINE))
        return ceil(length / _FINE + 2 * weight)

    def draw(
        self,
        page: Image.Image,
        at: tuple[int, int],
        text: str,
        size: int,
        colour: Colour,
        *,
        weight: float = 0.0,
    ) -> None:
        """Draws a line with its upper left corner at `at`; lines of one size share a base line in all fonts."""
        base = at[1] + round(size * 0.95)
        self._paste(page, (at[0], base), clean(text), size, colour, weight)

    def draw_centred(
        self,
        page: Image.Image,
        centre: tuple[int, int],
        text: str,
        size: int,
        colour: Colour,
        *,
        weight: float = 0.0,
    ) -> None:
        """Draws a number (one font, no descenders) around `centre`, by its ink."""
        font = _font(0, size * _FINE)
        left, top, right, bottom = (edge / _FINE for edge in font.getbbox(text, anchor="ls"))
        at = (centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2)
        self._paste(page, at, text, size, colour, weight)

    def _paste(
        self, page: Image.Image, at: tuple[float, float], text: str, size: int, colour: Colour, weight: float
    ) -> None:
        """Draws from a base line's start: large, then averaged down, so that letters stand where they belong
        between pixels too (Pillow moves each to a whole one, which makes small text uneven)."""
        from PIL import Image, ImageDraw

        above, below, side = 2 * size, size, 2
        width = self.width(text, size, weight=weight) + 2 * side + 1
        mask = Image.new("L", (width * _FINE, (above + below) * _FINE), 0)
        draw = ImageDraw.Draw(mask)
        x0, y0 = int(at[0]), int(at[1])
        x, y = (side + at[0] - x0) * _FINE, (above + at[1] - y0) * _FINE
        for font, run in _runs(text, size * _FINE):
            draw.text((x, y), run, font=font, fill=255, anchor="ls", stroke_width=weight * _FINE, stroke_fill=255)
            x += font.getlength(run)
        page.paste(colour, (x0 - side, y0 - above), mask.reduce(_FINE))

    def cut(self, text: str, size: int, width: int, *, weight: float = 0.0) -> str:
        """The text, or as much of its beginning as fits into `width` with an ellipsis."""
        text = clean(text)
        if self.width(text, size, weight=weight) <= width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle].rstrip() + "…", size, weight=weight) <= width:
                low = middle
            else:
                high = middle - 1
        return text[:low].rstrip() + "…"

    def wrap(self, text: str, size: int, width: int, num_lines: int, *, weight: float = 0.0) -> list[str]:
        """At most `num_lines` lines no wider than `width`; the last one is cut where more would follow."""
        lines: list[str] = []
        rest = clean(text)
        while rest and len(lines) < num_lines:
            if len(lines) == num_lines - 1:
                lines.append(self.cut(rest, size, width, weight=weight))
                break
            end = self._break(rest, size, width, weight)
            lines.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
        return lines

    def _break(self, text: str, size: int, width: int, weight: float) -> int:
        """Where the first line of `text` ends: after a space or a joint of words, else in the middle of one."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle], size, weight=weight) <= width:
                low = middle
            else:
                high = middle - 1
        if low == len(text) or text[low] == " ":
            return low
        spaces = [i + 1 for i in range(low) if text[i] == " "]
        joints = [i + 1 for i in range(low) if text[i] in "-_/,;:." and not text[i + 1].isdigit()]  # never within 0.98
        for ends in (spaces, joints):
            if ends and ends[-1] > low // 3:
                return ends[-1]
        return low


def clean(text: str) -> str:
    """A text as one drawable line: composed, white space and control characters as single spaces, marks that only
    direct layout (joiners, bidirectional controls) left out, lone surrogates as U+FFFD."""
    text = unicodedata.normalize("NFC", text[:_LONGEST])
    return " ".join("".join(_drawable(character) for character in text).split())


def _drawable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    if category == "Cs":
        return "\ufffd"
    return "" if category == "Cf" or "\ufe00" <= character <= "\ufe0f" else character


# --- fonts --------------------------------------------------------------------------------------------------


def _runs(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
    """The text in stretches that one font covers; combining marks stay with what they sit on."""
    start, current = 0, 0
    for i, character in enumerate(text):
        if i > start and unicodedata.category(character).startswith("M"):
            continue
        number = current if character == " " and i > start else _font_for(character)
        if i == 0:
            current = number
        elif number != current:
            yield _font(current, size), text[start:i]
            start, current = i, number
    if text:
        yield _font(current, size), text[start:]


@lru_cache(maxsize=8192)
def _font_for(character: str) -> int:
    """The number of the first font that holds a character; 0 where none does."""
    for number in range(len(_font_files()) + 1):
        font = _font(number, 16)
        if bytes(font.getmask(character)) != _missing(number) or character.isspace():
            return number
    return 0


@lru_cache(maxsize=32)
def _missing(number: int) -> bytes:
    """How a font draws a character that it lacks (U+10FFFF never is one)."""
    return bytes(_font(number, 16).getmask("\U0010ffff"))


@lru_cache(maxsize=256)
def _font(number: int, size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    if number == 0:
        font = ImageFont.load_default(size=size)
        assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
        return font
    return ImageFont.truetype(_font_files()[number - 1], size)


@lru_cache(maxsize=1)
def _font_files() -> tuple[str, ...]:
    """Fonts to fall back on, those that are there."""
    from PIL import ImageFont

    found = []
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin:
        bundled = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if bundled.is_file():
            found.append(str(bundled))
    for name in _SYSTEM_FONTS:
        try:
            found.append(str(ImageFont.truetype(name, 16).path))
        except OSError:
            continue
    return tuple(found)
