"""Measures the starter pack: what is asked for and drawn, what CLIP sees, what ranking gains, what it costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from assetmill.starter.locations import WEIGHTS, judge_file, shipped_settings, upscaler_file
from assetmill.starter.pack import folder_megabytes
from assetmill.starter.vocabulary import ATTRIBUTES

Figure = dict[str, Any]
NUM_RENDERS = 1000
NUM_HARD = 512
NUM_UPSCALED = 48
NUM_RESAMPLES = 2000
REPORTED = {
    "object": "object",
    "colour": "colour",
    "pattern": "pattern",
    "style": "style",
    "ground": "background",
}
"""Attribute -> its name in the figures."""


def evaluate_starter(
    *,
    num_prompts: int = 256,
    num_seeds: int = 8,
    progress: Callable[[str, int, int], None] | None = None,
    weights: Path = WEIGHTS,
) -> dict[str, Figure]:
    """Return all figures of the pack, each an object with `value` and `n` (and `low`, `high` where bootstrapped).

    Every fourth prompt asks for a held-out combination; `*_seen` and `*_held_out` split the accuracies.
    `progress` is called with a stage's name, the part done and the whole. At 256 × 8 pictures this takes
    about ten minutes on one core.
    """
    from assetmill.starter.judge import load_judge
    from assetmill.starter.sampling import draw_samples, load_clip, load_pipeline

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, whole: progress(stage, done, whole) if progress else None

    pipeline, clip, judge = load_pipeline(weights), load_clip(weights), load_judge(judge_file(weights))
    report("draw")(0, num_prompts * num_seeds)
    samples = draw_samples(pipeline, num_prompts=num_prompts, num_seeds=num_seeds, advance=report("draw"))
    figures = measure_samples(samples, judge, clip)
    report("judge")(0, 1)
    figures |= measure_judge(judge, pipeline.vae)
    report("captions")(0, 1)
    figures |= measure_clip(clip)
    report("upscaler")(0, 1)
    figures |= measure_upscaler(upscaler_file(weights))
    report("cost")(0, 1)
    figures |= measure_cost(pipeline, weights)
    report("cost")(1, 1)
    return figures


def measure_samples(samples: Any, judge: Any, clip: Any) -> dict[str, Figure]:
    """Return the accuracies of drawn pictures and what ranking them by CLIP gains."""
    right, scores = read_samples(samples, judge, clip)
    num_prompts, num_seeds = scores.shape
    figures: dict[str, Figure] = {}
    groups = {"": np.ones(num_prompts, bool), "_seen": ~samples.held_out, "_held_out": samples.held_out}
    for column, name in enumerate(ATTRIBUTES):
        for suffix, chosen in groups.items():
            if chosen.any():
                values = right[chosen][..., column].mean(1)
                low, high = bootstrap_mean(values)
                figures[f"{REPORTED[name]}_accuracy{suffix}"] = {
                    "value": round(float(values.mean()), 4),
                    "n": int(chosen.sum()) * num_seeds,
                    "low": low,
                    "high": high,
                }
    return figures | measure_ranking(right.sum(-1), scores)


def read_samples(samples: Any, judge: Any, clip: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return which attributes are right, bool (prompts, seeds, 5), and CLIP's scores, (prompts, seeds)."""
    from assetmill.starter.judge import read_attributes
    from assetmill.starter.sampling import clip_scores

    num_prompts, num_seeds = samples.pictures.shape[:2]
    flat = samples.pictures.reshape(-1, *samples.pictures.shape[2:])
    read = read_attributes(judge, flat).reshape(num_prompts, num_seeds, -1)
    every = clip_scores(clip, flat, samples.texts).reshape(num_prompts, num_seeds, num_prompts)
    scores = every[np.arange(num_prompts), :, np.arange(num_prompts)]
    return read == samples.asked[:, None, :], scores


