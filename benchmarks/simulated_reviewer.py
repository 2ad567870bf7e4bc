"""A reviewer whose taste the judge does not know: warm colours, and objects that sit in the middle of the frame.

They like a picture by warmth and centredness in equal parts, read off its pixels, plus chance: the same two pictures
may be judged otherwise the next day. They approve the one they like best, and reject those they like least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assetmill.deliver.ground import to_lab

WARM = (0.5, 0.866)
"""Direction in OKLab's (a, b) plane that counts as warm: orange."""

REJECTS = 2
"""How many of eight pictures they reject."""


@dataclass(frozen=True)
class Pictures:
    """What the reviewer sees of one asset: `warmth` and `centred`, float (N,), in standard deviations over all."""

    blobs: Sequence[str]
    warmth: np.ndarray
    centred: np.ndarray

    @property
    def liking(self) -> np.ndarray:
        """How much each is liked, without chance: unit variance over all pictures."""
        return (self.warmth + self.centred) / np.sqrt(2)


@dataclass(frozen=True)
class Verdict:
    approved: str
    rejected: tuple[str, ...]


def look_at(assets: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Pictures]:
    """Reads warmth and centredness off the pictures, uint8 (H, W, 3), of each asset by blob."""
    raw = {name: np.array([_read(p) for p in pictures.values()]) for name, pictures in assets.items()}
    everything = np.concatenate(list(raw.values()))
    middle, spread = everything.mean(axis=0), everything.std(axis=0)
    return {
        name: Pictures(tuple(assets[name]), *((values - middle) / spread).T) for name, values in raw.items()
    }  # fmt: skip


def feel(liking: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """What they feel looking at pictures that they like that much, (N,): liking plus normal noise."""
    return liking + rng.normal(0.0, noise, len(liking))


def decide(blobs: Sequence[str], felt: np.ndarray) -> Verdict:
    """Approves the best, rejects the worst by what was felt."""
    order = np.argsort(-felt)
    return Verdict(blobs[order[0]], tuple(blobs[i] for i in order[-REJECTS:]))


def _read(pixels: np.ndarray) -> tuple[float, float]:
    """Warmth of the object's colours, and minus the distance of its middle from the frame's, in frames.

    The object is what differs from the ground, taken as the median of the border.
    """
    lab = to_lab(pixels[..., :3])
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    away = np.linalg.norm(lab - np.median(border, axis=0), axis=-1)
    mass = np.where(away > 8.0, away, 0.0) + 1e-6
    mass /= mass.sum()
    height, width = mass.shape
    rows, columns = (np.arange(n) / (n - 1) - 0.5 for n in (height, width))
    off = np.hypot(rows @ mass.sum(axis=1), columns @ mass.sum(axis=0))
    colour = (mass[..., None] * lab).sum(axis=(0, 1))
    return float(colour[1] * WARM[0] + colour[2] * WARM[1]), float(-off)
