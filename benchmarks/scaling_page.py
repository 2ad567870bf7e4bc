"""What several workers gain, as a section of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from machine import machine_line

Table = Callable[[tuple[str, ...], list[tuple[Any, ...]]], str]


def scaling_section(f: dict[str, Any], table: Table) -> str:
    rows = [
        (kind, row["workers"], row["chunks"], f"{row['seconds']:.1f}", f"{row['speed_up']:.2f}",
         f"{row['speed_up'] / row['workers']:.3f}")
        for kind in ("processes", "ray")
        for row in f.get(kind, ())
    ]  # fmt: skip
    return f"""## Several workers

`make scaling` on {machine_line(f["machine"])}. A simulated engine that sleeps {f["chunk_seconds"]:g} s over a chunk of
{f["images_in_chunk"]} images, {f["chunks_each"]} chunks for each worker, from warm workers to the last record; all of
them on this one machine. Speed-up is chunks per second over those of one worker (goal: ≥ 0.95 of the number of
workers).

{table(("execution", "workers", "chunks", "seconds", "speed-up", "of the ideal"), rows)}"""
