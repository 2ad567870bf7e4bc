"""Where a picture comes to lie on a rendition's canvas: pure arithmetic on sizes, in pixels.

Nothing here enlarges: a picture that does not fill its place is refused with the numbers. Only `nearest` may go up, by
whole factors, which invents no pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

from assetmill.config import RenditionConfig

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are the first pixels outside."""

_MAX_PIXELS = 2**26
"""Largest canvas: what `picture.decode` opens."""

_TINY = 1e-9
"""Below that a fraction of a pixel is rounding."""


@dataclass(frozen=True, slots=True)
class Placement:
    """`source` (left, top, right, bottom; fractions of pixels are meant) is scaled to `size` (width, height) and laid
    with its upper left corner `at` (x, y) on a canvas of width × height. A `problem` says why there is none.
    """

    canvas: tuple[int, int] = (0, 0)
    source: tuple[float, float, float, float] = (0, 0, 0, 0)
    size: tuple[int, int] = (0, 0)
    at: tuple[int, int] = (0, 0)
    problem: str = ""


def place(spec: RenditionConfig, width: int, height: int, subject: Box | None = None) -> Placement:
    """Where a picture of width × height comes to lie; `subject` is the box of its opaque part, if it has a cut-out.

    With `nearest` the picture has to be brought to size by `whole_factor` before: then its pixels stay as they are.
    """
    put = _cover if spec.fit == "cover" else _contain
    placed = put(spec, width, height, subject)
    if placed.problem or spec.min_edge is None or min(placed.canvas) >= spec.min_edge:
        return placed
    what = "the cut-out" if _is_framed(spec, subject) else f"the master of {width}×{height}"
    return Placement(
        problem=f"{what} gives {_show(placed.canvas)} pixels without being enlarged, below min_edge {spec.min_edge}"
    )


def too_small(spec: RenditionConfig, width: int, height: int) -> str:
    """Why every master of width × height is refused, or nothing: a master of that size may be large enough.

    A cut-out is taken to be as large as it can be, so this never refuses what could pass.
    """
    if spec.resample == "nearest":
        if spec.cut_out and spec.frame == "subject" and spec.fit != "cover":
            return ""  # which factor fits is known once the subject's box is
        up, down, problem = whole_factor(spec, width, height)
        if problem:
            return problem
        width, height = width * up // down, height * up // down
    if not spec.cut_out:
        return place(spec, width, height).problem
    if spec.follows and not spec.aspect:  # of canvases in a subject's own shape the square has the longest short edge
        return place(spec, width, height, (0, 0, min(width, height), min(width, height))).problem
    return place(spec, width, height, (0, 0, width, height)).problem


