"""A pool of pictures that nobody has chosen among yet: what the ranker's and the families' benchmarks work on.

It is made by the pipeline itself, with the starter model: assets whose prompts leave the colour open, eight pictures
of each, kept in a store that a later benchmark opens again.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import yaml

from assetmill import pipeline
from assetmill.starter.vocabulary import GROUNDS, OBJECTS, PATTERNS, STYLES

CANDIDATES = 8
STEPS = 12
FAMILY = 6
"""Assets of one collection: one style on one ground, six objects."""
SHEET_SEED, SEED = 12, 6
"""Others than those of the pool on which defaults were settled: figures come from pictures nobody had looked at."""

_TEMPLATE = """---
rank_text: a {{ pattern }} {{ object }}, {{ style }} style, {{ ground }} background
---
a {{ pattern }} {{ object }}, {{ style }} style, {{ ground }} background, game item
"""


def open_pool(folder: Path, num_assets: int) -> Path:
    """The pool's config; what of its pictures is missing is made (some 4 minutes for 240 assets on two cores)."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_sheet(folder / "sheet.csv", num_assets)
    (folder / "item.j2").write_text(_TEMPLATE)
    config = {
        "name": "pool",
        "seed": SEED,
        "candidates": CANDIDATES,
        "sheet": {"path": "sheet.csv", "id": "id"},
        "prompts": {"templates": ["item.j2"]},
        "model": {"source": "starter", "steps": STEPS, "channels_last": True},
        "judge": {"source": "starter"},
        "gates": {"regenerate": 0},
        "upscale": {"engine": "none"},
        "store": {"url": "out", "options": {"durability": "process"}},
        "run": {"chunk": 96},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    pipeline.run_job(pipeline.open_job(path), publish_now=False)
    return path


def _write_sheet(path: Path, num_assets: int) -> None:
    """Collections of `FAMILY` assets; each is one style on one ground, its objects differ."""
    rng = random.Random(SHEET_SEED)
    rows = []
    for number in range(-(-num_assets // FAMILY)):
        style, ground = rng.choice(STYLES), rng.choice(GROUNDS)
        for thing in rng.sample(OBJECTS, FAMILY):
            rows.append((f"{len(rows):04d}", thing, rng.choice(PATTERNS), style, ground, f"collection-{number:03d}"))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "object", "pattern", "style", "ground", "collection"))
        writer.writerows(rows[:num_assets])
