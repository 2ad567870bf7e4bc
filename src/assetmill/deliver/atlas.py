"""Atlases: many sprites on few sheets, packed so that from night to night as little as possible moves.

A sheet is filled with cells. A cell is a sprite's frame (what is left when transparent borders are trimmed), with its
edges repeated outwards `extrude` times, and cells lie at least `padding` apart:

    frame 3 × 2, extrude 1, padding 2          a a b c c . . next cell
                                               a a b c c . .
                                               d d e f f . .
                                               d d e f f . .

Positions come from rectpack's maximal rectangles. A former layout is kept: a sprite stays in its room as long as its
frame fits into it, the room of a removed one is free again, new ones go where there is room; a sheet that is full
grows to twice its area, up to `AtlasConfig.size`, before another is begun. All is packed afresh only where that makes
the sheets smaller by more than `max_waste`. Equal input gives equal layouts and pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rectpack import MaxRectsBssf
from rectpack.geometry import Rectangle

from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    from assetmill.config import AtlasConfig

_SMALLEST = 16
"""Edge of the smallest sheet in pixels."""

_RULES = ("size", "padding", "extrude", "trim", "power_of_two")
"""Settings that decide where sprites lie: a layout of other ones cannot be gone on with."""


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A picture to be packed: `rgba` is uint8 (H, W, 4), `sha` names its content."""

    name: str
    rgba: np.ndarray
    sha: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a picture is packed: `width` × `height` pixels from (`left`, `top`) of the whole one."""

    sha: str
    left: int
    top: int
    width: int
    height: int
    source_width: int
    source_height: int

    @property
    def trimmed(self) -> bool:
        return (self.width, self.height) != (self.source_width, self.source_height)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame lies: its top left pixel on a sheet. `room_width` × `room_height` pixels are kept for it."""

    frame: Frame
    sheet: int
    x: int
    y: int
    room_width: int
    room_height: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all sprites by name, and the sheets' sizes (width, height). `rules` names the settings."""

    rules: str
    sheets: tuple[tuple[int, int], ...]
    places: Mapping[str, Place]

    @property
    def fill(self) -> float:
        """Share of the sheets' area that shows frames, in 0..1."""
        area = sum(width * height for width, height in self.sheets)
        return sum(p.frame.width * p.frame.height for p in self.places.values()) / area if area else 1.0

    def on_sheet(self, number: int) -> dict[str, Place]:
        """The places of one sheet, by name in order."""
        return {name: self.places[name] for name in sorted(self.places) if self.places[name].sheet == number}

    def as_json(self) -> dict[str, Any]:
        places = {name: asdict(place) for name, place in sorted(self.places.items())}
        return {"schema": 1, "rules": self.rules, "sheets": [list(size) for size in self.sheets], "places": places}


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Sheets of pixels, uint8 (H, W, 4), and what lies where on them."""

    sheets: tuple[np.ndarray, ...]
    layout: Layout


def layout_from_json(values: Mapping[str, Any]) -> Layout:
    """The layout that `Layout.as_json` gave. ValueError for anything else."""
    try:
        if values["schema"] != 1:
            raise ValueError(f"schema {values['schema']} is not 1")
        places = {n: Place(**{**p, "frame": Frame(**p["frame"])}) for n, p in values["places"].items()}
        return Layout(values["rules"], tuple((int(w), int(h)) for w, h in values["sheets"]), places)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no layout of an atlas ({error!r})") from error


def pack(sprites: Sequence[Sprite], spec: AtlasConfig, former: Layout | None = None) -> Packed:
    """Packs sprites onto as many sheets as they need; those of `former` keep their places where they can.

    Raises InputError when a sprite is larger than a sheet or two share a name.
    """
    twice = [name for name, count in Counter(s.name for s in sprites).items() if count > 1]
    if twice:
        raise InputError(
            [Problem("two sprites have this name", "add {rank} to atlas.sprite", value=name) for name in sorted(twice)]
        )
    frames = {sprite.name: measure(sprite.rgba, sprite.sha, trim=spec.trim) for sprite in sprites}
    layout = arrange(frames, spec, former)
    pixels = {sprite.name: sprite.rgba for sprite in sprites}
    return Packed(tuple(draw(layout, n, pixels.__getitem__, spec) for n in range(len(layout.sheets))), layout)


# --- the three steps ----------------------------------------------------------------------------------------


def measure(rgba: np.ndarray, sha: str, *, trim: bool) -> Frame:
    """What of a picture, uint8 (H, W, 4), is packed: with `trim` the box round all pixels that are not transparent.

    A picture without any such pixel becomes a frame of one.
    """
    if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4 or 0 in rgba.shape:
        raise ValueError(f"a sprite is uint8 (H, W, 4), not {rgba.dtype} {rgba.shape}")
    height, width = rgba.shape[:2]
    if not trim:
        return Frame(sha, 0, 0, width, height, width, height)
    rows, columns = np.flatnonzero(rgba[..., 3].any(axis=1)), np.flatnonzero(rgba[..., 3].any(axis=0))
    if not rows.size:
        return Frame(sha, 0, 0, 1, 1, width, height)
    left, top = int(columns[0]), int(rows[0])
    return Frame(sha, left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1, width, height)


def arrange(frames: Mapping[str, Frame], spec: AtlasConfig, former: Layout | None = None) -> Layout:
    """Where frames lie, going on with the `former` layout if its settings were the same.

    Raises InputError naming every frame that is larger than a sheet can be.
    """
    limit = _limit(spec)
    too_large = [
        Problem(
            f"the sprite has {frame.width} × {frame.height} pixels and no room on a sheet of {limit} × {limit}"
            + (f" with {spec.extrude} extruded" if spec.extrude else ""),
            "raise atlas.size, or pack a smaller rendition",
            value=name,
        )
        for name, frame in sorted(frames.items())
        if max(frame.width, frame.height) + 2 * spec.extrude > limit
    ]
    if too_large:
        raise InputError(too_large)
    rules = rules_of(spec)
    if former is None or former.rules != rules:
        return _arrange(frames, spec, None)
    layout = _arrange(frames, spec, former)
    if 1 - layout.fill > spec.max_waste:  # else no packing could save so much, and none need be tried
        fresh = _arrange(frames, spec, None)
        if _area(fresh) < (1 - spec.max_waste) * _area(layout):
            return fresh
    return layout


def draw(layout: Layout, sheet: int, read: Callable[[str], np.ndarray], spec: AtlasConfig) -> np.ndarray:
    """The pixels of one sheet, uint8 (H, W, 4). `read` gives the whole picture of a sprite by its name."""
    width, height = layout.sheets[sheet]
    out = np.zeros((height, width, 4), np.uint8)
    edge = spec.extrude
    for name, place in layout.on_sheet(sheet).items():
        frame, rgba = place.frame, read(name)
        if rgba.shape[:2] != (frame.source_height, frame.source_width):
            raise ValueError(f"sprite {name!r} has the shape {rgba.shape}, the layout was made for {frame}")
        shown = rgba[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
        cell = np.pad(shown, ((edge, edge), (edge, edge), (0, 0)), mode="edge")
        out[place.y - edge : place.y + frame.height + edge, place.x - edge : place.x + frame.width + edge] = cell
    return out


def rules_of(spec: AtlasConfig) -> str:
    """Names the settings that decide where sprites lie."""
    return content_key("atlas", {name: getattr(spec, name) for name in _RULES})[:16]


def moved(before: Layout, after: Layout) -> list[str]:
    """Sprites that both layouts have and that lie elsewhere: what stability is about. Sorted."""
    both = before.places.keys() & after.places.keys()
    spot = {n: [(p.sheet, p.x, p.y) for p in (before.places[n], after.places[n])] for n in both}
    return sorted(name for name, (old, new) in spot.items() if old != new)


# --- packing ------------------------------------------------------------------------------------------------


class _Space(MaxRectsBssf):
    """The free space of a sheet: rectpack's maximal rectangles, with room that can be taken at a given place."""

    _max_rects: list[Rectangle]

    def take(self, x: int, y: int, width: int, height: int) -> None:
        self._split(Rectangle(x, y, width, height))

    def _split(self, rect: Rectangle) -> None:
        # Only pieces of what was cut can lie inside another rectangle: no need to compare all pairs, as rectpack does.
        kept: list[Rectangle] = []
        cut: list[Rectangle] = []
        for free in self._max_rects:
            if free.intersects(rect):
                cut.extend(self._generate_splits(free, rect))
            else:
                kept.append(free)
        cut.sort(key=lambda r: -r.width * r.height)
        for piece in cut:
            if not any(whole.contains(piece) for whole in kept):
                kept.append(piece)
        self._max_rects = kept

    def _remove_duplicates(self) -> None:
        pass  # `_split` leaves none


