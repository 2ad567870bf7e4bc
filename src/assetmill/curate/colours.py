"""The colours of a picture as one vector, so that how near two pictures' colours are is a plain distance."""

from __future__ import annotations

from itertools import product

import numpy as np

_QUANTILES = 16
_SIDE = 48
"""Pixels of a picture that are looked at in each direction; more change a distance by 1 at most."""

_DIRECTIONS = np.array([d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)], np.float64)
"""The 13 axes through the faces, edges and corners of a cube: no direction of the colour space is preferred."""


def palette_of(pixels: np.ndarray) -> np.ndarray:
    """The palette of a picture uint8 (H, W, 3 or 4): float32 (208,). Pixels that are mostly transparent don't count.

    The Euclidean distance of two palettes is the sliced 2-Wasserstein distance of their pixels in CIELAB (Bonneel et
    al., 2015), times √3: so a picture all of whose colours are shifted by ΔE (CIE 1976) lies ΔE away. Where in the
    picture a colour is doesn't matter, how much of it there is does. Raises ValueError on other shapes and types.
    """
    from skimage.color import rgb2lab

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        raise ValueError(f"a palette needs uint8 (H, W, 3 or 4), not {pixels.dtype} {pixels.shape}")
    # Single pixels, not means of blocks: these would have colours that nobody sees.
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, _SIDE)).astype(int)) for n in pixels.shape[:2])
    some = pixels[np.ix_(rows, columns)].reshape(-1, pixels.shape[2])
    if some.shape[1] == 4 and (some[:, 3] >= 128).any():
        some = some[some[:, 3] >= 128]
    lab = rgb2lab(some[:, :3])
    axes = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    found = np.quantile(lab @ axes.T, middles, axis=0)
    return (found * np.sqrt(3 / found.size)).astype(np.float32).reshape(-1)


def palette_distances(palettes: np.ndarray) -> np.ndarray:
    """Distances, in ΔE, between all rows of palettes (N, 208): float64 (N, N), symmetric, zero on the diagonal."""
    rows = np.asarray(palettes, np.float64)
    squares = np.square(rows).sum(axis=1)
    found = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0.0))
    np.fill_diagonal(found, 0.0)
    return (found + found.T) / 2
