"""Large pictures through a model in overlapping tiles that are blended where they meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assetmill.engines.devices import memory_errors, to_bytes
from assetmill.engines.protocols import OutOfMemory

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]

Place = tuple[int, Span, Span]
"""Where a tile comes from: which picture of the batch, its rows and its columns."""

Enlarge = Callable[["torch.Tensor", Sequence[Place]], "torch.Tensor"]
"""Enlarges tiles (N, C, H, W) of one size, given where each comes from."""


def tile_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Start and end of the tiles along one edge, in order; all of one length, overlapping by at least `overlap`.

    One span of the whole edge where it fits into a tile. Raises ValueError where the overlap leaves no room to move on.
    """
    if length <= tile:
        return [(0, length)]
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} does not fit a tile of {tile}; make it smaller")
    step = tile - overlap
    count = 1 + -(-(length - tile) // step)
    # the last tile ends at the edge; the overlap it wins is spread over all of them
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def enlarge_in_tiles(
    pictures: torch.Tensor, enlarge: Enlarge, *, scale: int, tile: int, overlap: int, batch: int
) -> torch.Tensor:
    """Pictures (N, C, H, W) enlarged `scale` times by a function of same-size batches, through tiles where larger.

    `tile` and `overlap` are in pixels of the input; up to `batch` tiles go through the function at once. Where tiles
    overlap, each counts by a ramp that falls towards its inner edges, so that no seam shows; there a model lacks the
    context it has elsewhere. The result has exactly H x scale rows and W x scale columns.
    """
    import torch

    rows = tile_spans(pictures.shape[2], tile, overlap)
    columns = tile_spans(pictures.shape[3], tile, overlap)
    places: list[Place] = [(n, y, x) for n in range(len(pictures)) for y in rows for x in columns]
    if len(rows) == len(columns) == 1:
        starts = range(0, len(pictures), batch)
        return torch.cat([enlarge(pictures[s : s + batch], places[s : s + batch]) for s in starts])
    total: torch.Tensor | None = None
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        tiles = torch.stack([pictures[n, :, y[0] : y[1], x[0] : x[1]] for n, y, x in part])
        large = enlarge(tiles, part).float()
        if total is None:
            height, width = pictures.shape[2] * scale, pictures.shape[3] * scale
            total = large.new_zeros((len(pictures), large.shape[1], height, width))
            weight = large.new_zeros((height, width))
        for (n, y, x), piece in zip(part, large, strict=True):
            ramp = torch.outer(_ramp(y, rows, scale).to(large.device), _ramp(x, columns, scale).to(large.device))
            area = (slice(y[0] * scale, y[1] * scale), slice(x[0] * scale, x[1] * scale))
            total[n, :, area[0], area[1]] += piece * ramp
            if n == 0:
                weight[area] += ramp
    assert total is not None
    return total / weight


@dataclass(slots=True)
class TileRun:
    """How a model enlarges whole pictures: in which tiles, how many at a time, and what becomes of the result.

    The model enlarges `own_scale` times; where `scale` is less, its result is reduced to that. Pictures are padded to
    multiples of `multiple` pixels before and cropped after. `tile` None: the model takes pictures of any size.
    `budget` is how many input pixels go through at once; it is halved for good when they don't fit into memory.
    """

    scale: int
    own_scale: int
    device: torch.device
    dtype: torch.dtype
    budget: int
    tile: int | None
    overlap: int
    multiple: int = 1

    def enlarge(self, pixels: np.ndarray, enlarge: Enlarge) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times by a function of tiles, floats (n, 3, h, w) in [0, 1].

        Raises OutOfMemory when one tile doesn't fit.
        """
        import torch

        count, height, width = pixels.shape[:3]
        if not count:
            return np.zeros((0, height * self.scale, width * self.scale, 3), np.uint8)
        tile = max(height, width) if self.tile is None else self.tile
        tile = max(self.multiple, tile // self.multiple * self.multiple)
        tiles = max(1, self.budget // (min(height, tile) * min(width, tile)))
        group = max(1, self.budget // (height * width))
        out, start = [], 0
        with torch.inference_mode():
            while start < count:
                part = pixels[start : start + group]
                try:
                    with memory_errors(f"upscaling {len(part)} pictures of {width}x{height}"):
                        out.append(self._enlarge_part(part, enlarge, start, tile, tiles))
                except OutOfMemory:
                    if tiles == group == 1:
                        raise
                    tiles, group = max(1, tiles // 2), max(1, group // 2)
                    self.budget = max(1, self.budget // 2)
                    continue
                start += len(part)
        return np.concatenate(out)

    def _enlarge_part(self, pixels: np.ndarray, enlarge: Enlarge, first: int, tile: int, batch: int) -> np.ndarray:
        import torch

        height, width = pixels.shape[1:3]
        inputs = torch.from_numpy(pad_to_multiple(pixels, self.multiple)).to(self.device).permute(0, 3, 1, 2)
        inputs = inputs.to(self.dtype).div(255)

        def with_numbers(tiles: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
            return enlarge(tiles, [(n + first, y, x) for n, y, x in places])

        tile = max(inputs.shape[2:]) if self.tile is None else tile
        large = enlarge_in_tiles(
            inputs, with_numbers, scale=self.own_scale, tile=tile, overlap=min(self.overlap, tile // 2), batch=batch
        )
        large = large[:, :, : height * self.own_scale, : width * self.own_scale]
        if self.scale < self.own_scale:
            size = (height * self.scale, width * self.scale)
            large = torch.nn.functional.interpolate(large.float(), size, mode="bicubic", antialias=True)
        return to_bytes(large)


def pad_to_multiple(pixels: np.ndarray, multiple: int) -> np.ndarray:
    """Pictures (N, H, W, C) with their last rows and columns mirrored until both sides are multiples."""
    bottom, right = -pixels.shape[1] % multiple, -pixels.shape[2] % multiple
    if not (bottom or right):
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="symmetric")


def _ramp(span: Span, spans: list[Span], scale: int) -> torch.Tensor:
    """Weights of a tile along one edge: 1 inside, falling to nearly 0 over what it shares with its neighbours."""
    import torch

    index = spans.index(span)
    weights = torch.ones((span[1] - span[0]) * scale)
    if index > 0:
        shared = (spans[index - 1][1] - span[0]) * scale
        weights[:shared] *= torch.linspace(0, 1, shared + 2)[1:-1]
    if index < len(spans) - 1:
        shared = (span[1] - spans[index + 1][0]) * scale
        weights[-shared:] *= torch.linspace(1, 0, shared + 2)[1:-1]
    return weights