def whole_factor(spec: RenditionConfig, width: int, height: int, subject: Box | None = None) -> tuple[int, int, str]:
    """Up and down factors, one of them 1, by which `nearest` brings a picture to its place; or a problem.

    Upwards any whole number, downwards exact divisors of both edges: nothing else keeps a pixel grid.
    """
    framed = _is_framed(spec, subject)
    source = _edges(subject) if framed and subject else (width, height)
    if spec.fit == "cover":
        room = _cover_room(spec, width, height)
        factors = list(_factors(width, height, max(room[0] / width, room[1] / height)))
        enough = [f for f in factors if width * f[0] // f[1] >= room[0] and height * f[0] // f[1] >= room[1]]
        return (*enough[-1], "")
    if spec.size is None and spec.max_edge is None:
        return 1, 1, ""
    canvas = spec.size or _longest(spec, source)
    inset = inset_of(spec, canvas)
    room = canvas[0] - 2 * inset, canvas[1] - 2 * inset
    most = min(room[0] / source[0], room[1] / source[1]) if spec.size else 1
    for up, down in _factors(width, height, most):
        # A span of n pixels holds at most ceil(n / down) of the grid's.
        if -(-source[0] * up // down) <= room[0] and -(-source[1] * up // down) <= room[1]:
            return up, down, ""
    return (
        1,
        1,
        f"no whole factor brings {width}×{height} into {_show(room)} pixels: nearest needs a divisor of both edges; "
        "choose another size, or resample: lanczos",
    )


def inset_of(spec: RenditionConfig, canvas: tuple[int, int]) -> int:
    """Pixels kept free on each side of a canvas: the margin, rounded up, within the room for extrusion."""
    return ceil(spec.margin / 100 * min(canvas) - _TINY) + spec.extrude


# --- all of it ----------------------------------------------------------------------------------------------


def _contain(spec: RenditionConfig, width: int, height: int, subject: Box | None) -> Placement:
    framed = _is_framed(spec, subject)
    source = subject if framed and subject else (0, 0, width, height)
    edges = _edges(source)
    canvas = spec.size or _following(spec, edges)
    if canvas[0] * canvas[1] > _MAX_PIXELS:
        return Placement(problem=f"a canvas of {_show(canvas)} pixels is too large; give max_edge")
    inset = inset_of(spec, canvas)
    room = canvas[0] - 2 * inset, canvas[1] - 2 * inset
    if min(room) < 1:
        return Placement(problem=f"margin and extrude leave no room on a canvas of {_show(canvas)} pixels")
    scale = min(1.0, room[0] / edges[0], room[1] / edges[1])
    if spec.size and (problem := _gap(spec, width, height, edges if framed else None, room)):
        return Placement(problem=problem)
    if spec.resample == "nearest" and scale < 1:
        return Placement(problem=f"{_show(edges)} pixels do not fit {_show(room)} by a whole factor")
    size = _within(edges[0] * scale, room[0]), _within(edges[1] * scale, room[1])
    if spec.fit == "fit":  # no larger than the picture needs
        canvas, room = (size[0] + 2 * inset, size[1] + 2 * inset), size
    at = inset + (room[0] - size[0]) // 2, inset + (room[1] - size[1]) // 2
    return Placement(canvas, source, size, at)


def _gap(spec: RenditionConfig, width: int, height: int, subject: tuple[int, int] | None, room: tuple[int, int]) -> str:
    """Why a picture does not fill its room on a canvas of fixed size; nothing if it does."""
    if spec.resample == "lanczos" and width < room[0] and height < room[1]:
        return f"the master of {width}×{height} is too small for {_show(room)} pixels, and is never enlarged"
    edges = subject or (width, height)
    filled = 100 * max(edges[0] / room[0], edges[1] / room[1])
    if filled + _TINY >= spec.min_fill:
        return ""
    what = "the subject" if subject else "the picture"
    return (
        f"{what} of {_show(edges)} fills {filled:.0f} % of {_show(room)} pixels, below min_fill {spec.min_fill:g} %, "
        "and is never enlarged"
    )


def _following(spec: RenditionConfig, source: tuple[int, int]) -> tuple[int, int]:
    """The smallest canvas that holds the source at its own size within the margins, or the largest that may be."""
    share = spec.margin / 100
    if spec.aspect is None:
        inset = ceil(share / (1 - 2 * share) * (min(source) + 2 * spec.extrude) - _TINY) + spec.extrude
        canvas = source[0] + 2 * inset, source[1] + 2 * inset
        return canvas if spec.max_edge is None or max(canvas) <= spec.max_edge else _longest(spec, canvas)
    across, down = _shape(spec)
    free = across - 2 * share * min(across, down), down - 2 * share * min(across, down)
    unit = max((source[i] + 2 * spec.extrude) / free[i] for i in (0, 1))
    while spec.max_edge is None or unit * max(across, down) < spec.max_edge:
        canvas = ceil(unit * across - _TINY), ceil(unit * down - _TINY)
        inset = inset_of(spec, canvas)
        if canvas[0] - 2 * inset >= source[0] and canvas[1] - 2 * inset >= source[1]:
            return canvas
        unit += 1 / max(across, down)  # rounding took a pixel
    return _longest(spec, (across, down))


def _longest(spec: RenditionConfig, shape: tuple[int, int]) -> tuple[int, int]:
    """The canvas of a shape (that of the aspect, if one is given) whose longest edge is `max_edge`."""
    across, down = _shape(spec) if spec.aspect else shape
    unit = (spec.max_edge or max(shape)) / max(across, down)
    return max(1, round(across * unit)), max(1, round(down * unit))


# --- filled -------------------------------------------------------------------------------------------------


def _cover(spec: RenditionConfig, width: int, height: int, subject: Box | None) -> Placement:
    edge = spec.extrude
    room = _cover_room(spec, width, height)
    if min(room) < 1:
        return Placement(problem=f"extrude leaves no room on a canvas that {width}×{height} pixels can fill")
    scale = max(room[0] / width, room[1] / height)
    if scale > 1 + _TINY:
        return Placement(
            problem=f"the master of {width}×{height} is too small to cover {_show(room)} pixels, and is never enlarged"
        )
    if spec.resample == "nearest":
        scale = 1.0
    window = min(room[0] / scale, width), min(room[1] / scale, height)
    x, y = _focus(spec, width, height, subject)
    left = min(max(x - window[0] / 2, 0), width - window[0])
    top = min(max(y - window[1] / 2, 0), height - window[1])
    if spec.resample == "nearest":
        left, top = round(left), round(top)
    canvas = room[0] + 2 * edge, room[1] + 2 * edge
    return Placement(canvas, (left, top, left + window[0], top + window[1]), room, (edge, edge))


def _cover_room(spec: RenditionConfig, width: int, height: int) -> tuple[int, int]:
    """What has to be covered: the canvas without the room for extrusion."""
    edge = spec.extrude
    if spec.size:
        return spec.size[0] - 2 * edge, spec.size[1] - 2 * edge
    across, down = _shape(spec)
    unit = min((width + 2 * edge) / across, (height + 2 * edge) / down)
    canvas = max(1, floor(unit * across + _TINY)), max(1, floor(unit * down + _TINY))
    if spec.max_edge and max(canvas) > spec.max_edge:
        canvas = _longest(spec, canvas)
    return canvas[0] - 2 * edge, canvas[1] - 2 * edge


def _focus(spec: RenditionConfig, width: int, height: int, subject: Box | None) -> tuple[float, float]:
    """The point, in pixels, that the cut keeps in the middle where it can."""
    if isinstance(spec.focal, tuple):
        return spec.focal[0] * width, spec.focal[1] * height
    if spec.focal == "alpha" and subject:
        return (subject[0] + subject[2]) / 2, (subject[1] + subject[3]) / 2
    return width / 2, height / 2  # the middle of an opaque picture, too


# --- small sums ---------------------------------------------------------------------------------------------


def _is_framed(spec: RenditionConfig, subject: Box | None) -> bool:
    return spec.cut_out and spec.frame == "subject" and spec.fit != "cover" and subject is not None


def _factors(width: int, height: int, most: float) -> Iterator[tuple[int, int]]:
    """(up, down), the largest first: whole numbers up to `most`, then the divisors of both edges."""
    yield from ((up, 1) for up in range(max(1, ceil(most - _TINY)), 0, -1))
    yield from ((1, down) for down in range(2, min(width, height) + 1) if width % down == height % down == 0)


def _shape(spec: RenditionConfig) -> tuple[int, int]:
    across, down = (spec.aspect or "1:1").split(":")
    return int(across), int(down)


def _edges(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _within(length: float, room: int) -> int:
    return max(1, min(room, round(length)))


def _show(edges: tuple[int, int]) -> str:
    return f"{edges[0]}×{edges[1]}"
