"""The best settings of each contender on this machine, by short runs: threads, batch, compiled or not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peers.contender import TITLES
from peers.measure import say, start
from peers.work import Settings, Work, slice_work

_REPEATS = 2


def choose_settings(
    work: Work, names: Sequence[str], folder: Path, *, batches: Sequence[int] = (8, 16, 32), num_assets: int = 16
) -> tuple[dict[str, Settings], dict[str, list[dict[str, Any]]]]:
    """The fastest settings of each contender, and all that was tried: settings and pictures per second.

    Everybody has the whole machine: every thread count up to its cores (1 and all of them) is tried for each. What
    the denoiser likes (batch, compiled, channels last) is found on the pure forwards and holds for all that batch.
    """
    threads = sorted({1, len(os.sched_getaffinity(0))})
    part, short = (
        slice_work(work, num_assets, folder / "part"),
        slice_work(work, max(1, num_assets // 4), folder / "short"),
    )
    tried: dict[str, list[dict[str, Any]]] = {name: [] for name in ("pure", *names)}

    def attempt(name: str, own: Work, settings: Sequence[Settings]) -> Settings:
        """Tries settings that need no other process, and gives the best of all that were tried for `name`."""
        number = len(tried[name])
        _, runs = start(name, own, [s for s in settings for _ in range(_REPEATS)], folder / f"{name}-{number}")
        for at, one in enumerate(settings):
            seconds = min(runs[at * _REPEATS : (at + 1) * _REPEATS])
            tried[name].append({"settings": asdict(one), "images_per_second": len(own.pieces) / seconds})
            say(f"{TITLES[name]}, {one.words}: {tried[name][-1]['images_per_second']:.2f} images/s")
        best = max(tried[name], key=lambda t: t["images_per_second"])
        return Settings(**best["settings"])

    best = attempt("pure", part, [Settings(t, b) for t in threads for b in batches])
    attempt("pure", part, [replace(best, channels_last=True)])
    best = attempt("pure", part, [replace(best, compile=True)])
    chosen = {}
    for name in names:
        if name == "pure":
            chosen[name] = best
        elif name.startswith("per-"):
            chosen[name] = attempt(name, short, [Settings(t, 1) for t in threads])
        elif name == "ray":  # its actors' processes get their threads when they start
            chosen[name] = [attempt(name, part, [replace(best, threads=t)]) for t in threads][-1]
        else:
            chosen[name] = attempt(name, part, [replace(best, threads=t) for t in threads])
    return chosen, tried
