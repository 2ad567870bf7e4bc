"""`python -m assetmill.starter.showcase`: draws the pictures of docs/starter.md with the shipped pack.

A grid of samples for each object, the best and the worst of eight by CLIP, a plot of CLIP's score against
the truth, and a sweep over guidance: how many attributes are right, and how much is left to rank.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assetmill.starter.captions import plain_caption
from assetmill.starter.evaluate import measure_samples, read_samples
from assetmill.starter.locations import judge_file, shipped_settings
from assetmill.starter.renderer import IconSpec, draw, sample_spec
from assetmill.starter.sampling import Samples, draw_samples, generate, load_clip, load_pipeline
from assetmill.starter.vocabulary import ATTRIBUTES, COLOURS, GROUNDS, OBJECTS, PATTERNS, STYLES

GUIDANCES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.5)


def tile(pictures: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay uint8 pictures (n, h, w, 3) out in rows with a light gap."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(shape, 245, np.uint8)
    for index, picture in enumerate(pictures):
        y, x = gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def save_picture(array: np.ndarray, file: Path, zoom: int = 1) -> None:
    """Write a PNG of at most 256 colours, optionally enlarged without smoothing."""
    from PIL import Image

    picture = Image.fromarray(array)
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def object_specs(columns: int = 12) -> list[IconSpec]:
    """Return specs for the grid: a row per object, over all colours, patterns, styles and grounds."""
    return [
        IconSpec(
            name,
            COLOURS[(row + column) % len(COLOURS)],
            PATTERNS[(column // 4) % len(PATTERNS)],
            STYLES[column % len(STYLES)],
            GROUNDS[(row + column // 2) % len(GROUNDS)],
        )
        for row, name in enumerate(OBJECTS)
        for column in range(columns)
    ]


def draw_renders_grid(folder: Path) -> None:
    """Write the renderer's own grid: what the models learnt from."""
    jittered = [
        replace(
            spec,
            **{n: getattr(sample_spec("grid", i), n) for n in ("angle", "scale", "dx", "dy", "shape", "phase")},
        )
        for i, spec in enumerate(object_specs())
    ]
    save_picture(tile(np.stack([draw(spec)[0] for spec in jittered]), 12), folder / "starter-renders.png")


def draw_object_grid(pipeline: Any, folder: Path) -> None:
    """Write generated samples, a row per object, seed 0, nothing chosen."""
    settings, specs = shipped_settings(), object_specs()
    texts = [plain_caption(spec) for spec in specs]
    pictures = generate(pipeline, texts, [0] * len(texts), steps=settings.steps, guidance=settings.guidance, batch=16)
    save_picture(tile(pictures, 12), folder / "starter-objects.png")