def measure_ranking(counts: np.ndarray, scores: np.ndarray) -> dict[str, Figure]:
    """Return the share of the possible gain that CLIP's pick captures, and the errors it leaves.

    `counts` are attributes right (0 to 5) and `scores` CLIP's scores, both (prompts, seeds). With r the
    mean over seeds, p the pick and b the best seed: gain = Σ(p − r) / Σ(b − r), error ratio
    = Σ(5 − p) / Σ(5 − r). Intervals are 95 % bootstraps over prompts.
    """
    rows = np.arange(len(counts))
    picked, chance, best = counts[rows, scores.argmax(1)], counts.mean(1), counts.max(1)
    whole = len(ATTRIBUTES)

    def gain(chosen: np.ndarray) -> float:
        possible = (best - chance)[chosen].sum()
        return float((picked - chance)[chosen].sum() / possible) if possible > 0 else 0.0

    def errors(chosen: np.ndarray) -> float:
        usual = (whole - chance)[chosen].sum()
        return float((whole - picked)[chosen].sum() / usual) if usual > 0 else 0.0

    figures = {}
    for name, measure in (("best_of_8_captured_gain", gain), ("best_of_8_error_ratio", errors)):
        rng = np.random.default_rng(7)
        drawn = [measure(rng.integers(len(counts), size=len(counts))) for _ in range(NUM_RESAMPLES)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        figures[name] = {
            "value": round(measure(rows), 4),
            "n": len(counts),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
        }
    return figures


def bootstrap_mean(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over prompts."""
    rng = np.random.default_rng(7)
    means = values[rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def draw_renders(count: int, split: str = "evaluate-renders") -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Return renders that no training saw: pictures, class indices (n, 5) and specs."""
    from assetmill.starter.data import labels_of
    from assetmill.starter.renderer import draw, sample_spec

    specs = [sample_spec(split, index, held_out=None) for index in range(count)]
    return np.stack([draw(spec)[0] for spec in specs]), np.array([labels_of(spec) for spec in specs]), specs


def measure_judge(judge: Any, vae: Any, num_renders: int = NUM_RENDERS) -> dict[str, Figure]:
    """Return the judge's accuracy on renders and on the VAE's reconstructions of them (mean of attributes)."""
    import torch

    from assetmill.starter.data import to_pictures, to_tensor
    from assetmill.starter.judge import read_attributes

    pictures, labels, _ = draw_renders(num_renders)
    right = read_attributes(judge, pictures) == labels
    decoded = []
    with torch.no_grad():
        for start in range(0, num_renders, 100):
            latents = vae.encode(to_tensor(pictures[start : start + 100])).latents
            decoded.append(to_pictures(vae.decode(latents).sample))
    again = np.concatenate(decoded)
    right_again = read_attributes(judge, again) == labels
    error = np.square(again.astype(np.float64) - pictures).mean((1, 2, 3))
    figures = {
        "judge_accuracy": {"value": round(float(right.mean()), 4), "n": num_renders},
        "judge_accuracy_decoded": {"value": round(float(right_again.mean()), 4), "n": num_renders},
        "vae_psnr_db": {"value": round(float((10 * np.log10(255**2 / error)).mean()), 2), "n": num_renders},
    }
    for column, name in enumerate(ATTRIBUTES):
        label = REPORTED[name]
        figures[f"judge_{label}_accuracy"] = {
            "value": round(float(right[:, column].mean()), 4),
            "n": num_renders,
        }
        figures[f"judge_{label}_accuracy_decoded"] = {
            "value": round(float(right_again[:, column].mean()), 4),
            "n": num_renders,
        }
    return figures


def measure_clip(clip: Any, num_pictures: int = NUM_HARD) -> dict[str, Figure]:
    """Return how often CLIP finds a render's caption among 16 that differ from it in one attribute each."""
    from assetmill.starter.captions import changed_specs, plain_caption
    from assetmill.starter.sampling import clip_scores

    pictures, _, specs = draw_renders(num_pictures, "evaluate-captions")
    rng = np.random.default_rng(3)
    hit = 0
    for start in range(0, num_pictures, 32):
        some = specs[start : start + 32]
        texts = [plain_caption(one) for spec in some for one in (spec, *changed_specs(spec, rng, 15))]
        scores = clip_scores(clip, pictures[start : start + 32], texts).reshape(len(some), len(some), 16)
        hit += int((scores[np.arange(len(some)), np.arange(len(some))].argmax(1) == 0).sum())
    return {"clip_hard_caption_accuracy": {"value": round(hit / num_pictures, 4), "n": num_pictures}}


def measure_upscaler(file: Path, num_pictures: int = NUM_UPSCALED) -> dict[str, Figure]:
    """Return the upscaler's PSNR and its gain over Lanczos, in dB, on renders of held-out combinations."""
    import torch
    from PIL import Image
    from spandrel import ModelLoader

    from assetmill.starter.renderer import draw, sample_spec

    model = ModelLoader().load_from_file(str(file)).eval()
    ours: list[float] = []
    lanczos: list[float] = []
    for index in range(num_pictures):
        spec = sample_spec("evaluate-upscaler", index, held_out=True)
        small, large = draw(spec, 64)[0], draw(spec, 256)[0].astype(np.float64)
        given = torch.from_numpy(small.astype(np.float32) / 255).permute(2, 0, 1)[None]
        with torch.no_grad():
            raised = model(given)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
        plain = np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.LANCZOS), np.float64)
        for picture, kept in ((raised, ours), (plain, lanczos)):
            kept.append(10 * np.log10(255**2 / np.square(picture - large).mean()))
    return {
        "upscaler_psnr_db": {"value": round(statistics.fmean(ours), 2), "n": num_pictures},
        "upscaler_psnr_gain_db": {
            "value": round(statistics.fmean(ours) - statistics.fmean(lanczos), 2),
            "n": num_pictures,
        },
    }


def measure_cost(pipeline: Any, weights: Path = WEIGHTS, num_runs: int = 5) -> dict[str, Figure]:
    """Return size, floating-point operations an image, and median seconds an image at batch 8."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    settings = shipped_settings(weights)
    asked = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance, "output_type": "np"}
    with FlopCounterMode(display=False) as counter:
        pipeline("a red mug", **asked)
    seconds = []
    for _ in range(num_runs):
        start = time.perf_counter()
        pipeline(["a red mug"] * 8, **asked)
        seconds.append((time.perf_counter() - start) / 8)
    num_files = sum(1 for file in Path(weights).rglob("*") if file.is_file())
    return {
        "pack_mb": {"value": round(folder_megabytes(Path(weights)), 2), "n": num_files},
        "gflop_per_image": {"value": round(counter.get_total_flops() / 1e9, 2), "n": 1},
        "seconds_per_image": {
            "value": round(statistics.median(seconds), 4),
            "n": num_runs * 8,
            "threads": torch.get_num_threads(),
        },
    }
