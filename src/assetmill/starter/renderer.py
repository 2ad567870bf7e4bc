"""Draws the starter world: from one `IconSpec`, an antialiased icon at any size and its true alpha mask.

The same spec gives the same picture on every machine (Pillow polygons, numpy paint, no fonts), and the
64² and 256² pictures of one spec show the same thing: that is what the upscaler learns from.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assetmill.starter import shapes
from assetmill.starter.vocabulary import ATTRIBUTES

if TYPE_CHECKING:
    import numpy as np

PAINTS: dict[str, tuple[int, int, int]] = {
    "red": (218, 32, 40),
    "orange": (250, 132, 16),
    "yellow": (248, 214, 28),
    "green": (40, 160, 62),
    "cyan": (48, 206, 214),
    "blue": (36, 78, 214),
    "purple": (128, 48, 184),
    "pink": (250, 128, 186),
    "brown": (124, 72, 34),
}
METAL_PAINT, WOOD_PAINT, OUTLINE_PAINT = (176, 182, 190), (58, 48, 52), (10, 9, 12)
GROUND_PAINTS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "white": ((255, 255, 255), (255, 255, 255)),
    "dark": ((58, 61, 70), (58, 61, 70)),
    "beige": ((236, 212, 172), (236, 212, 172)),
    "gradient": ((232, 238, 248), (92, 108, 146)),
}
"""Ground -> its colour at the top and at the bottom."""

_OUTLINE = 6
_PIXEL_BLOCKS = 16
_UNIT = 0.49
"""Half of the frame that an object of scale 1 reaches to."""


@dataclass(frozen=True)
class IconSpec:
    """All that decides one picture.

    `angle` in degrees (clockwise), `scale` relative to the frame, `dx`, `dy` as shares of the frame,
    `shape` four numbers in [-1, 1], `phase` of the pattern in [0, 1), `tint` in [-1, 1] (±6 % lightness).
    """

    object: str
    colour: str
    pattern: str
    style: str
    ground: str
    angle: float = 0.0
    scale: float = 0.9
    dx: float = 0.0
    dy: float = 0.0
    shape: shapes.Jitter = (0.0, 0.0, 0.0, 0.0)
    phase: float = 0.0
    tint: float = 0.0

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"IconSpec.{name}: {getattr(self, name)!r} is not drawn here; use one of {', '.join(values)}"
                )

    def attributes(self) -> dict[str, str]:
        """Return the five attribute values by name."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


def is_held_out(object: str, colour: str, style: str) -> bool:
    """Say whether a combination is kept out of all training (about one in ten, fixed by a hash)."""
    digest = hashlib.sha256(f"{object}|{colour}|{style}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10 == 0


def sample_spec(split: str, index: int, *, held_out: bool | None = False) -> IconSpec:
    """Draw the spec number `index` of a split ("train", "judge", "test", …); equal arguments, equal spec.

    `held_out` False leaves the held-out combinations away, True gives only them, None doesn't care.
    """
    import numpy as np

    seed = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, index])
    while True:
        thing, colour, pattern, style, ground = (values[rng.integers(len(values))] for values in ATTRIBUTES.values())
        if held_out is None or is_held_out(thing, colour, style) == held_out:
            break
    jitter = [float(value) for value in rng.uniform(-1, 1, 10)]
    return IconSpec(
        thing,
        colour,
        pattern,
        style,
        ground,
        angle=10 * jitter[0],
        scale=0.9 + 0.1 * jitter[1],
        dx=0.05 * jitter[2],
        dy=0.04 * jitter[3],
        shape=(jitter[4], jitter[5], jitter[6], jitter[7]),
        phase=(jitter[8] + 1) / 2,
        tint=jitter[9],
    )


def change_attribute(spec: IconSpec, name: str, value: str) -> IconSpec:
    """Return the spec with one attribute changed and the geometry kept."""
    return replace(spec, **{name: value})  # type: ignore[arg-type]


