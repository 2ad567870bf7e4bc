"""Outlines of the starter world's objects, as polygons in the unit frame.

Coordinates run over about [-1, 1] in both directions, y down. Every function takes four shape
parameters in [-1, 1] (jitter of proportions, about ±15 %) and returns the parts in painting order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Point = tuple[float, float]
Jitter = tuple[float, float, float, float]

HOLE, MAIN, SECOND, LIGHT, METAL, WOOD = 0, 1, 2, 3, 4, 5
"""Roles of a part: a hole in what lies below, the body (which carries colour and pattern), its darker
and its lighter tone, and two neutral materials."""


@dataclass(frozen=True)
class Part:
    """One filled polygon (unit frame) and the role that decides its paint."""

    points: tuple[Point, ...]
    role: int


def _poly(role: int, *points: Point) -> Part:
    return Part(points, role)


def _mirror(role: int, *right: Point) -> Part:
    """A part that is symmetric about x = 0, given its right half from top to bottom."""
    return Part(right + tuple((-x, y) for x, y in reversed(right)), role)


def _ellipse(role: int, cx: float, cy: float, rx: float, ry: float, num_points: int = 40) -> Part:
    turn = [2 * math.pi * i / num_points for i in range(num_points)]
    return Part(tuple((cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turn), role)


def _box(role: int, x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Part:
    if radius <= 0:
        return _poly(role, (x0, y0), (x1, y0), (x1, y1), (x0, y1))
    points = []
    corners = (
        (x1 - radius, y0 + radius, -90),
        (x1 - radius, y1 - radius, 0),
        (x0 + radius, y1 - radius, 90),
        (x0 + radius, y0 + radius, 180),
    )
    for cx, cy, start in corners:
        for step in range(7):
            angle = math.radians(start + 15 * step)
            points.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle)))
    return Part(tuple(points), role)


def _grow(value: float, jitter: float, share: float = 0.15) -> float:
    return value * (1 + share * jitter)


def potion(j: Jitter) -> list[Part]:
    """A round flask with a short neck and a cork."""
    r, neck = _grow(0.62, j[0], 0.1), _grow(0.2, j[1])
    return [
        _box(WOOD, -neck * 0.95, -0.95, neck * 0.95, -0.5, 0.05),
        _box(SECOND, -neck, -0.68, neck, -0.05),
        _box(SECOND, -neck * 1.5, -0.72, neck * 1.5, -0.54, 0.06),
        _ellipse(MAIN, 0, 0.3, r, r),
    ]


def sword(j: Jitter) -> list[Part]:
    """A broad blade with a cross guard."""
    w, guard = _grow(0.24, j[0]), _grow(0.55, j[1])
    return [
        _mirror(MAIN, (0, -0.98), (w, -0.68), (w, 0.38)),
        _box(WOOD, -0.11, 0.45, 0.11, 0.85),
        _box(METAL, -guard, 0.32, guard, 0.52, 0.08),
        _ellipse(METAL, 0, 0.86, 0.16, 0.14),
    ]


def shield(j: Jitter) -> list[Part]:
    """A heater shield with a rim and a boss."""
    w, low = _grow(0.74, j[0], 0.1), _grow(0.2, j[1])
    outer = [(0.0, -0.86), (w * 0.55, -0.78), (w, -0.86), (w, 0.0), (w * 0.82, 0.2 + low), (0.0, 0.95)]
    inner = [(x * 0.8, y * 0.8) for x, y in outer]
    return [
        _mirror(METAL, *outer),
        _mirror(MAIN, *inner),
        _ellipse(METAL, 0, -0.1, 0.16, 0.16),
    ]


def gem(j: Jitter) -> list[Part]:
    """A cut stone seen from the side."""
    w, girdle = _grow(0.86, j[0], 0.1), -0.25 + 0.08 * j[1]
    return [
        _mirror(MAIN, (w * 0.55, -0.72), (w, girdle), (0.0, 0.85)),
        _poly(LIGHT, (-w * 0.55, -0.72), (-w * 0.3, girdle), (-w, girdle)),
        _poly(SECOND, (w * 0.55, -0.72), (w * 0.3, girdle), (w, girdle)),
    ]


def coin(j: Jitter) -> list[Part]:
    """A round coin with a rim and a diamond mark."""
    r = _grow(0.8, j[0], 0.08)
    mark = _grow(0.24, j[1])
    return [
        _ellipse(SECOND, 0, 0, r, r),
        _ellipse(MAIN, 0, 0, r * 0.8, r * 0.8),
        _poly(SECOND, (0, -mark * 1.3), (mark, 0), (0, mark * 1.3), (-mark, 0)),
    ]


def key(j: Jitter) -> list[Part]:
    """A big-bowed key, bow up, teeth to the right."""
    bow, shaft = _grow(0.46, j[0], 0.1), _grow(0.14, j[1])
    return [
        _box(MAIN, -shaft, -0.2, shaft, 0.95),
        _box(MAIN, 0, 0.38, 0.48, 0.56),
        _box(MAIN, 0, 0.74, _grow(0.4, j[2]), 0.94),
        _ellipse(MAIN, 0, -0.48, bow, bow),
        _ellipse(HOLE, 0, -0.48, bow * 0.4, bow * 0.4),
    ]


def chest(j: Jitter) -> list[Part]:
    """A treasure chest: box, domed lid, lock and bands."""
    w, lid = _grow(0.82, j[0], 0.08), _grow(0.5, j[1])
    dome = [(w * math.cos(math.radians(a)), -0.1 - lid * math.sin(math.radians(a))) for a in range(0, 181, 12)]
    return [
        Part(tuple(dome), SECOND),
        _box(MAIN, -w, -0.1, w, 0.7),
        _box(WOOD, -w, -0.16, w, -0.02),
        _box(METAL, -0.16, -0.22, 0.16, 0.2, 0.05),
    ]


def scroll(j: Jitter) -> list[Part]:
    """A sheet between two rolled ends."""
    w, roll = _grow(0.56, j[0], 0.1), _grow(0.17, j[1])
    return [
        _box(MAIN, -w, -0.72, w, 0.72),
        _box(SECOND, -w - 0.24, -0.72 - roll, w + 0.24, -0.72 + roll, roll * 0.95),
        _box(SECOND, -w - 0.24, 0.72 - roll, w + 0.24, 0.72 + roll, roll * 0.95),
    ]


def ring(j: Jitter) -> list[Part]:
    """A finger ring with a pale stone on top."""
    r, band = _grow(0.64, j[0], 0.08), _grow(0.56, j[1], 0.08)
    return [
        _ellipse(MAIN, 0, 0.26, r, r),
        _ellipse(HOLE, 0, 0.26, r * band, r * band),
        _poly(METAL, (-0.22, -0.92), (0.22, -0.92), (0.38, -0.68), (0, -0.3), (-0.38, -0.68)),
    ]


def mug(j: Jitter) -> list[Part]:
    """A mug with its handle to the right and a dark drink."""
    w, h = _grow(0.52, j[0], 0.1), _grow(0.72, j[1], 0.08)
    return [
        _ellipse(SECOND, w - 0.15, 0.05, 0.44, 0.44),
        _ellipse(HOLE, w - 0.15, 0.05, 0.22, 0.22),
        _box(MAIN, -w - 0.15, -h + 0.06, w - 0.15, h, 0.12),
        _ellipse(WOOD, -0.15, -h + 0.08, w, 0.16),
    ]


def t_shirt(j: Jitter) -> list[Part]:
    """A t-shirt laid flat."""
    w, sleeve = _grow(0.5, j[0], 0.1), _grow(0.92, j[1], 0.06)
    return [
        _mirror(MAIN, (0.2, -0.8), (w, -0.74), (sleeve, -0.28), (sleeve - 0.28, -0.04), (w, -0.24), (w, 0.84)),
        _ellipse(SECOND, 0, -0.78, 0.26, 0.16),
    ]


def boot(j: Jitter) -> list[Part]:
    """A boot, toe to the right, with a cuff and a sole."""
    leg, toe = _grow(0.34, j[0], 0.1), _grow(0.82, j[1], 0.08)
    return [
        _poly(
            MAIN,
            (-0.6, -0.75),
            (-0.6 + 2 * leg, -0.75),
            (-0.6 + 2 * leg, 0.05),
            (toe * 0.72, 0.16),
            (toe, 0.4),
            (toe, 0.66),
            (-0.6, 0.66),
        ),
        _box(WOOD, -0.66, 0.62, toe + 0.05, 0.86, 0.06),
        _box(SECOND, -0.68, -0.9, -0.52 + 2 * leg, -0.6, 0.08),
    ]


def backpack(j: Jitter) -> list[Part]:
    """A backpack with handle, flap and front pocket."""
    w, pocket = _grow(0.58, j[0], 0.1), _grow(0.4, j[1])
    return [
        _ellipse(WOOD, 0, -0.74, 0.26, 0.22),
        _ellipse(HOLE, 0, -0.74, 0.13, 0.1),
        _box(WOOD, -w - 0.18, -0.2, w + 0.18, 0.62, 0.12),
        _box(MAIN, -w, -0.76, w, 0.86, 0.26),
        _box(SECOND, -pocket, 0.26, pocket, 0.74, 0.08),
        _box(METAL, -0.09, 0.2, 0.09, 0.4),
    ]


def bottle(j: Jitter) -> list[Part]:
    """A tall bottle with sloping shoulders and a cap."""
    w, shoulder = _grow(0.36, j[0], 0.1), -0.2 + 0.08 * j[1]
    return [
        _mirror(MAIN, (0.14, -0.7), (0.14, -0.45), (w, shoulder), (w, 0.95)),
        _box(METAL, -0.2, -0.96, 0.2, -0.66, 0.04),
    ]


def lamp(j: Jitter) -> list[Part]:
    """A table lamp: shade, stem and foot."""
    top, low = _grow(0.36, j[0]), _grow(0.76, j[1], 0.1)
    return [
        _box(METAL, -0.09, 0.0, 0.09, 0.8),
        _box(WOOD, -0.44, 0.74, 0.44, 0.94, 0.08),
        _mirror(MAIN, (top, -0.88), (low, 0.14)),
    ]


def chair(j: Jitter) -> list[Part]:
    """A chair seen from the front left: back, seat, legs."""
    w, back = _grow(0.46, j[0], 0.1), -0.94 + 0.06 * j[1]
    return [
        _box(WOOD, -w, 0.2, -w + 0.16, 0.95),
        _box(WOOD, w - 0.16, 0.2, w, 0.95),
        _box(MAIN, -w, back, w, 0.1, 0.1),
        _mirror(SECOND, (w, 0.0), (w + 0.24, 0.34)),
    ]


DRAWN: dict[str, Callable[[Jitter], list[Part]]] = {
    "potion": potion,
    "sword": sword,
    "shield": shield,
    "gem": gem,
    "coin": coin,
    "key": key,
    "chest": chest,
    "scroll": scroll,
    "ring": ring,
    "mug": mug,
    "t-shirt": t_shirt,
    "boot": boot,
    "backpack": backpack,
    "bottle": bottle,
    "lamp": lamp,
    "chair": chair,
}
"""Object name -> the function that gives its parts."""
