"""Contact sheets: every asset with all its candidates in rank order, as a PNG for people.

A card per asset: id and label to the left, the candidates beside them, chosen ones framed and numbered, a score and
a short reason under each. Small pictures (pixel art) are enlarged by whole factors without blur.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from assetmill.deliver.lettering import INK, Lettering
from assetmill.deliver.picture import PictureError, decode, encode_png

if TYPE_CHECKING:
    from PIL import Image

ROWS_PER_PAGE = 60
"""Cards on one page by default; image viewers grow slow beyond."""

_PAPER, _CARD, _LINE = (244, 243, 239), (255, 255, 255), (226, 223, 216)
_FAINT, _ACCENT, _WARN = (122, 119, 112), (13, 128, 96), (178, 72, 30)
_CHECKS = ((255, 255, 255), (232, 231, 228))
_HATCH = (238, 236, 231)

_MARGIN, _GAP, _PAD = 36, 16, 16
_LABEL_WIDTH = 168
_WIDEST = 1640
_PER_LINE = 8
_BETWEEN = 12  # between two pictures of a card: room for frames
_SMALL_LINE, _BIG_LINE = 15, 18


@dataclass(frozen=True, slots=True)
class ContactRow:
    """One asset on the sheet.

    `pictures` in rank order: encoded bytes, uint8 (H, W, C) arrays, or None where there is none. `captions`: one
    per picture, the first line (a score) stands out, what follows (a reason) is set small. `chosen` are positions
    in `pictures`, rank 1 first; `rejected` positions are drawn pale. `note` is a remark on the asset ("exhausted").
    """

    asset_id: str
    label: str = ""
    pictures: Sequence[bytes | np.ndarray | None] = ()
    captions: Sequence[str] = ()
    chosen: Sequence[int] = ()
    rejected: Sequence[int] = ()
    note: str = ""


def draw_contact_sheet(
    rows: Sequence[ContactRow],
    path: Path | str | None = None,
    *,
    title: str = "Contact sheet",
    date: str = "",
    rows_per_page: int = ROWS_PER_PAGE,
    edge: int | None = None,
) -> bytes:
    """The PNG of the first page; with `path`, all pages are written there (`sheet.png`, `sheet-2.png`, …).

    `edge` is the room for one picture in pixels; found from the pictures if left out. Pictures that cannot be
    read are shown as such: a sheet is for looking, it never fails over one of them.
    """
    pages = contact_pages(rows, title=title, date=date, rows_per_page=rows_per_page, edge=edge)
    first = next(pages)
    if path is not None:
        path = Path(path)
        _write(path, first)
        for number, page in enumerate(pages, start=2):
            _write(path.with_name(f"{path.stem}-{number}{path.suffix}"), page)
    return first


def contact_pages(
    rows: Sequence[ContactRow],
    *,
    title: str = "Contact sheet",
    date: str = "",
    rows_per_page: int = ROWS_PER_PAGE,
    edge: int | None = None,
) -> Iterator[bytes]:
    """The PNGs of all pages, drawn one after another; at least one."""
    if rows_per_page < 1:
        raise ValueError(f"rows_per_page is {rows_per_page}; give at least 1")
    edge = edge or _find_edge(rows)
    num_pages = max(1, -(-len(rows) // rows_per_page))
    facts = [date, *_counts(rows)]
    for number in range(num_pages):
        part = rows[number * rows_per_page : (number + 1) * rows_per_page]
        facts_here = [*facts, f"page {number + 1} of {num_pages}"] if num_pages > 1 else facts
        # level 2 takes half the time of level 6 for a sixth more bytes, and the end of a run waits for it
        yield encode_png(_draw_page(part, title, "  ·  ".join(filter(None, facts_here)), edge), level=2)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _counts(rows: Sequence[ContactRow]) -> list[str]:
    def many(number: int, one: str) -> str:
        return f"{number:,} {one}{'' if number == 1 else 's'}"

    return [
        many(len(rows), "asset"),
        many(sum(len(row.pictures) for row in rows), "candidate"),
        f"{sum(len(row.chosen) for row in rows):,} chosen",
    ]


def _find_edge(rows: Sequence[ContactRow]) -> int:
    """Room that suits the pictures: a whole multiple of small ones, a fixed one for large ones."""
    largest = 0
    for row in rows[:8]:
        for data in row.pictures:
            picture = _pixels(data)
            if picture is not None:
                largest = max(largest, *picture.shape[:2])
    if not largest:
        return 128
    return largest * max(1, 144 // largest) if largest <= 160 else 176


# --- a page -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Card:
    """A row with its texts broken into lines; heights in pixels."""

    row: ContactRow
    name: list[str]
    label: list[str]
    note: list[str]
    captions: list[list[str]]
    caption_height: int
    height: int


def _draw_page(rows: Sequence[ContactRow], title: str, facts: str, edge: int) -> np.ndarray:
    from PIL import Image

    letters = Lettering()
    per_line = max(1, min(_PER_LINE, max((len(row.pictures) for row in rows), default=1)))
    card_width = 2 * _PAD + _LABEL_WIDTH + per_line * (edge + _BETWEEN)
    columns = max(1, min((_WIDEST + _GAP) // (card_width + _GAP), 3, len(rows) or 1))
    cards = [_measure_card(row, letters, edge, per_line) for row in rows]
    lines = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    heights = [max(card.height for card in line) for line in lines]

    width = max(2 * _MARGIN + columns * card_width + (columns - 1) * _GAP, 640)
    header = 112
    height = header + sum(heights) + _GAP * max(len(heights) - 1, 0) + _MARGIN
    page = Image.new("RGB", (width, max(height, header + 60)), _PAPER)

    room = width - 2 * _MARGIN
    letters.draw(page, (_MARGIN, 30), letters.cut(title, 28, room - 210, weight=0.6), 28, INK, weight=0.6)
    letters.draw(page, (_MARGIN, 70), letters.cut(facts, 14, room), 14, _FAINT)
    _draw_legend(page, letters, width - _MARGIN)
    if not rows:
        letters.draw(page, (_MARGIN, header), "Nothing to show.", 16, _FAINT)

    top = header
    for line, line_height in zip(lines, heights, strict=True):
        for column, card in enumerate(line):
            left = _MARGIN + column * (card_width + _GAP)
            _draw_card(page, letters, card, (left, top, card_width, line_height), edge, per_line)
        top += line_height + _GAP
    return np.asarray(page)


def _draw_legend(page: Image.Image, letters: Lettering, right: int) -> None:
    text = "chosen, by rank"
    left = right - letters.width(text, 13)
    letters.draw(page, (left, 38), text, 13, _FAINT)
    _paste_badge(page, letters, (left - 20, 46), 1)


def _measure_card(row: ContactRow, letters: Lettering, edge: int, per_line: int) -> _Card:
    name = letters.wrap(row.asset_id, 16, _LABEL_WIDTH - 16, 3, weight=0.45)
    label = letters.wrap(row.label, 13, _LABEL_WIDTH - 16, 5)
    note = letters.wrap(row.note, 12, _LABEL_WIDTH - 16, 4)
    captions = [
        [
            *letters.wrap(first, 13, edge, 1, weight=0.35),
            *letters.wrap(" ".join(rest), 11, edge, 3),
        ]
        for first, *rest in (_caption(row, i).split("\n") for i in range(len(row.pictures)))
    ]
    deepest = max((len(lines) for lines in captions), default=0)
    caption_height = 8 + (_BIG_LINE + (deepest - 1) * _SMALL_LINE if deepest else 0)
    num_lines = -(-len(row.pictures) // per_line)
    pictures_height = num_lines * (edge + caption_height) + max(num_lines - 1, 0) * 10
    label_height = 21 * len(name) + 18 * len(label) + 17 * len(note) + 10
    height = 2 * _PAD + max(pictures_height, label_height, 56)
    return _Card(row, name, label, note, captions, caption_height, height)


def _caption(row: ContactRow, i: int) -> str:
    return row.captions[i] if i < len(row.captions) else ""


def _draw_card(
    page: Image.Image,
    letters: Lettering,
    card: _Card,
    box: tuple[int, int, int, int],
    edge: int,
    per_line: int,
) -> None:
    left, top, width, height = box
    page.paste(_LINE, (left, top), _rounded(width, height, 10))
    page.paste(_CARD, (left + 1, top + 1), _rounded(width - 2, height - 2, 9))

    x, y = left + _PAD, top + _PAD - 2
    for lines, size, step, colour, weight in (
        (card.name, 16, 21, INK, 0.45),
        (card.label, 13, 18, _FAINT, 0.0),
        (card.note, 12, 17, _WARN, 0.2),
    ):
        for text in lines:
            letters.draw(page, (x, y), text, size, colour, weight=weight)
            y += step
        y += 3 if lines else 0

    ranks = {position: number for number, position in enumerate(card.row.chosen, start=1)}
    for i, data in enumerate(card.row.pictures):
        line, column = divmod(i, per_line)
        x = left + _PAD + _LABEL_WIDTH + column * (edge + _BETWEEN) + _BETWEEN // 2
        y = top + _PAD + line * (edge + card.caption_height + 10)
        pale = i in card.row.rejected
        _draw_picture(page, letters, data, (x, y), edge, pale)
        if i in ranks:
            _paste_frame(page, (x, y), edge)
            _paste_badge(page, letters, (x + 2, y + 2), ranks[i])
        _draw_caption(page, letters, card.captions[i], (x, y + edge + 8), i in ranks, pale)


def _draw_caption(
    page: Image.Image, letters: Lettering, lines: Sequence[str], at: tuple[int, int], chosen: bool, pale: bool
) -> None:
    x, y = at
    for number, text in enumerate(lines):
        if number == 0:
            colour = _ACCENT if chosen else _WARN if pale else INK
            letters.draw(page, (x, y), text, 13, colour, weight=0.35)
            y += _BIG_LINE
        else:
            letters.draw(page, (x, y), text, 11, _FAINT)
            y += _SMALL_LINE


# --- pictures -----------------------------------------------------------------------------------------------


def fit(picture: np.ndarray, edge: int) -> np.ndarray:
    """A uint8 (H, W, C) picture fitted into a square of `edge` pixels, its proportions kept.

    Smaller ones are enlarged by the largest whole factor that fits, pixel by pixel; larger ones are filtered down.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    largest = max(height, width)
    if largest <= edge:
        factor = edge // largest
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (max(1, round(width * edge / largest)), max(1, round(height * edge / largest)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _draw_picture(
    page: Image.Image,
    letters: Lettering,
    data: bytes | np.ndarray | None,
    at: tuple[int, int],
    edge: int,
    pale: bool,
) -> None:
    from PIL import Image

    x, y = at
    mask = _rounded(edge, edge, 4)
    picture = _pixels(data)
    if picture is None:
        page.paste(_HATCH, (x, y), mask)
        text = "no picture" if data is None else "unreadable"
        letters.draw(page, (x + (edge - letters.width(text, 12)) // 2, y + edge // 2 - 8), text, 12, _FAINT)
        return
    shown = fit(picture, edge)
    height, width = shown.shape[:2]
    ground = Image.new("RGB", (edge, edge), _HATCH)
    place = ((edge - width) // 2, (edge - height) // 2)
    if shown.shape[2] == 4 and shown[..., 3].min() < 255:
        ground.paste(_checkerboard(width, height), place)
        ground.paste(Image.fromarray(shown[..., :3]), place, Image.fromarray(shown[..., 3]))
    else:
        ground.paste(Image.fromarray(np.ascontiguousarray(shown[..., :3])), place)
    if pale:
        ground = Image.blend(ground, Image.new("RGB", ground.size, _CARD), 0.6)
    page.paste(ground, (x, y), mask)


def _pixels(data: bytes | np.ndarray | None) -> np.ndarray | None:
    """uint8 (H, W, 3 or 4), or None where there is no picture or none that can be read."""
    if data is None:
        return None
    if isinstance(data, np.ndarray):
        return data if data.ndim == 3 else np.stack([data] * 3, axis=-1)
    try:
        return decode(data, alpha=True)
    except PictureError:
        return None


def _checkerboard(width: int, height: int, step: int = 8) -> Image.Image:
    from PIL import Image

    y, x = np.mgrid[:height, :width] // step
    return Image.fromarray(np.where(((x + y) % 2)[..., None], _CHECKS[1], _CHECKS[0]).astype(np.uint8))


# --- smooth shapes (Pillow draws them with stairs) ----------------------------------------------------------


@lru_cache(maxsize=256)
def _rounded(width: int, height: int, radius: int) -> Image.Image:
    """A mask of a rectangle with round corners, its edges smoothed. Only the corners are drawn large."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (width, height), 255)
    radius = min(radius, width // 2, height // 2)
    if radius < 1:
        return mask
    factor = 8
    disc = Image.new("L", (2 * radius * factor, 2 * radius * factor), 0)
    ImageDraw.Draw(disc).ellipse((0, 0, 2 * radius * factor - 1, 2 * radius * factor - 1), fill=255)
    disc = disc.resize((2 * radius, 2 * radius), Image.Resampling.BOX)
    for right in (False, True):
        for low in (False, True):
            corner = disc.crop((radius * right, radius * low, radius * (right + 1), radius * (low + 1)))
            mask.paste(corner, ((width - radius) * right, (height - radius) * low))
    return mask


@lru_cache(maxsize=16)
def _ring(edge: int, thickness: int, distance: int, radius: int) -> Image.Image:
    """A mask of a frame around a square of `edge` pixels, `distance` pixels away from it."""
    from PIL import Image, ImageChops

    outer = edge + 2 * (thickness + distance)
    inner = Image.new("L", (outer, outer), 0)
    inner.paste(_rounded(edge + 2 * distance, edge + 2 * distance, radius), (thickness, thickness))
    return ImageChops.subtract(_rounded(outer, outer, radius + thickness), inner)


def _paste_frame(page: Image.Image, at: tuple[int, int], edge: int) -> None:
    thickness, distance = 3, 1
    shift = thickness + distance
    page.paste(_ACCENT, (at[0] - shift, at[1] - shift), _ring(edge, thickness, distance, 5))


def _paste_badge(page: Image.Image, letters: Lettering, centre: tuple[int, int], rank: int) -> None:
    """A numbered disc around `centre`."""
    text = str(rank)
    width = max(22, letters.width(text, 13, weight=0.5) + 12)
    x, y = centre[0] - width // 2, centre[1] - 11
    page.paste(_CARD, (x - 2, y - 2), _rounded(width + 4, 26, 13))
    page.paste(_ACCENT, (x, y), _rounded(width, 22, 11))
    letters.draw_centred(page, centre, text, 13, (255, 255, 255), weight=0.5)
