"""How well half-made pictures foretell finished ones, what cutting by them saves and keeps; what adaptive seeds gain.

    python benchmarks/selection.py [--prompts 256] [--seeds 24] [--table FILE]

Cutting: for every schedule of up to three cuts, the share of the full best-of-8's gain over a random pick that is kept,
against the share of its compute that is spent. The schedule is chosen on the first half of the prompts and measured on
the second. Adaptive: the library's own `allocate`, in chunks of 16 assets, against equal shares of the same number of
pictures; its rule was settled on the first half, and only the second is reported.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assetmill import pipeline
from assetmill.config import read_config
from assetmill.curate.adaptive import allocate
from score_table import ScoreTable, load_table, measure_table
from write import ROOT, save_figures

CUT_STEPS = (2, 3, 4, 5, 6, 8, 10, 12)
BEST_OF = 8
CHUNK_ASSETS = 16
ROUNDS = 3
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "game-assets.yaml")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--preview", type=Path, default=Path("starter"), help="Tiny VAE of the half-made pictures.")
    parser.add_argument("--table", type=Path, help="Keep the scores in this .npz file, or read them from it.")
    options = parser.parse_args()
    if options.table and options.table.exists():
        table = load_table(options.table)
    else:
        config = read_config(options.config)
        model = config.model.model_copy(update={"preview": options.preview})
        job = pipeline.open_job(options.config, config=config.model_copy(update={"model": model}))
        table = measure_table(job, options.prompts, options.seeds, BEST_OF, CUT_STEPS)
        if options.table:
            table.save(options.table)
    figures = {"cutting": study_cutting(table), "adaptive": study_adaptive(half(table, 1))}
    save_figures("selection", figures)
    chosen = figures["cutting"]["chosen"]
    print(f"cutting {chosen['schedule']}: {chosen['kept']['value']:.3f} of the gain at {chosen['compute']:.3f}")
    print(f"adaptive: mean best {figures['adaptive']['mean_best_rise']}")


# --- cutting ------------------------------------------------------------------------------------------------


def schedules(table: ScoreTable) -> list[tuple[tuple[int, int], ...]]:
    """All schedules of one to three cuts: ((after step, how many of eight go on), …)."""
    found = []
    for num_cuts in (1, 2, 3):
        for steps in itertools.combinations(table.cut_steps, num_cuts):
            for keeps in itertools.combinations(range(1, BEST_OF), num_cuts):
                found.append(tuple(zip(steps, reversed(keeps), strict=True)))
    return found


def compute_of(table: ScoreTable, schedule: Sequence[tuple[int, int]]) -> float:
    """Share of the whole best-of-8's compute: denoiser, decoding and scoring, previews included."""
    look = table.units["preview"] + table.units["score"]
    end = table.units["decode"] + table.units["score"]
    spent, alive, done = 0.0, BEST_OF, 0
    for step, keep in schedule:
        spent += alive * (step - done + look)
        alive, done = keep, step
    spent += alive * (table.steps - done + end)
    return spent / (BEST_OF * (table.steps + end))


def survivors(table: ScoreTable, schedule: Sequence[tuple[int, int]]) -> np.ndarray:
    """bool (prompts, 8): who reaches the end."""
    alive = np.ones(table.early.shape[:2], bool)
    for step, keep in schedule:
        scores = np.where(alive, table.early[:, :, table.cut_steps.index(step)], -np.inf)
        order = np.argsort(-scores, axis=1)
        alive = np.zeros_like(alive)
        np.put_along_axis(alive, order[:, :keep], True, axis=1)
    return alive


def picks(table: ScoreTable, schedule: Sequence[tuple[int, int]]) -> np.ndarray:
    """The seed chosen per prompt: the survivor with the best finished score."""
    return np.where(survivors(table, schedule), table.final[:, :BEST_OF], -np.inf).argmax(1)


