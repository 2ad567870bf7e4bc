"""Does a picture tile? Its opposite edges may differ no more than neighbouring columns (or rows) inside it do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assetmill.curate.gates import Verdict

USUAL = 0.95
"""The share of neighbouring pairs inside that a seam is compared with: hard edges of a motif are the rest."""

FLOOR = 1.0
"""The least difference, in grey levels of 8 bits, that counts as usual: nobody sees less."""


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a picture's end meets its beginning along one axis.

    `edge` is the mean absolute difference between last and first column (`x`) or row (`y`), `inside` what 95 % of the
    neighbouring pairs inside stay below, both on 8-bit values. `ratio` of at most about 1 means that nothing shows.
    """

    axis: str
    edge: float
    inside: float

    @property
    def ratio(self) -> float:
        return self.edge / max(self.inside, FLOOR)


def measure_seam(picture: np.ndarray, axis: str) -> Seam:
    """The seam of a uint8 (H, W, C) picture along `x` (left and right edge) or `y` (top and bottom edge).

    Raises ValueError for another axis, and for a picture of fewer than three columns or rows along it.
    """
    if axis not in ("x", "y"):
        raise ValueError(f"axis {axis!r} is unknown; use x or y")
    lines = np.moveaxis(picture, 1 if axis == "x" else 0, 0).astype(np.int16)
    if len(lines) < 3:
        raise ValueError(f"{len(lines)} lines along {axis} have no inside to compare their edges with")
    inside = np.abs(np.diff(lines, axis=0)).reshape(len(lines) - 1, -1).mean(axis=1)
    edge = float(np.abs(lines[0] - lines[-1]).mean())
    return Seam(axis, edge, float(np.quantile(inside, USUAL)))


def check_seam(picture: np.ndarray, axes: str, limit: float) -> Verdict:
    """Whether a uint8 (H, W, C) picture tiles along all of `axes` (say "xy"); the value is its worst ratio."""
    worst = max((measure_seam(picture, axis) for axis in axes), key=lambda seam: seam.ratio)
    passed = worst.ratio <= limit
    edges = {"x": "left and right", "y": "top and bottom"}[worst.axis]
    reason = "" if passed else (
        f"seam: {edges} edge differ by {worst.edge:.1f} of 255, {worst.ratio:.2f} times what neighbours inside do "
        f"(limit {limit:g})"
    )  # fmt: skip
    return Verdict("seam", passed, reason, worst.ratio)
