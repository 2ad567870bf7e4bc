"""The ground behind an object: its colour over the whole picture, estimated from the picture's border.

A ground is flat, or changes softly (a gradient, a vignette): a polynomial of degree 0, 1 or 2 in x and y, fitted
robustly, so that an object that touches the border doesn't pull it along.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

BORDER = 0.02
"""Width of the border that is looked at, as a share of the shorter edge; at least two pixels."""

_NUM_SAMPLES = 1024
_BLOCK = 8192
"""Pixels whose colours are turned into OKLab at a time."""

_NUM_TERMS = {0: 1, 1: 3, 2: 6}
_SIMPLER = 1.15
"""A simpler ground is taken where it fits no more than this much worse than the most flexible one."""

_LINEAR_TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]], np.float32,
)  # fmt: skip
_CONES_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]], np.float32,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ground:
    """A ground's colour: `lab` and `rgb` are the coefficients, float32 (6, 3), of 1, x, y, x², xy, y².

    x and y run from -1 to 1 over the picture. `share` of the border's pixels lie within `reach` (OKLab distance x 100)
    of it; `noise` is the median distance of the border's pixels. `colour` is the sRGB colour in the middle, 0-255.
    """

    lab: np.ndarray
    rgb: np.ndarray
    degree: int
    share: float
    noise: float
    reach: float

    @property
    def colour(self) -> tuple[int, int, int]:
        red, green, blue = (int(v) for v in np.clip(np.rint(self.rgb[0]), 0, 255))
        return red, green, blue

    def distance(self, lab: np.ndarray) -> np.ndarray:
        """How far each pixel of float32 (H, W, 3) OKLab x 100 is from the ground there: float32 (H, W)."""
        if self.degree == 0:
            away = lab - self.lab[0]
        else:
            height, width = lab.shape[:2]
            x, y = _axis(width)[None, :, None], _axis(height)[:, None, None]
            c = self.lab
            away = lab - ((c[0] + c[1] * x + c[3] * x * x) + (c[2] * y + c[5] * y * y) + c[4] * (x * y))
        light, red, blue = np.moveaxis(np.square(away), -1, 0)
        return np.sqrt(light + red + blue)

    def at(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The ground's sRGB colour at pixels of a picture of (height, width): float32 (N, 3), 0-255."""
        return np.clip(_terms(rows, columns, shape) @ self.rgb, 0, 255)


def estimate_ground(pixels: np.ndarray, lab: np.ndarray, tolerance: float) -> Ground:
    """The ground of uint8 (H, W, 3) pixels, given also as `lab` (see `to_lab`).

    `tolerance` is the OKLab distance (x 100) within which a colour counts as the ground's; where the border is noisy,
    `reach` is larger, up to twice as much.
    """
    height, width = pixels.shape[:2]
    rows, columns = _border(height, width)
    samples = np.hstack([lab[rows, columns], pixels[rows, columns].astype(np.float32)])
    terms = _terms(rows, columns, (height, width))
    fits: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}
    for degree, count in _NUM_TERMS.items():
        basis = terms[:, :count]
        found = _fit(basis, samples)
        away = _lengths(samples[:, :3] - basis @ found[:, :3])
        fits[degree] = (float(np.median(away)), found, away)
        if _quantile(away, 0.9) < 0.2 * tolerance:
            break  # flat enough: nothing more flexible is needed
    best = min(spread for spread, _, _ in fits.values())
    degree = min(d for d, (spread, _, _) in fits.items() if spread <= best * _SIMPLER + 0.05)
    noise, found, away = fits[degree]
    full = np.zeros((6, 6), np.float32)
    full[: len(found)] = found
    # Of Gaussian noise in three channels, 99 % lie within 2.2 medians.
    reach = min(max(tolerance, 2.2 * noise), 2 * tolerance)
    return Ground(full[:, :3], full[:, 3:], degree, float((away <= reach).mean()), noise, reach)


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """OKLab x 100 of uint8 (..., 3) sRGB pixels, float32: a distance of about 2 is just seen.

    Björn Ottosson, "A perceptual color space for image processing" (2020).
    """
    # Channel by channel, in which sums and roots run along whole rows, and in blocks that a cache holds.
    channels = np.moveaxis(pixels, -1, 0).reshape(3, -1)
    lab = np.empty(channels.shape, np.float32)
    for start in range(0, lab.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        cones = _LINEAR_TO_CONES @ _linear_levels().take(channels[:, block])
        np.matmul(_CONES_TO_LAB, _cube_root(cones), out=lab[:, block])
    lab *= 100
    return np.moveaxis(lab.reshape(3, *pixels.shape[:-1]), 0, -1)


def _cube_root(values: np.ndarray) -> np.ndarray:
    """The cube roots of float32 values from 0 to 1, to the last bit or two; faster than numpy's power.

    A first guess by a third of the exponent, then Halley's method twice.
    """
    root = (values.view(np.int32) // 3 + np.int32(709_921_077)).view(np.float32)
    for _ in range(2):
        cube = root * root * root
        above = cube + values
        above += values
        cube += cube
        cube += values
        root *= np.divide(above, cube, out=above)
    return root


@cache
def _linear_levels() -> np.ndarray:
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _axis(count: int) -> np.ndarray:
    return np.linspace(-1, 1, count, dtype=np.float32)


def _terms(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    x, y = _axis(shape[1])[columns], _axis(shape[0])[rows]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _border(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the border's pixels, evenly thinned out where they are many."""
    depth = min(max(2, round(BORDER * min(height, width))), (min(height, width) + 1) // 2)
    ring = np.ones((height, width), bool)
    ring[depth : height - depth, depth : width - depth] = False
    rows, columns = np.nonzero(ring)
    step = max(1, len(rows) // _NUM_SAMPLES)
    return rows[::step], columns[::step]


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nc,nc->n", vectors, vectors))


def _quantile(values: np.ndarray, share: float) -> float:
    """The value that a share of all (N,) lie below; without numpy's interpolation, which takes ten times as long."""
    rank = int(share * (len(values) - 1))
    return float(np.partition(values, rank)[rank])


def _fit(basis: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Coefficients, float32 (terms, channels), by reweighted least squares: first the least absolute distance, then
    Tukey's weights, which give colours far off no say at all. Distances are over the first three channels.
    """
    middle = np.median(samples, axis=0)
    found = np.zeros((basis.shape[1], samples.shape[1]), np.float32)
    found[0] = middle
    for limit in (None, None, None, 20.0, 8.0, 4.0, 4.0):
        away = _lengths(samples[:, :3] - basis @ found[:, :3])
        if limit is None:
            weight = 1 / np.maximum(away, 0.5)
        else:
            # On a noisy ground the limit widens; the lower quartile is still the ground's with half the border covered.
            scale = max(limit, 6 * _quantile(away, 0.25))
            weight = np.square(np.clip(1 - np.square(away / scale), 0, None))
        weighted = basis * weight[:, None]
        # A trace of ridge: a border of which little is left must not give wild coefficients.
        normal = basis.T @ weighted + 1e-4 * weight.sum() * np.eye(basis.shape[1], dtype=np.float32)
        right = weighted.T @ samples
        right[0] += 1e-4 * weight.sum() * middle
        found = np.linalg.solve(normal.astype(np.float64), right.astype(np.float64)).astype(np.float32)
    return found
