"""Gates over a cut-out: is this the whole object, alone, with clean edges? Each says why not.

They look at the alpha and the picture it was cut from, however it was made: keyed, by a model, or by the generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from assetmill.curate.gates import Verdict

if TYPE_CHECKING:
    from assetmill.config import CutoutGatesConfig

GROUND, COVERAGE, BORDER, HOLES, FRINGE = (
    "cutout-ground", "cutout-coverage", "cutout-border", "cutout-holes", "cutout-fringe",
)  # fmt: skip

_SMALL = 1 / 5000
"""Holes of a smaller share of the picture are not counted."""

_REACH = 4
"""Pixels round an edge in which its colours are compared with the object's and the ground's."""

_HARDLY = 24.0
"""Distance of object and ground, on 8-bit values, below which nobody sees what is left of the ground."""

_ON_LINE, _BEYOND = 0.5, 1.12
"""How far a mixture may lie off the line from object to ground, as a share of its way, and beyond the ground."""

_NUM_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """What an alpha looks like. Shares from 0 to 1.

    `coverage` is of the picture's area, `border` of the picture's edge pixels; `hole_area` is the holes' share of the
    outline with its holes filled.
    """

    coverage: float
    border: float
    num_holes: int
    hole_area: float


def check_cutout(
    pixels: np.ndarray | None, rgba: np.ndarray, limits: CutoutGatesConfig, *, ground_share: float | None = None
) -> list[Verdict]:
    """The verdicts on a cut-out, up to and including the first that failed.

    `pixels` is the picture, uint8 (H, W, 3), None where it came with its transparency and no ground ever mixed with
    its edges; `rgba` the cut-out, uint8 (H, W, 4). `ground_share` is the share of the border that the keyed ground
    explains, None where nothing was keyed.
    """
    size = rgba.shape[:2] if pixels is None else pixels.shape[:2]
    if rgba.dtype != np.uint8 or rgba.shape != (*size, 4):
        raise ValueError(f"a cut-out of {size} must be uint8 (H, W, 4), not {rgba.dtype} {rgba.shape}")
    verdicts: list[Verdict] = []
    for verdict in _ask(pixels, rgba, limits, ground_share):
        verdicts.append(verdict)
        if not verdict.passed:
            break
    return verdicts


def measure_shape(alpha: np.ndarray) -> Shape:
    """Coverage, contact with the picture's edge, and holes of an alpha, uint8 (H, W); opaque is 128 and more."""
    from scipy import ndimage

    solid = alpha >= 128
    edge = np.concatenate([solid[0], solid[-1], solid[1:-1, 0], solid[1:-1, -1]])
    # Holes lie within the object's box; what touches the pixels round it is open, as at the picture's edge.
    labels, count = ndimage.label(~solid[_box(solid)])
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    is_hole = sizes >= max(4, _SMALL * alpha.size)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_hole[side] = False
    is_hole[0] = False
    holes, filled = int(sizes[is_hole].sum()), int(solid.sum())
    share = holes / max(holes + filled, 1)
    return Shape(float(alpha.mean()) / 255, float(edge.mean()), int(is_hole.sum()), share)


def measure_fringe(pixels: np.ndarray, rgba: np.ndarray) -> float:
    """How much of the ground's colour is left in a cut-out's edge, from 0 (none) to 1 (all of it).

    For edge pixels with colour F, the object's colour O further in and the ground's colour B outside, the mean over
    the edge, weighted by alpha, of the share t in F = (1 - t) O + t B. Edges where object and ground hardly differ
    don't count; 0 where none is left. A thin object without an inside has no colour to compare with.
    """
    alpha = rgba[..., 3]
    clear, solid = alpha < 10, alpha >= 245
    # The outermost visible pixels, half transparent or not: a cut that lies too far out leaves opaque ground.
    rows, columns = np.nonzero(~clear & ~_deep(~clear, 2))
    step = max(1, ceil(len(rows) / _NUM_SAMPLES))
    rows, columns = rows[::step], columns[::step]
    if not len(rows):
        return 0.0
    inside, has_inside = _mean_near(rgba, _deep(solid, 3), rows, columns)
    behind, has_behind = _mean_near(pixels, clear, rows, columns)
    span = behind - inside
    length = np.einsum("nc,nc->n", span, span)
    seen = has_inside & has_behind & (length >= _HARDLY**2)
    if not seen.any():
        return 0.0
    away = rgba[rows, columns, :3] - inside
    left = np.einsum("nc,nc->n", away, span) / np.maximum(length, 1)
    beside = away - left[:, None] * span
    # A colour that is no mixture of the two, or lies beyond the ground's, is an outline's: nothing is left there.
    mixed = np.einsum("nc,nc->n", beside, beside) <= _ON_LINE**2 * np.einsum("nc,nc->n", away, away)
    left = np.where(mixed & (left <= _BEYOND), np.clip(left, 0, 1), 0)
    weight = alpha[rows, columns].astype(np.float32) * seen
    return float((left * weight).sum() / weight.sum())


