"""Trains the ×4 upscaler on pairs that the renderer draws of one spec: 64² in, 256² out."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from assetmill.starter.data import to_tensor
from assetmill.starter.models import make_upscaler
from assetmill.starter.renderer import draw, sample_spec
from assetmill.starter.train.loop import AveragedWeights, Progress, Stage, decayed_rate, set_rate

BATCH, CROP = 16, 24


def draw_pairs(name: str, count: int, *, held_out: bool | None = False, num_workers: int = 1) -> tuple:
    """Return `count` small and large pictures, uint8 (n, 64, 64, 3) and (n, 256, 256, 3)."""
    pieces = [(name, start, min(start + 50, count), held_out) for start in range(0, count, 50)]
    with ProcessPoolExecutor(max_workers=num_workers) as pool:
        drawn = list(pool.map(_draw_piece, pieces))
    return np.concatenate([small for small, _ in drawn]), np.concatenate([large for _, large in drawn])


def _draw_piece(piece: tuple[str, int, int, bool | None]) -> tuple[np.ndarray, np.ndarray]:
    name, start, stop, held_out = piece
    specs = [sample_spec(name, index, held_out=held_out) for index in range(start, stop)]
    return np.stack([draw(spec, 64)[0] for spec in specs]), np.stack([draw(spec, 256)[0] for spec in specs])


def train_upscaler(stage: Stage, data: Path, *, num_pairs: int = 3000, num_workers: int = 1) -> torch.nn.Module:
    """Train for the stage's time and return the averaged upscaler in eval mode.

    Inputs are 24² crops in [0, 1]; half of them carry a little noise, as decoded latents do.
    """
    torch.manual_seed(31)
    file = data / f"pairs-{num_pairs}.npz"
    if not file.is_file():
        small, large = draw_pairs("upscaler", num_pairs, num_workers=num_workers)
        np.savez(file, small=small, large=large)
    with np.load(file) as pairs:
        small, large = pairs["small"], pairs["large"]
    upscaler = make_upscaler().to(stage.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(upscaler.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    average = AveragedWeights(upscaler, 0.998)
    progress = Progress(stage, {"model": upscaler, "optimizer": optimizer, "average": average})
    for step in progress.steps():
        rng = np.random.default_rng([31, step])
        rows, corners = rng.integers(len(small), size=BATCH), rng.integers(64 - CROP + 1, size=(BATCH, 2))
        given = np.stack([small[r, y : y + CROP, x : x + CROP] for r, (y, x) in zip(rows, corners, strict=True)])
        wanted = np.stack(
            [large[r, 4 * y : 4 * (y + CROP), 4 * x : 4 * (x + CROP)] for r, (y, x) in zip(rows, corners, strict=True)]
        )
        source = to_tensor(given).add(1).div(2).to(stage.device, memory_format=torch.channels_last)
        target = to_tensor(wanted).add(1).div(2).to(stage.device)
        if rng.random() < 0.5:
            source = (source + float(rng.uniform(0.0, 0.02)) * torch.randn_like(source)).clamp(0, 1)
        set_rate(optimizer, decayed_rate(1e-3, progress.share))
        error = upscaler(source) - target
        loss = error.abs().mean() + 2 * error.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(upscaler.parameters(), 1.0)
        optimizer.step()
        average.update(upscaler)
        squared = error.detach().square().mean().item()
        progress.count(BATCH, loss=loss.item(), psnr=-10 * float(np.log10(max(squared, 1e-10))))
    upscaler.load_state_dict(average.mean)
    return upscaler.eval()