def kept_gain(table: ScoreTable, values: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Share of the gain over a random pick that choosing `chosen` keeps of choosing by all finished scores.

    `values` (prompts, 8) are finished scores; 95 % interval by bootstrap over prompts.
    """
    rows = np.arange(len(chosen))
    full = values[rows, table.final[:, :BEST_OF].argmax(1)] - values.mean(1)
    mine = values[rows, chosen] - values.mean(1)
    rng = np.random.default_rng(7)
    drawn = rng.integers(len(rows), size=(RESAMPLES, len(rows)))
    shares = mine[drawn].sum(1) / full[drawn].sum(1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return {
        "value": round(float(mine.sum() / full.sum()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def study_cutting(table: ScoreTable) -> dict[str, Any]:
    first, second = half(table, 0), half(table, 1)
    every = []
    for schedule in schedules(table):
        kept = kept_gain(first, first.final[:, :BEST_OF], picks(first, schedule))["value"]
        every.append((compute_of(table, schedule), kept, schedule))
    affordable = [entry for entry in every if entry[0] <= 0.55]
    best = max(affordable, key=lambda entry: entry[1])[2]
    front = []
    most, last = -math.inf, -math.inf
    for compute, kept, schedule in sorted(every):
        # the best by compute, those left out that cost hardly more than the one before
        if kept > most and compute > last + 0.04:
            most, last = kept, compute
            front.append(describe(second, schedule, compute))
    return {
        "prompts": len(table.final),
        "steps": table.steps,
        "units": {k: round(v, 3) for k, v in table.units.items()},
        "foretells": foretell(table),
        "front": front,
        "chosen": describe(second, best, compute_of(table, best)),
        "random": round(float(table.final[:, :BEST_OF].mean()), 4),
        "best_of_8": round(float(table.final[:, :BEST_OF].max(1).mean()), 4),
    }


def describe(table: ScoreTable, schedule: Sequence[tuple[int, int]], compute: float) -> dict[str, Any]:
    chosen = picks(table, schedule)
    return {
        "schedule": [{"after": step, "keep": keep} for step, keep in schedule],
        "compute": round(compute, 4),
        "kept": kept_gain(table, table.final[:, :BEST_OF], chosen),
        "same_winner": round(float((chosen == table.final[:, :BEST_OF].argmax(1)).mean()), 4),
    }


def foretell(table: ScoreTable) -> list[dict[str, float]]:
    """Per step: Spearman's rank correlation of early and final scores within a prompt, and where the winner stands."""
    from scipy.stats import spearmanr

    found = []
    final = table.final[:, :BEST_OF]
    for column, step in enumerate(table.cut_steps):
        early = table.early[:, :, column]
        rho = [float(spearmanr(a, b).statistic) for a, b in zip(early, final, strict=True)]
        place = (early > np.take_along_axis(early, final.argmax(1)[:, None], 1)).sum(1)
        found.append({
            "after": step,
            "rank_correlation": round(float(np.nanmean(rho)), 4),
            "winner_in_top_half": round(float((place < BEST_OF // 2).mean()), 4),
            "winner_first": round(float((place == 0).mean()), 4),
        })  # fmt: skip
    return found


def half(table: ScoreTable, which: int) -> ScoreTable:
    middle = len(table.final) // 2
    rows = slice(middle, None) if which else slice(middle)
    return ScoreTable(
        table.final[rows], table.right[rows], table.early[rows], table.cut_steps, table.steps, table.units
    )


# --- adaptive seeds -----------------------------------------------------------------------------------------


def study_adaptive(table: ScoreTable) -> dict[str, Any]:
    """Equal shares of 8 against adaptive ones of the same sum, on the same seeds in the same order."""
    equal = table.final[:, :BEST_OF].max(1)
    floor = float(np.percentile(equal, 20))
    counts = np.concatenate([
        spend(table.final[start : start + CHUNK_ASSETS], floor) for start in range(0, len(equal), CHUNK_ASSETS)
    ])  # fmt: skip
    assert counts.sum() == BEST_OF * len(equal)
    chosen = [int(row[:count].argmax()) for row, count in zip(table.final, counts, strict=True)]
    adaptive = np.array([row[pick] for row, pick in zip(table.final, chosen, strict=True)])
    rows = np.arange(len(equal))
    right_equal = table.right[rows, table.final[:, :BEST_OF].argmax(1)]
    right = table.right[rows, chosen]
    return {
        "assets": len(equal),
        "pictures": int(counts.sum()),
        "floor": round(floor, 4),
        "seeds_per_asset": {"low": int(counts.min()), "median": float(np.median(counts)), "high": int(counts.max())},
        "mean_best": {"equal": round(float(equal.mean()), 4), "adaptive": round(float(adaptive.mean()), 4)},
        "mean_best_rise": interval(adaptive - equal),
        "below_floor": {
            "equal": round(float((equal < floor).mean()), 4), "adaptive": round(float((adaptive < floor).mean()), 4)
        },
        "below_floor_change": interval((adaptive < floor).astype(float) - (equal < floor)),
        "attributes_right_rise": interval((right - right_equal).astype(float)),
    }  # fmt: skip


def spend(scores: np.ndarray, floor: float) -> np.ndarray:
    """How many seeds each asset of a chunk gets: half of the budget equally, the rest in rounds."""
    counts = np.full(len(scores), BEST_OF // 2)
    allowance = BEST_OF * len(scores) - int(counts.sum())
    share = -(-BEST_OF * len(scores) // (2 * ROUNDS))
    while allowance:
        seen = [list(row[:count]) for row, count in zip(scores, counts, strict=True)]
        room = [min(len(row), 5 * BEST_OF // 2) - int(count) for row, count in zip(scores, counts, strict=True)]
        more = allocate(seen, min(share, allowance), floor=floor, room=room)
        if not sum(more):
            break
        counts += np.array(more)
        allowance -= sum(more)
    return counts


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean and its 95 % bootstrap interval over assets."""
    rng = np.random.default_rng(7)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


if __name__ == "__main__":
    main()
