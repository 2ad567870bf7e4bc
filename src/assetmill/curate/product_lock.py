"""The product lock: a product in a generated scene is the photographed one, pixel for pixel, and that is measured.

A model that paints a scene around a product changes the product a little, if only by encoding and decoding it. So the
original is put back through the mask of what to keep; how far the model had strayed there is measured before (a product
that was redrawn no longer fits its shadow and its scene), and that nothing has changed is measured after.

Pictures are uint8 (H, W, 3), masks uint8 (H, W) with 255 where the product is. All of one call share their size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assetmill.curate.gates import Verdict

CORE = 250
"""Mask values from here on are product and nothing else: what is measured."""

SOFT = 2.0
"""Pixels from the mask's border inwards over which product and scene are mixed, at the size of the base picture."""

_WINDOW = 7


@dataclass(frozen=True, slots=True)
class Change:
    """How a picture differs from its original inside the kept area.

    `most` and `mean` are absolute differences of 8-bit values, per pixel that of the channel that differs most. `ssim`
    is the mean structural similarity there (Wang et al. 2004), at most 1. `num_pixels` is the area; where it is 0
    nothing was measured, and nothing has changed.
    """

    most: float
    mean: float
    ssim: float
    num_pixels: int


@dataclass(frozen=True, slots=True)
class ChangeLimits:
    """What still counts as the same product; see `Change`."""

    most: float
    mean: float
    ssim: float


HELD = ChangeLimits(most=1.0, mean=0.1, ssim=0.999)
"""After the original was put back: as good as no change at all (a grey level of rounding)."""


def measure_change(made: np.ndarray, original: np.ndarray, keep: np.ndarray) -> Change:
    """How `made` differs from `original` inside the core of `keep`. What surrounds the product has no part in it."""
    _check(made, original, keep)
    core = keep >= CORE
    count = int(core.sum())
    if not count:
        return Change(0.0, 0.0, 1.0, 0)
    difference = difference_map(made, original)[core]
    inside = np.where(core[..., None], made, original)  # windows that reach outside see no change there
    return Change(float(difference.max()), float(difference.mean()), _similarity(inside, original, core), count)


def difference_map(made: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Per pixel the absolute difference of the channel that differs most, uint8 (H, W)."""
    return np.abs(made.astype(np.int16) - original).max(axis=-1).astype(np.uint8)


def soften(keep: np.ndarray, width: float = SOFT) -> np.ndarray:
    """A mask as weights float32 (H, W) in [0, 1] that rise over `width` pixels inwards from its border.

    Inwards, because what surrounds the product in its photograph must not show as a halo. A mask that is soft already
    stays as soft as it is. The picture's own border is none of the mask: a product may be cut off by it.
    """
    weights = keep.astype(np.float32) / 255
    if width <= 0 or not (keep < 128).any():
        return weights
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(keep >= 128)  # 1 in the first pixel inside
    return np.minimum(weights, np.clip(depth / (width + 1), 0, 1).astype(np.float32))


def put_back(made: np.ndarray, original: np.ndarray, keep: np.ndarray, *, width: float = SOFT) -> np.ndarray:
    """`made` with the original's pixels where `keep` says so: exactly those wherever the softened mask is 1."""
    _check(made, original, keep)
    weights = soften(keep, width)[..., None]
    mixed = made * (1 - weights) + original * weights
    return np.where(weights >= 1, original, np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def held_area(keep: np.ndarray, *, width: float = SOFT) -> np.ndarray:
    """The mask uint8 (H, W) of pixels that `put_back` takes from the original alone: 255 there, else 0."""
    return np.where(soften(keep, width) >= 1, 255, 0).astype(np.uint8)


def check_change(change: Change, limits: ChangeLimits, gate: str = "product") -> Verdict:
    """Whether the kept area counts as unchanged; the value is its mean difference.

    A picture whose mask keeps nothing fails: a lock without a product has protected none.
    """
    if not change.num_pixels:
        return Verdict(gate, False, "the mask keeps no pixel: nothing white enough in it", 0.0)
    wrong = [
        f"{name} {value:.3g} (limit {limit:g})"
        for name, value, limit, bad in (
            ("mean difference", change.mean, limits.mean, change.mean > limits.mean),
            ("largest difference", change.most, limits.most, change.most > limits.most),
            ("SSIM", change.ssim, limits.ssim, change.ssim < limits.ssim),
        )
        if bad
    ]
    reason = f"the product changed: {', '.join(wrong)} of 8-bit values" if wrong else ""
    return Verdict(gate, not wrong, reason, round(change.mean, 4))


def draw_heat(made: np.ndarray, original: np.ndarray, keep: np.ndarray, *, full: float = 64.0) -> np.ndarray:
    """Where the product changed, as a picture uint8 (H, W, 3) for people.

    Inside the core black (as it was) through red and yellow to white (`full` grey levels off and more); around it the
    original, grey and dim.
    """
    _check(made, original, keep)
    share = np.clip(difference_map(made, original) / full, 0, 1).astype(np.float32)
    heat = np.stack([np.clip(3 * share - i, 0, 1) for i in range(3)], axis=-1) * 255
    around = np.repeat(original.mean(axis=-1, keepdims=True) * 0.35 + 20, 3, axis=-1)
    return np.where((keep >= CORE)[..., None], heat, around).round().astype(np.uint8)


# --- inside -------------------------------------------------------------------------------------------------


def _similarity(made: np.ndarray, original: np.ndarray, area: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    window = min(_WINDOW, *made.shape[:2])
    window -= 1 - window % 2
    if window < 3:
        return 1.0 if np.array_equal(made, original) else 0.0
    _, full = structural_similarity(original, made, win_size=window, channel_axis=-1, data_range=255, full=True)
    return float(full.mean(axis=-1)[area].mean())


def _check(made: np.ndarray, original: np.ndarray, keep: np.ndarray) -> None:
    for name, picture in (("made", made), ("original", original)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"`{name}` is {picture.dtype} {picture.shape}; expected uint8 (H, W, 3)")
    if keep.dtype != np.uint8 or keep.shape != made.shape[:2] or original.shape != made.shape:
        raise ValueError(
            f"picture {made.shape}, original {original.shape} and mask {keep.dtype} {keep.shape} do not fit together"
        )
