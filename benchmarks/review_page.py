"""The section of docs/performance.md about the review page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from machine import machine_line

Table = Callable[[tuple[str, ...], list[tuple[Any, ...]]], str]


def review_section(f: dict[str, Any], table: Table) -> str:
    paint, keys, scroll, start = f["first_paint"], f["keys"], f["scroll"], f["start_up"]
    busy = f["keys_after_scroll"]
    opened = f"{paint['thumbnails']} thumbnails in a new window, warm store: first paint"
    rows = [
        (opened, f"{paint['first_paint_ms']:.0f} ms", "1 s"),
        ("… all of them there", f"{paint['all_painted_ms']:.0f} ms", ""),
        ("key press to the next frame, median", f"{keys['median_ms']:.0f} ms", ""),
        ("… 95 of 100 within", f"{keys['p95_ms']:.0f} ms", "100 ms"),
        ("the same right after a scroll over all pictures, median", f"{busy['median_ms']:.0f} ms", ""),
        ("… 95 of 100 within", f"{busy['p95_ms']:.0f} ms", ""),
        (f"key presses for {keys['assets']} assets", keys["presses"], "150"),
        (f"start-up with {start['candidates']:,} candidates", f"{start['seconds']:.1f} s", "5 s"),
        (f"a frame of a scroll over {f['pictures']:,} pictures, median", f"{scroll['median_ms']:.0f} ms", ""),
        ("… 99 of 100 within", f"{scroll['p99_ms']:.0f} ms", ""),
    ]  # fmt: skip
    return f"""## The review page

`make review-bench` on {machine_line(f["machine"])}, in Chromium on the same cores, without a GPU. The person of the key
presses (ten a second) likes the best picture of seven assets in ten, another one of two, and rejects the best of one
first.
Start-up is the whole `assetmill review`, from the command to the first assets.

{table(("what", "measured", "goal: at most"), rows)}"""
