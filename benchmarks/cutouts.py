"""How good keyed cut-outs are on starter renders, whose true mask is known, and what they take.

python benchmarks/cutouts.py [--renders 256]

Specs are drawn from all objects, colours, patterns, styles and grounds. On the first half the tolerance is chosen, on
the second all figures are taken. Each is cut out three ways: as it was rendered at 256², as the starter upscaler makes
it from the render at 64², and from that after a round trip through the starter VAE, which is what a generated picture
has been through. Writes docs/figures/cutouts.json, the table of docs/publishing.md and docs/img/cutouts.png.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assetmill.config import CutoutConfig, CutoutGatesConfig, UpscaleConfig
from assetmill.curate.cutout_gates import check_cutout
from assetmill.curate.gates import rejection
from assetmill.deliver.cutout import Cutout, cut_out
from assetmill.deliver.ground import estimate_ground, to_lab
from assetmill.engines.registry import load_upscaler, resolve_upscaler
from assetmill.starter.locations import pipeline_folder
from assetmill.starter.renderer import IconSpec, draw, sample_spec
from assetmill.starter.vocabulary import ATTRIBUTES
from machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs" / "figures" / "cutouts.json", ROOT / "docs" / "publishing.md"
PICTURE = ROOT / "docs" / "img" / "cutouts.png"
MARK, END = "<!-- figures: cutouts -->", "<!-- end -->"
SPLIT, SMALL, LARGE = "cutouts", 64, 256
BATCH, BAND = 16, 3
TOLERANCES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
WAYS = {
    "rendered": "rendered at 256²",
    "upscaled": "rendered at 64², upscaled",
    "generated": "rendered at 64², through the VAE, upscaled",
}

logger = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renders", type=int, default=256, help="specs in each half")
    num = parser.parse_args().renders
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    specs = [sample_spec(SPLIT, index, held_out=None) for index in range(2 * num)]
    truths = np.stack([draw(spec, LARGE)[1] for spec in specs])
    ways = {name: list(pictures) for name, pictures in make_ways(specs).items()}
    chosen = choose_tolerance({n: p[:num] for n, p in ways.items()}, truths[:num])
    logger.info("tolerance chosen on the first half: %s", chosen)
    specs, truths = specs[num:], truths[num:]
    figures: dict[str, Any] = {
        "machine": describe_machine(),
        "renders": num,
        "tolerance": {"default": CutoutConfig().tolerance, "scores": chosen},
        "milliseconds": measure_speed(),
    }
    for name, pictures in ways.items():
        figures[name] = judge(pictures[num:], truths, specs)
        logger.info("%s: %s", name, figures[name]["all"])
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    write_table(figures)
    draw_picture(ways["generated"][num:], specs)


def make_ways(specs: Sequence[IconSpec]) -> dict[str, np.ndarray]:
    """The pictures of all specs, uint8 (N, 256, 256, 3), by the way they came about."""
    small = np.stack([draw(spec, SMALL)[0] for spec in specs])
    config = UpscaleConfig()
    upscaler = load_upscaler(resolve_upscaler(config, Path), config)
    again = np.concatenate([through_vae(part) for part in _batches(small)])
    return {
        "rendered": np.stack([draw(spec, LARGE)[0] for spec in specs]),
        "upscaled": np.concatenate([upscaler.upscale(part) for part in _batches(small)]),
        "generated": np.concatenate([upscaler.upscale(part) for part in _batches(again)]),
    }


def through_vae(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, 64, 64, 3) pictures encoded and decoded by the starter VAE."""
    import torch
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(str(pipeline_folder() / "vae"), local_files_only=True).eval()
    with torch.inference_mode():
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        outputs = vae.decode(vae.encode(inputs).latents).sample
    return ((outputs.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def choose_tolerance(ways: Mapping[str, Sequence[np.ndarray]], truths: np.ndarray) -> dict[str, float]:
    """Mean IoU over all ways by tolerance, best first."""
    scores = {}
    for tolerance in TOLERANCES:
        found = [
            iou(cut_out(picture, tolerance=tolerance), truth)
            for pictures in ways.values()
            for picture, truth in zip(pictures, truths, strict=True)
        ]
        scores[f"{tolerance:g}"] = round(statistics.fmean(found), 4)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def judge(pictures: Sequence[np.ndarray], truths: np.ndarray, specs: Sequence[IconSpec]) -> dict[str, Any]:
    """Figures over all pictures, over those whose cut-out passed its gates, and by attribute."""
    rows = []
    for picture, truth, spec in zip(pictures, truths, specs, strict=True):
        cutout = cut_out(picture)
        share = cutout.ground.share if cutout.ground is not None else None
        refused = rejection(check_cutout(picture, cutout.rgba, CutoutGatesConfig(), ground_share=share))
        rows.append(
            {
                **measure(cutout, truth),
                "plain": plain_iou(picture, truth),
                "refused": refused.gate if refused else "",
                **spec.attributes(),
            }
        )
    passed = [row for row in rows if not row["refused"]]
    gates = sorted({row["refused"] for row in rows} - {""})
    return {
        "all": summary(rows),
        "passed": summary(passed) if passed else None,
        "refused": {gate: sum(row["refused"] == gate for row in rows) for gate in gates},
        "by": {
            name: {value: summary(part) for value in values if (part := [r for r in rows if r[name] == value])}
            for name, values in ATTRIBUTES.items()
        },
    }


def measure(cutout: Cutout, truth: np.ndarray) -> dict[str, float]:
    """How far an alpha is from the true one, uint8 (H, W).

    IoU is of the alphas themselves (smaller over larger). `edge` is the mean absolute error of alpha within BAND pixels
    of the true edge; SAD (thousands) and gradient error (thousands, Gaussian derivatives of sigma 1.4) are those of
    Rhemann et al., "A perceptually motivated online benchmark for image matting" (2009).
    """
    from scipy import ndimage

    found, right = cutout.rgba[..., 3] / 255, truth / 255
    solid = right >= 0.5
    band = ndimage.binary_dilation(solid, iterations=BAND) & ~ndimage.binary_erosion(solid, iterations=BAND)
    away = np.abs(found - right)
    slopes = [ndimage.gaussian_gradient_magnitude(alpha, 1.4) for alpha in (found, right)]
    return {
        "iou": iou(cutout, truth),
        "edge": float(away[band].mean()),
        "sad": float(away.sum() / 1000),
        "gradient": float(np.square(slopes[0] - slopes[1]).sum() / 1000),
    }


def iou(cutout: Cutout, truth: np.ndarray) -> float:
    return _iou(cutout.rgba[..., 3] / 255, truth / 255)


def plain_iou(picture: np.ndarray, truth: np.ndarray) -> float:
    """That of the plainest key: whatever is not the ground's colour is the object."""
    lab = to_lab(picture)
    ground = estimate_ground(picture, lab, CutoutConfig().tolerance)
    return _iou((ground.distance(lab) > ground.reach).astype(float), truth / 255)


def _iou(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.minimum(found, right).sum() / max(np.maximum(found, right).sum(), 1e-9))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    ious = [row["iou"] for row in rows]
    means = {name: round(statistics.fmean(r[name] for r in rows), 4) for name in ("edge", "sad", "gradient", "plain")}
    return {
        "count": len(rows),
        "iou": round(statistics.fmean(ious), 4),
        "iou_worst_5": round(float(np.quantile(ious, 0.05)), 4),
        **means,
    }


def measure_speed(repeats: int = 5) -> dict[str, float]:
    """Milliseconds per picture by its edge: the median over specs of the best of some repeats."""
    found = {}
    for size in (256, 1024):
        times = []
        for index in range(12):
            picture, _ = draw(sample_spec(SPLIT, index), size)
            best = float("inf")
            for _ in range(repeats):
                start = time.perf_counter()
                cut_out(picture)
                best = min(best, time.perf_counter() - start)
            times.append(best * 1e3)
        found[str(size)] = round(statistics.median(times), 1)
    return found


# --- the page ---------------------------------------------------------------------------------------------------


def write_table(figures: Mapping[str, Any]) -> None:
    """The table of figures between its marks on the page."""
    text = PAGE.read_text("utf-8")
    start = text.index(MARK) + len(MARK)
    end = text.index(END, start)
    PAGE.write_text(text[:start] + "\n\n" + "\n".join(_lines(figures)) + "\n\n" + text[end:], "utf-8")


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "| pictures | IoU | worst 5 % below | edge error | plain key's IoU | refused | IoU of the others |"
    yield "|---|---|---|---|---|---|---|"
    for name, title in WAYS.items():
        every, passed = figures[name]["all"], figures[name]["passed"]
        refused = sum(figures[name]["refused"].values()) / every["count"]
        others = f"{passed['iou']:.3f}" if passed else ""
        yield (
            f"| {title} | {every['iou']:.3f} | {every['iou_worst_5']:.3f} | {every['edge']:.3f} | "
            f"{every['plain']:.3f} | {refused:.0%} | {others} |"
        )
    yield ""
    yield "| ground | " + " | ".join(f"{title}: IoU, edge error" for title in WAYS.values()) + " |"
    yield "|---|" + "---|" * len(WAYS)
    for ground in ATTRIBUTES["ground"]:
        cells = [figures[name]["by"]["ground"].get(ground) for name in WAYS]
        yield f"| {ground} | " + " | ".join(f"{c['iou']:.3f}, {c['edge']:.3f}" if c else "" for c in cells) + " |"
    yield ""
    speed = figures["milliseconds"]
    yield (
        f"{figures['renders']} renders; a cut-out takes {speed['256']:.0f} ms at 256² and {speed['1024']:.0f} ms at "
        f"1024² on one core of {figures['machine']['processor']}."
    )


def draw_picture(pictures: Sequence[np.ndarray], specs: Sequence[IconSpec]) -> None:
    """Pictures above their cut-outs on a checkerboard, one of each object, those that pass their gates."""
    from PIL import Image

    columns = []
    for thing in ATTRIBUTES["object"]:
        for picture, spec in zip(pictures, specs, strict=True):
            cutout = cut_out(picture)
            share = cutout.ground.share if cutout.ground is not None else None
            verdicts = check_cutout(picture, cutout.rgba, CutoutGatesConfig(), ground_share=share)
            if spec.object == thing and rejection(verdicts) is None:
                columns.append(np.vstack([picture, _on_checkerboard(cutout.rgba)]))
                break
    half = (len(columns) + 1) // 2
    rows = [np.hstack(columns[:half]), np.hstack(columns[len(columns) - half :])]
    sheet = Image.fromarray(np.vstack(rows))
    sheet = sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS)
    sheet.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


def _on_checkerboard(rgba: np.ndarray, square: int = 16) -> np.ndarray:
    rows, columns = np.indices(rgba.shape[:2]) // square
    board = np.where((rows + columns) % 2, 205, 250)[..., None]
    part = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * part + board * (1 - part)).astype(np.uint8)


def _batches(pictures: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(pictures), BATCH):
        yield pictures[start : start + BATCH]


if __name__ == "__main__":
    main()
