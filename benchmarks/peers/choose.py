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
    work: Work, names: Sequence[str], folder: Path, *, batches: Sequence[int] = (8, 16, 32), num_assets: int = 8
) -> tuple[dict[str, Settings], dict[str, list[dict[str, Any]]]]:
    """The fastest settings of each contender, and all that was tried: settings, pictures per second, seconds to ready.

    Everybody has the whole machine: 1 thread and as many as there are cores are tried for each. What the denoiser
    likes (batch, channels last, compiled) is found on the pure forwards and holds for all that batch. Compiling counts
    as a help where it saves more over the whole work list than it takes.
    """
    threads = sorted({1, len(os.sched_getaffinity(0))})
    part, short = (
        slice_work(work, num_assets, folder / "part"),
        slice_work(work, max(1, num_assets // 4), folder / "short"),
    )
    tried: dict[str, list[dict[str, Any]]] = {name: [] for name in ("pure", *names)}

    def attempt(name: str, own: Work, *settings: Settings) -> dict[str, Any]:
        """Tries settings in one process, and gives the best of all that were tried for `name` so far."""
        number = len(tried[name])
        repeated = [s for s in settings for _ in range(_REPEATS)]
        ready, runs = start(name, own, repeated, folder / f"{name}-{number}")
        for at, one in enumerate(settings):
            speed = len(own.pieces) / min(runs[at * _REPEATS : (at + 1) * _REPEATS])
            tried[name].append({"settings": asdict(one), "images_per_second": speed, "ready": ready})
            say(f"{TITLES[name]}, {one.words}: {speed:.2f} images/s, ready after {ready:.1f} s")
        return max(tried[name], key=lambda t: t["images_per_second"])

    eager = attempt("pure", part, *(Settings(t, b) for t in threads for b in batches))
    eager = attempt("pure", part, replace(Settings(**eager["settings"]), channels_last=True))
    attempt("pure", part, replace(Settings(**eager["settings"]), compile=True))
    best = Settings(**_paying(eager, tried["pure"][-1], len(work.pieces))["settings"])
    chosen = {}
    for name in names:
        if name == "pure":
            chosen[name] = best
        elif name.startswith("per-"):
            chosen[name] = Settings(**attempt(name, short, *(Settings(t, 1) for t in threads))["settings"])
        elif name == "ray":  # its actors' processes get their threads when they start
            found = [attempt(name, part, replace(best, threads=t)) for t in threads][-1]
            chosen[name] = Settings(**found["settings"])
        else:
            chosen[name] = Settings(**attempt(name, part, *(replace(best, threads=t) for t in threads))["settings"])
    return chosen, tried


def _paying(eager: dict[str, Any], compiled: dict[str, Any], num_images: int) -> dict[str, Any]:
    """The compiled settings where they pay over that many images, else the eager ones."""
    saved = num_images / eager["images_per_second"] - num_images / compiled["images_per_second"]
    return compiled if saved > compiled["ready"] - eager["ready"] else eager
