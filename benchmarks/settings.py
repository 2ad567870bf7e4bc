"""What the speed settings of a model gain on this machine: channels_last, fused projections, torch.compile.

    python benchmarks/settings.py [--config FILE] [--rounds 5] [--only NAME ...]

Each setting is loaded as a config's would be. The first batch (compilation, search for kernels) is warm-up and told
apart; then the settings take turns, batch by batch, so that another load on the machine hits all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assetmill import pipeline
from assetmill.engines.devices import set_threads
from assetmill.engines.registry import load_generator
from write import ROOT, save_figures

SETTINGS: dict[str, dict[str, bool]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "fuse": {"fuse": True},
    "channels_last + fuse": {"channels_last": True, "fuse": True},
    "compile": {"compile": True},
    "compile + channels_last": {"compile": True, "channels_last": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "game-assets.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    figures = measure(options.config, options.rounds, options.only, options.steps)
    save_figures("settings", figures)
    for row in figures["settings"]:
        print(f"{row['name']}: {row['gain']:.3f} × as fast, warm-up {row['warm_up_seconds']:.1f} s")


def measure(config: Path, rounds: int, names: list[str], steps: int | None = None) -> dict[str, Any]:
    job = pipeline.open_job(config)
    threads = set_threads(1)
    batch = 16
    base = replace(job.base, steps=steps) if steps else job.base
    requests = [replace(base, positive=f"a red key, number {i % 5}", seed=i) for i in range(batch)]
    generators, pictures, warm_up = {}, {}, {}
    for name in names:
        generators[name] = load_generator(job.model, job.config.model.model_copy(update=SETTINGS[name]))
        start = time.perf_counter()
        pictures[name] = generators[name].generate(requests).pixels
        warm_up[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            start = time.perf_counter()
            generators[name].generate(requests)
            seconds[name].append(time.perf_counter() - start)
    plain = names[0]
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[plain], seconds[name], strict=True)]
        difference = np.abs(pictures[name].astype(int) - pictures[plain]).max()
        rows.append({
            "name": name,
            "seconds_per_image": statistics.median(seconds[name]) / batch,
            "gain": statistics.median(ratios), "gain_low": min(ratios), "gain_high": max(ratios),
            "warm_up_seconds": warm_up[name],
            "largest_difference": int(difference),
        })  # fmt: skip
    return {"threads": threads, "batch": batch, "rounds": rounds, "steps": base.steps, "settings": rows}


if __name__ == "__main__":
    main()
