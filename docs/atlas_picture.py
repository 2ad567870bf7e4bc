"""Draws docs/img/atlas.png, an atlas of the starter world's things, and measures packing into docs/figures/atlas.json.

    python docs/atlas_picture.py

Sprites are renders of the starter world with their true alpha, at 64 pixels, trimmed. Every night a twentieth
of 300 sprites is drawn anew (another trimmed size, mostly), a fiftieth goes and as many come. Fill is the share of the
sheets that shows frames; churn is the share of unchanged sprites that lie elsewhere than the night before.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from assetmill.config import AtlasConfig
from assetmill.deliver.atlas import Frame, Layout, Sprite, arrange, measure, moved, pack
from assetmill.starter.renderer import draw, sample_spec

DOCS = Path(__file__).resolve().parent
NIGHTS, SPRITES = 30, 300
SPEC = AtlasConfig(size=1024)


def sprite(number: int, size: int = 64) -> Sprite:
    """A thing of the starter world, cut out by its true alpha."""
    pixels, alpha = draw(sample_spec("train", number), size)
    return Sprite(f"s{number:04d}", np.dstack([pixels, alpha]), str(number))


def draw_picture() -> None:
    """40 sprites on a sheet, over a checkerboard, twice as large."""
    packed = pack([sprite(n) for n in range(40)], AtlasConfig(size=512, padding=2, extrude=1))
    sheet = packed.sheets[0]
    rows, columns = np.indices(sheet.shape[:2]) // 8
    board = np.where((rows + columns) % 2, 205, 235).astype(np.uint8)[..., None].repeat(3, 2)
    opacity = sheet[..., 3:].astype(np.float32) / 255
    shown = (sheet[..., :3] * opacity + board * (1 - opacity)).round().astype(np.uint8)
    picture = Image.fromarray(shown).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST)
    picture.quantize(128).save(DOCS / "img" / "atlas.png", optimize=True)


def measure_nights(stable: bool) -> dict[str, float]:
    """Fill, churn and time of packing over the nights, going on with the former layout or not."""
    rng = np.random.default_rng(1)
    stock: dict[int, Frame] = {}

    def frame(number: int) -> Frame:
        if number not in stock:
            made = sprite(number)
            stock[number] = measure(made.rgba, made.sha, trim=True)
        return stock[number]

    drawn, shown = SPRITES, {f"s{n:04d}": n for n in range(SPRITES)}
    layout: Layout | None = None
    fills, churns, seconds, sheets = [], [], [], []
    for _ in range(NIGHTS):
        frames = {name: frame(n) for name, n in shown.items()}
        began = time.perf_counter()
        after = arrange(frames, SPEC, layout if stable else None)
        seconds.append(time.perf_counter() - began)
        if layout is not None:
            same = {n for n in layout.places if n in after.places and layout.places[n].frame == after.places[n].frame}
            churns.append(len(same & set(moved(layout, after))) / max(len(same), 1))
        fills.append(after.fill)
        sheets.append(len(after.sheets))
        layout = after
        names = sorted(shown)
        for name in rng.choice(names, SPRITES // 20, replace=False):
            shown[str(name)], drawn = drawn, drawn + 1
        for name in rng.choice(names, SPRITES // 50, replace=False):
            del shown[str(name)]
            shown[f"n{drawn:04d}"], drawn = drawn, drawn + 1
    return {
        "fill_first": round(fills[0], 3), "fill_last": round(fills[-1], 3), "fill_least": round(min(fills), 3),
        "churn_mean": round(float(np.mean(churns)), 4), "churn_most": round(max(churns), 4),
        "sheets_last": sheets[-1], "seconds_first": round(seconds[0], 3),
        "seconds_mean_after": round(float(np.mean(seconds[1:])), 3),
    }  # fmt: skip


def main() -> None:
    draw_picture()
    figures = {"nights": NIGHTS, "sprites": SPRITES, "size": SPEC.size, "padding": SPEC.padding,
               "stable": measure_nights(True), "afresh": measure_nights(False)}  # fmt: skip
    (DOCS / "figures" / "atlas.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