class _Sheet:
    """A sheet while it is filled. Cells take `gap` more pixels to the right and below than they show."""

    def __init__(self, width: int, height: int, gap: int) -> None:
        self.width, self.height, self.gap = width, height, gap
        self.taken: list[tuple[int, int, int, int]] = []
        self._space: _Space | None = None

    def take(self, x: int, y: int, width: int, height: int) -> None:
        """Takes room at a place, for a cell of that size."""
        self.taken.append((x, y, width, height))
        if self._space is not None:
            self._space.take(x, y, width + self.gap, height + self.gap)

    def place(self, width: int, height: int) -> tuple[int, int] | None:
        """Finds and takes room for a cell; None when there is none."""
        found = self._open().add_rect(width + self.gap, height + self.gap)
        if found is None:
            return None
        self.taken.append((found.x, found.y, width, height))
        return found.x, found.y

    def grown(self, limit: int) -> _Sheet | None:
        """The same sheet with twice the area; None at the limit."""
        wide = self.width <= self.height
        if (self.width if wide else self.height) >= limit:
            wide = not wide
        width = min(self.width * 2, limit) if wide else self.width
        height = self.height if wide else min(self.height * 2, limit)
        if (width, height) == (self.width, self.height):
            return None
        larger = _Sheet(width, height, self.gap)
        larger.taken = list(self.taken)
        return larger

    def _open(self) -> _Space:
        if self._space is None:  # most sheets of most nights take in nothing new: only then is it worked out
            # The last cells may leave their gap outside the sheet.
            self._space = _Space(self.width + self.gap, self.height + self.gap, rot=False)
            for x, y, width, height in self.taken:
                self._space.take(x, y, width + self.gap, height + self.gap)
        return self._space


