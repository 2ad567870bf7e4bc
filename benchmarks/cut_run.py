"""Whole runs with and without cutting mid-way: wall time, and how much of best-of-8's gain is kept.

    python benchmarks/cut_run.py [--config FILE] [--alternations 3]

The schedule is the one that `benchmarks/selection.py` chose (docs/figures/selection.json). Models are loaded once; runs
alternate, each into a store of its own, from reading the sheet to the last write.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from assetmill import pipeline
from assetmill.config import Config, CutConfig, StoreConfig, read_config
from write import FIGURES, ROOT, save_figures

BEST_OF = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "game-assets.yaml")
    parser.add_argument("--alternations", type=int, default=3)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    chosen = json.loads((FIGURES / "selection.json").read_text())["cutting"]
    steps = chosen["steps"]
    cut = CutConfig(
        at=tuple(c["after"] / steps for c in chosen["chosen"]["schedule"]),
        keep=tuple(c["keep"] / BEST_OF for c in chosen["chosen"]["schedule"]),
    )
    figures = measure(options.config, cut, options.alternations, options.limit, Path("starter"))
    save_figures("cut_run", figures)
    print(f"{figures['speed']:.2f} × as fast, {figures['gain_kept']:.1%} of the gain kept")


def measure(
    config_path: Path, cut: CutConfig, alternations: int, limit: int | None = None, preview: Path | None = None
) -> dict[str, Any]:
    config = read_config(config_path)
    model = config.model.model_copy(update={"preview": preview})
    config = config.model_copy(update={"candidates": BEST_OF, "model": model})
    whole: list[float] = []
    short: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        engines = pipeline.load_engines(_open(config_path, config, Path(folder) / "loading", limit))
        # one small run warms every kernel up
        pipeline.run_job(_open(config_path, config, Path(folder) / "warm", 2), engines=engines)
        for turn in range(alternations):
            for name, used, seconds in (("full", CutConfig(), whole), ("cut", cut, short)):
                job = _open(config_path, config.model_copy(update={"cut": used}), Path(folder) / f"{name}{turn}", limit)
                start = time.perf_counter()
                report = pipeline.run_job(job, engines=engines)
                seconds.append(time.perf_counter() - start)
                if name == "cut":
                    dropped, finished = report["cut"], report["pictures"]
                scores = _scores(job)
                if name == "full":
                    full = scores
        kept = scores
    best = np.array([max(own) for own in full.values()])
    mean = np.array([np.mean(own) for own in full.values()])
    found = np.array([max(kept[asset]) for asset in full])
    return {
        "assets": len(full),
        "candidates": BEST_OF,
        "schedule": {"at": list(cut.at), "keep": list(cut.keep)},
        "alternations": alternations,
        "full_seconds": whole,
        "cut_seconds": short,
        "speed": statistics.median(a / b for a, b in zip(whole, short, strict=True)),
        "gain_kept": float((found - mean).sum() / (best - mean).sum()),
        "mean_best": {"full": float(best.mean()), "cut": float(found.mean()), "random": float(mean.mean())},
        "finished": finished,
        "cut": dropped,
    }


def _open(path: Path, config: Config, store: Path, limit: int | None) -> pipeline.Job:
    return pipeline.open_job(path, config=config.model_copy(update={"store": StoreConfig(url=str(store))}), limit=limit)


def _scores(job: pipeline.Job) -> dict[str, list[float]]:
    """CLIP's scores of the finished candidates, by asset."""
    job.refresh()
    histories = job.index.history([asset.id for asset in job.sheet.assets])
    found = {}
    for asset, history in histories.items():
        values = [score.value for score in history.scores.values() if score.value is not None]
        if values:
            found[asset] = values
    return found


if __name__ == "__main__":
    main()
