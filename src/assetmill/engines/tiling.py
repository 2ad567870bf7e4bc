"""Large pictures through a model in overlapping tiles that are blended where they meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tile_spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
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
    pictures: torch.Tensor,
    enlarge: Callable[[torch.Tensor], torch.Tensor],
    *,
    scale: int,
    tile: int,
    overlap: int,
    batch: int,
) -> torch.Tensor:
    """Pictures (N, C, H, W) enlarged `scale` times by a function of same-size batches, through tiles where larger.

    `tile` and `overlap` are in pixels of the input; up to `batch` tiles go through the function at once. Where tiles
    overlap, each counts by a ramp that falls towards its inner edges, so that no seam shows; there a model lacks the
    context it has elsewhere. The result has exactly H x scale rows and W x scale columns.
    """
    import torch

    rows = tile_spans(pictures.shape[2], tile, overlap)
    columns = tile_spans(pictures.shape[3], tile, overlap)
    if len(rows) == len(columns) == 1:
        return torch.cat([enlarge(part) for part in pictures.split(batch)])
    places = [(n, y, x) for n in range(len(pictures)) for y in rows for x in columns]
    total: torch.Tensor | None = None
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        tiles = torch.stack([pictures[n, :, y[0] : y[1], x[0] : x[1]] for n, y, x in part])
        large = enlarge(tiles).float()
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


def _ramp(span: tuple[int, int], spans: list[tuple[int, int]], scale: int) -> torch.Tensor:
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
