"""Renders splits of the starter world into arrays on disk, and hands out batches of them.

A split is a name ("train", "judge", "test") that seeds its specs; a rendered split is a folder
`<name>-<count>` with `pictures.npy` (uint8, count × 64 × 64 × 3), `labels.npy` (int64, count × 5, class
indices in the order of `ATTRIBUTES`) and, once complete, `done`.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assetmill.starter.renderer import IconSpec, draw, sample_spec
from assetmill.starter.vocabulary import ATTRIBUTES

if TYPE_CHECKING:
    import numpy as np
    import torch

SIZE = 64


def labels_of(spec: IconSpec) -> list[int]:
    """Return the class index of each attribute, in the order of `ATTRIBUTES`."""
    return [values.index(getattr(spec, name)) for name, values in ATTRIBUTES.items()]


@dataclass(frozen=True)
class RenderedSplit:
    """A split on disk; `pictures` is a read-only memory map."""

    name: str
    held_out: bool | None
    pictures: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def spec(self, index: int) -> IconSpec:
        """Return the spec that picture `index` was drawn from."""
        return sample_spec(self.name, index, held_out=self.held_out)


def render_split(
    folder: Path, name: str, count: int, *, held_out: bool | None = False, num_workers: int = 1
) -> RenderedSplit:
    """Render `count` pictures of a split into `folder`, or open them when they are there already."""
    import numpy as np

    home = Path(folder) / f"{name}-{count}"
    pictures_file, labels_file, done = home / "pictures.npy", home / "labels.npy", home / "done"
    if not done.is_file():
        home.mkdir(parents=True, exist_ok=True)
        pictures = np.lib.format.open_memmap(pictures_file, "w+", np.uint8, (count, SIZE, SIZE, 3))
        labels = np.zeros((count, len(ATTRIBUTES)), np.int64)
        pieces = [(name, start, min(start + 500, count), held_out) for start in range(0, count, 500)]
        with ProcessPoolExecutor(max_workers=num_workers) as pool:
            for (_, start, stop, _), (drawn, classes) in zip(pieces, pool.map(_render_piece, pieces), strict=True):
                pictures[start:stop], labels[start:stop] = drawn, classes
        pictures.flush()
        np.save(labels_file, labels)
        done.touch()
    return RenderedSplit(name, held_out, np.load(pictures_file, mmap_mode="r"), np.load(labels_file))


def _render_piece(piece: tuple[str, int, int, bool | None]) -> tuple[np.ndarray, list[list[int]]]:
    import numpy as np

    name, start, stop, held_out = piece
    specs = [sample_spec(name, index, held_out=held_out) for index in range(start, stop)]
    return np.stack([draw(spec, SIZE)[0] for spec in specs]), [labels_of(spec) for spec in specs]


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """Turn uint8 (n, h, w, 3) pictures into a float tensor (n, 3, h, w) in [-1, 1]."""
    import numpy as np
    import torch

    array = np.ascontiguousarray(pictures).astype(np.float32)
    return torch.from_numpy(array).permute(0, 3, 1, 2).div_(127.5).sub_(1.0).contiguous()


def to_pictures(tensor: torch.Tensor) -> np.ndarray:
    """Turn a float tensor (n, 3, h, w) in [-1, 1] into uint8 (n, h, w, 3) pictures."""
    array = tensor.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return array.permute(0, 2, 3, 1).cpu().numpy()