def _arrange(frames: Mapping[str, Frame], spec: AtlasConfig, former: Layout | None) -> Layout:
    edge, limit = spec.extrude, _limit(spec)
    places: dict[str, Place] = {}
    sheets: list[_Sheet] = []
    if former is not None:
        sheets = [_Sheet(_power(width, limit), _power(height, limit), spec.padding) for width, height in former.sheets]
        for name, place in former.places.items():
            if name in frames and _fits(frames[name], place):
                places[name] = replace(place, frame=frames[name])
                sheets[place.sheet].take(
                    place.x - edge, place.y - edge, place.room_width + 2 * edge, place.room_height + 2 * edge
                )
    new = sorted(frames.keys() - places.keys(), key=lambda n: (*_largest_first(frames[n]), n))
    cells = {name: (frames[name].width + 2 * edge, frames[name].height + 2 * edge) for name in new}
    for number, name in enumerate(new):
        width, height = cells[name]
        sheet, (x, y) = _place(sheets, width, height, limit) or _begin(
            sheets, [cells[n] for n in new[number:]], limit, spec.padding
        )
        places[name] = Place(frames[name], sheet, x + edge, y + edge, width - 2 * edge, height - 2 * edge)
    if len(places) != len(frames):
        raise AssertionError(f"{len(frames) - len(places)} of {len(frames)} sprites were lost")
    return _finish(places, sheets, spec)


def _place(sheets: list[_Sheet], width: int, height: int, limit: int) -> tuple[int, tuple[int, int]] | None:
    """Room on a sheet there is, or on one that may still grow."""
    for number, sheet in enumerate(sheets):
        if spot := sheet.place(width, height):
            return number, spot
    for number, sheet in enumerate(sheets):
        larger = sheet.grown(limit)
        while larger is not None:
            if spot := larger.place(width, height):
                sheets[number] = larger
                return number, spot
            larger = larger.grown(limit)
    return None


def _begin(sheets: list[_Sheet], cells: Sequence[tuple[int, int]], limit: int, gap: int) -> tuple[int, tuple[int, int]]:
    """Begins a sheet with the first of the cells that are left, large enough for all of them if that is possible."""
    area = sum((width + gap) * (height + gap) for width, height in cells)
    sheet = _Sheet(_SMALLEST, _SMALLEST, gap)
    width, height = cells[0]
    while sheet.width * sheet.height < area or sheet.width < width or sheet.height < height:
        larger = sheet.grown(limit)
        if larger is None:
            break
        sheet = larger
    spot = sheet.place(width, height)
    assert spot is not None  # `arrange` has refused what is larger than a sheet
    sheets.append(sheet)
    return len(sheets) - 1, spot


def _finish(places: Mapping[str, Place], sheets: Sequence[_Sheet], spec: AtlasConfig) -> Layout:
    """The layout without empty sheets; where sizes need be no powers of two, cut to what is used."""
    used = sorted({place.sheet for place in places.values()})
    number = {old: new for new, old in enumerate(used)}
    sizes = []
    for old in used:
        sheet = sheets[old]
        size = (sheet.width, sheet.height)
        if not spec.power_of_two:
            size = (max(x + w for x, _, w, _ in sheet.taken), max(y + h for _, y, _, h in sheet.taken))
        sizes.append(size)
    moved_up = {name: replace(place, sheet=number[place.sheet]) for name, place in sorted(places.items())}
    return Layout(rules_of(spec), tuple(sizes), moved_up)


def _fits(frame: Frame, place: Place) -> bool:
    return frame.width <= place.room_width and frame.height <= place.room_height


def _largest_first(frame: Frame) -> tuple[int, int]:
    return -max(frame.width, frame.height), -min(frame.width, frame.height)


def _area(layout: Layout) -> int:
    return sum(width * height for width, height in layout.sheets)


def _limit(spec: AtlasConfig) -> int:
    """The longest edge a sheet may have."""
    return 1 << int(math.log2(spec.size)) if spec.power_of_two else spec.size


def _power(side: int, limit: int) -> int:
    """The next power of two, as far as the limit allows."""
    return min(1 << max(side - 1, 1).bit_length(), limit)