# --- inside -----------------------------------------------------------------------------------------------------


def _ask(
    pixels: np.ndarray | None, rgba: np.ndarray, limits: CutoutGatesConfig, ground_share: float | None
) -> Iterator[Verdict]:
    if ground_share is not None:
        reason = f"the ground is not flat: one soft colour explains {ground_share:.0%} of the picture's border"
        yield _at_least(GROUND, ground_share, limits.ground, reason)
    shape = measure_shape(rgba[..., 3])
    shown = f"{shape.coverage:.1%} of the picture is opaque"
    if shape.coverage < limits.min_coverage:
        yield _at_least(COVERAGE, shape.coverage, limits.min_coverage, f"too little is left: {shown}")
    else:
        yield _at_most(COVERAGE, shape.coverage, limits.max_coverage, f"the ground was not taken off: {shown}")
    reason = f"cropped: the object takes {shape.border:.1%} of the picture's edge"
    yield _at_most(BORDER, shape.border, limits.max_border, reason)
    if shape.num_holes > limits.max_holes:
        yield Verdict(HOLES, False, f"{shape.num_holes} holes (limit {limits.max_holes})", round(shape.hole_area, 4))
    else:
        reason = f"holes take {shape.hole_area:.1%} of the outline"
        yield _at_most(HOLES, shape.hole_area, limits.max_hole_area, reason)
    fringe = measure_fringe(pixels, rgba) if pixels is not None else 0.0
    yield _at_most(FRINGE, fringe, limits.max_fringe, f"{fringe:.1%} of the ground's colour is left in the edge")


def _at_least(gate: str, value: float, limit: float, reason: str) -> Verdict:
    passed = value >= limit
    return Verdict(gate, passed, "" if passed else f"{reason} (at least {limit:.0%})", round(value, 4))


def _at_most(gate: str, value: float, limit: float, reason: str) -> Verdict:
    passed = value <= limit
    return Verdict(gate, passed, "" if passed else f"{reason} (limit {limit:.1%})", round(value, 4))


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The window of what is in a mask and one pixel round it, as far as the picture goes."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return tuple(slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2) for found in (rows, columns))  # type: ignore[return-value]


def _deep(mask: np.ndarray, depth: int) -> np.ndarray:
    """Where a mask is at least `depth` pixels deep; beyond the picture's edge it goes on."""
    outside = ~mask
    for _ in range(depth - 1):
        wide = outside.copy()
        wide[:, 1:] |= outside[:, :-1]
        wide[:, :-1] |= outside[:, 1:]
        outside = wide.copy()
        outside[1:] |= wide[:-1]
        outside[:-1] |= wide[1:]
    return ~outside


def _mean_near(
    pixels: np.ndarray, mask: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A mask's mean colour round each pixel, near pixels counting most, float32 (N, 3), and where there is any."""
    top, left = max(int(rows.min()) - _REACH, 0), max(int(columns.min()) - _REACH, 0)
    window = slice(top, int(rows.max()) + _REACH + 1), slice(left, int(columns.max()) + _REACH + 1)
    # Colours and mask side by side, the edge repeated: one look-up per neighbour, without a bound to check.
    known = mask[window][..., None]
    beside = np.concatenate([pixels[window][..., :3] * known, known], axis=2)
    flat = np.pad(beside, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge").reshape(-1, 4).astype(np.float32)
    line = beside.shape[1] + 2 * _REACH
    at = (rows - top + _REACH) * line + columns - left + _REACH
    total, near = np.zeros((len(rows), 4), np.float32), np.empty((len(rows), 4), np.float32)
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            flat.take(at + (down * line + right), axis=0, out=near, mode="clip")
            near *= np.float32(np.exp(-(down * down + right * right) / 8))
            total += near
    return total[:, :3] / np.maximum(total[:, 3:], 1e-12), total[:, 3] > 0
