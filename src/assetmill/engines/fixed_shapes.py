"""Batches of one size for a compiled model: partial ones are filled up, and what filled them is dropped.

A compiled denoiser is compiled again for each new shape, which costs more than the pictures that fill a batch up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from assetmill.engines.pausing import copy_paused
from assetmill.engines.protocols import Generated, Paused
from assetmill.records import Request


class FixedShapes:
    """Remembers the largest batch of each bucket and fills smaller ones up to it with copies of their last picture."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[int, int], int] = {}

    def fill(
        self, batch: Sequence[Request], resume: Sequence[Paused] | None = None
    ) -> tuple[list[Request], list[Paused] | None]:
        """The batch, and where its pictures stand, as long as the largest of its size so far."""
        size = (batch[0].width, batch[0].height)
        largest = self._sizes[size] = max(self._sizes.get(size, 0), len(batch))
        missing = largest - len(batch)
        filled = [*batch, *[batch[-1]] * missing]
        return filled, [*resume, *(copy_paused(resume[-1]) for _ in range(missing))] if resume else None


def first_rows(made: Generated, count: int) -> Generated:
    """The first `count` pictures of a batch."""
    if len(made.pixels) == count:
        return made
    return replace(
        made,
        pixels=made.pixels[:count],
        finite=made.finite[:count],
        cut=made.cut[:count],
        device_pixels=None if made.device_pixels is None else made.device_pixels[:count],
        refused=made.refused[:count],
        paused=made.paused[:count],
    )