def draw(spec: IconSpec, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Draw `spec`: an RGB picture, uint8 (size, size, 3), and the object's alpha, uint8 (size, size).

    `size` must be a multiple of 16 (the pixel style has 16 blocks a side); ValueError otherwise.
    """
    import numpy as np
    from PIL import Image

    if size % _PIXEL_BLOCKS or size <= 0:
        raise ValueError(f"size {size}: the pixel style needs a multiple of {_PIXEL_BLOCKS}; use 64 or 256")
    factor = 4 if size <= 128 else 2
    canvas = size * factor
    roles = _draw_roles(spec, canvas)
    if spec.style == "pixel":
        roles = _majority(roles, canvas // _PIXEL_BLOCKS)
        colours, alpha = _paint(spec, roles, pixel=True)
        repeat = size // _PIXEL_BLOCKS
        colours = colours.repeat(repeat, 0).repeat(repeat, 1)
        alpha = (alpha * np.uint8(255)).repeat(repeat, 0).repeat(repeat, 1)
        cover = alpha[..., None] > 0
        return np.where(cover, colours, _ground(spec, size)).astype(np.uint8), alpha
    colours, solid = _paint(spec, roles, pixel=False)
    ground = _ground(spec, canvas)
    full = np.where(solid[..., None], colours, ground)
    picture = np.asarray(Image.fromarray(full).reduce(factor))
    alpha = np.asarray(Image.fromarray(solid.astype(np.uint8) * 255).reduce(factor))
    return picture, alpha


def _draw_roles(spec: IconSpec, canvas: int) -> np.ndarray:
    """Return the role of every canvas point, uint8 (canvas, canvas), 0 where the ground shows."""
    import numpy as np
    from PIL import Image, ImageDraw

    image = Image.new("L", (canvas, canvas), 0)
    pen = ImageDraw.Draw(image)
    turn = math.radians(spec.angle)
    cos, sin = math.cos(turn) * spec.scale * _UNIT * canvas, math.sin(turn) * spec.scale * _UNIT * canvas
    mid_x, mid_y = (0.5 + spec.dx) * canvas, (0.5 + spec.dy) * canvas
    width = max(1, round(canvas * 0.034))
    for part in shapes.DRAWN[spec.object](spec.shape):
        points = [(mid_x + x * cos - y * sin, mid_y + x * sin + y * cos) for x, y in part.points]
        pen.polygon(points, fill=part.role)
        if spec.style == "outlined":
            pen.line([*points, points[0], points[1]], fill=_OUTLINE, width=width, joint="curve")
    return np.asarray(image)


def _majority(roles: np.ndarray, block: int) -> np.ndarray:
    """Return the commonest role of every block, (16, 16); a tie goes to the lower role."""
    import numpy as np

    side = roles.shape[0] // block
    tiles = roles.reshape(side, block, side, block)
    counts = np.stack([(tiles == role).sum(axis=(1, 3)) for role in range(_OUTLINE + 1)])
    return counts.argmax(0).astype(np.uint8)


def _paint(spec: IconSpec, roles: np.ndarray, *, pixel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return colours, uint8 (h, w, 3), and where the object is, bool (h, w)."""
    import numpy as np

    main = np.array(PAINTS[spec.colour], np.float32) * (1 + 0.06 * spec.tint)
    palette = np.zeros((_OUTLINE + 1, 3), np.float32)
    palette[shapes.MAIN] = main
    palette[shapes.SECOND] = main * 0.68
    palette[shapes.LIGHT] = main * 0.55 + 255 * 0.45
    palette[shapes.METAL], palette[shapes.WOOD], palette[_OUTLINE] = METAL_PAINT, WOOD_PAINT, OUTLINE_PAINT
    side = roles.shape[0]
    if spec.pattern != "plain":
        marked = _pattern(spec, side, pixel) & (roles == shapes.MAIN)
        palette = np.vstack([palette, main * 0.12 + 255 * 0.88])
        roles = np.where(marked, np.uint8(_OUTLINE + 1), roles)
    colours = np.clip(palette, 0, 255).astype(np.uint8)[roles]
    if spec.style == "shaded":
        colours = _shade(spec, colours)
    return colours, roles > 0


def _local(spec: IconSpec, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit-frame coordinates of every point, two float32 (side, side)."""
    import numpy as np

    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    x = (axis[None, :] - 0.5 - spec.dx) / (_UNIT * spec.scale)
    y = (axis[:, None] - 0.5 - spec.dy) / (_UNIT * spec.scale)
    turn = math.radians(spec.angle)
    return x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)


def _pattern(spec: IconSpec, side: int, pixel: bool) -> np.ndarray:
    """Return where the pattern's light colour lies, bool (side, side).

    Blocks of the pixel style are too coarse for turned patterns: they follow the block grid.
    """
    import numpy as np

    if pixel:
        row, column = np.arange(side)[:, None], np.arange(side)[None, :]
        shift = int(spec.phase * 2)
        if spec.pattern == "striped":
            return np.broadcast_to((row + shift) % 2 == 0, (side, side))
        return ((row + shift) % 2 == 0) & ((column + (row + shift) // 2) % 2 == 0)
    x, y = _local(spec, side)
    if spec.pattern == "striped":
        return ((y / 0.36 + spec.phase) % 1.0) < 0.45
    y = y / 0.2 + spec.phase
    row = np.floor(y)
    x = x / 0.4 + 0.5 * (row % 2)
    dx, dy = ((x + 0.5) % 1.0 - 0.5) * 0.4, (y - row - 0.5) * 0.2
    return dx * dx + dy * dy < 0.092**2


def _shade(spec: IconSpec, colours: np.ndarray) -> np.ndarray:
    """Light from the upper left: a strong ramp and a soft highlight."""
    import numpy as np

    x, y = _local(spec, colours.shape[0])
    ramp = np.clip((x + 1.1 * y) * 0.52, -1, 1)
    bright = np.clip(-ramp, 0, 1) * 0.3 + 0.75 * np.exp(-((x + 0.3) ** 2 + (y + 0.34) ** 2) / 0.05)
    bright, dim = np.minimum(bright, 0.9)[..., None], (1 - 0.72 * np.clip(ramp + 0.15, 0, 1))[..., None]
    return (colours * dim * (1 - bright) + 255 * bright).astype(np.uint8)


def _ground(spec: IconSpec, side: int) -> np.ndarray:
    """Return the ground, uint8 (side, side, 3)."""
    import numpy as np

    top, low = (np.array(paint, np.float32) for paint in GROUND_PAINTS[spec.ground])
    ramp = ((np.arange(side, dtype=np.float32) + 0.5) / side)[:, None, None]
    rows = np.round(top * (1 - ramp) + low * ramp).astype(np.uint8)
    return np.broadcast_to(rows, (side, side, 3))