def draw_best_and_worst(samples: Samples, right: np.ndarray, scores: np.ndarray, folder: Path) -> None:
    """Write rows of all eight seeds, best CLIP score first, for the prompts whose seeds differ most."""
    from PIL import Image, ImageDraw

    spread = right.sum(-1).std(1)
    chosen = np.sort(np.argsort(-spread, kind="stable")[:10])
    zoom, gap, label = 2, 4, 16
    side = 64 * zoom
    num_seeds = scores.shape[1]
    sheet = Image.new("RGB", (num_seeds * (side + gap) + gap, len(chosen) * (side + label + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(chosen):
        top = gap + row * (side + label + gap)
        pen.text((gap, top), samples.texts[prompt], fill="black")
        for column, seed in enumerate(np.argsort(-scores[prompt], kind="stable")):
            left = gap + column * (side + gap)
            picture = Image.fromarray(samples.pictures[prompt, seed]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + label))
            note = f"{scores[prompt, seed]:.2f}  {right[prompt, seed].sum()}/{len(ATTRIBUTES)}"
            pen.rectangle((left, top + label, left + 62, top + label + 12), fill="white")
            pen.text((left + 2, top + label), note, fill="black")
    sheet.quantize(256, dither=Image.Dither.NONE).save(folder / "starter-best-worst.png", optimize=True)


def plot_score_against_truth(right: np.ndarray, scores: np.ndarray, folder: Path) -> None:
    """Write the distribution of CLIP's score for each number of attributes right."""
    from matplotlib.figure import Figure

    counts = right.sum(-1).ravel()
    values = [number for number in range(len(ATTRIBUTES) + 1) if (counts == number).sum() >= 5]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.violinplot([scores.ravel()[counts == number] for number in values], positions=values, showmedians=True)
    for number in values:
        axes.annotate(f"n={(counts == number).sum()}", (number, 0.02), xycoords=("data", "axes fraction"), ha="center")
    axes.set(xlabel="attributes right (judge)", ylabel="CLIP score", xticks=values)
    axes.set_title("CLIP's score against the truth, at the shipped guidance")
    figure.savefig(folder / "starter-score-truth.png", dpi=110)


def sweep_guidance(
    pipeline: Any, judge: Any, clip: Any, *, num_prompts: int = 32, num_seeds: int = 8
) -> list[dict[str, Any]]:
    """Return the figures at each guidance, on validation prompts (never those of the evaluation)."""
    rows = []
    for guidance in GUIDANCES:
        samples = draw_samples(
            pipeline, num_prompts=num_prompts, num_seeds=num_seeds, split="validate", guidance=guidance
        )
        figures = measure_samples(samples, judge, clip)
        spread = samples.pictures.astype(np.float32).std(1).mean()
        rows.append({"guidance": guidance, "spread": round(float(spread), 2), **figures})
    return rows


def plot_guidance(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write accuracies, the captured gain and the spread of the seeds against guidance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    guidance = [row["guidance"] for row in rows]
    for name in ("object", "colour", "pattern", "style", "background"):
        left.plot(guidance, [row[f"{name}_accuracy"]["value"] for row in rows], marker="o", label=name)
    left.set(xlabel="guidance", ylabel="accuracy of a random seed")
    left.legend(fontsize=7)
    gains = [row["best_of_8_captured_gain"] for row in rows]
    low = [gain["value"] - gain["low"] for gain in gains]
    high = [gain["high"] - gain["value"] for gain in gains]
    middle.errorbar(guidance, [gain["value"] for gain in gains], yerr=[low, high], marker="o", capsize=3)
    middle.set(xlabel="guidance", ylabel="captured gain, best of 8 by CLIP", ylim=(0, 1))
    right.plot(guidance, [row["spread"] for row in rows], marker="o")
    right.set(xlabel="guidance", ylabel="spread of the 8 seeds (levels)")
    right.set_ylim(bottom=0)
    for axes in (left, middle, right):
        axes.axvline(shipped_settings().guidance, color="0.7", linestyle=":")
    figure.savefig(folder / "starter-guidance.png", dpi=110)


def plot_curves(curves: Path, folder: Path) -> None:
    """Write the training curves of a `--out` folder's `curves/`."""
    from matplotlib.figure import Figure

    shown = (("vae", "psnr"), ("clip", "picked"), ("judge", "loss"), ("upscaler", "psnr"), ("unet", "loss"))
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for axes, (name, value) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        lines = [json.loads(line) for line in (curves / f"{name}.jsonl").read_text().splitlines()]
        lines = [line for line in lines if value in line]
        axes.plot([line["samples"] / 1000 for line in lines], [line[value] for line in lines])
        axes.set(title=f"{name}: {value}", xlabel="thousand samples")
        if value == "loss":
            axes.set_yscale("log")
    figure.savefig(folder / "starter-curves.png", dpi=100)


def main(words: list[str] | None = None) -> None:
    """Write all pictures."""
    import torch

    from assetmill.starter.judge import load_judge

    parser = argparse.ArgumentParser(prog="python -m assetmill.starter.showcase", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    parser.add_argument("--prompts", type=int, default=96, help="prompts of the ranking pictures")
    parser.add_argument("--sweep-prompts", type=int, default=32, help="prompts at each guidance; 0 leaves it out")
    parser.add_argument("--curves", type=Path, help="a training folder's curves/, to plot them too")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    pipeline, clip, judge = load_pipeline(), load_clip(), load_judge(judge_file())
    draw_renders_grid(options.out)
    draw_object_grid(pipeline, options.out)
    samples = draw_samples(pipeline, num_prompts=options.prompts, num_seeds=8)
    right, scores = read_samples(samples, judge, clip)
    draw_best_and_worst(samples, right, scores, options.out)
    plot_score_against_truth(right, scores, options.out)
    if options.sweep_prompts:
        rows = sweep_guidance(pipeline, judge, clip, num_prompts=options.sweep_prompts)
        (options.out / "starter-guidance.json").write_text(json.dumps(rows, indent=1) + "\n")
        plot_guidance(rows, options.out)
    if options.curves:
        plot_curves(options.curves, options.out)


if __name__ == "__main__":
    main()
