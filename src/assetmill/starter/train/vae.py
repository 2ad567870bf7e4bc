"""Trains the VAE and computes the latents that the UNet learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from assetmill.starter.data import RenderedSplit, to_tensor
from assetmill.starter.models import make_vae
from assetmill.starter.train.loop import AveragedWeights, Progress, Stage, decayed_rate, set_rate

BATCH = 16
PEAK_RATE = 2e-3
LATENT_NOISE = 0.06
"""Noise put on latents before decoding: generated latents are never exact, and the decoder must not care."""


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + 2·MSE + 0.7·L1 of the horizontal and vertical differences (which keeps edges crisp)."""
    error = output - target
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return error.abs().mean() + 2 * error.square().mean() + 0.7 * (across.abs().mean() + down.abs().mean())


def latent_penalty(latents: torch.Tensor) -> torch.Tensor:
    """Pull every latent channel to zero mean and unit scale: the pipeline ignores `shift_factor`."""
    mean, scale = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return mean.square().mean() + (scale - 1).square().mean() + 0.01 * F.relu(latents.abs() - 3).mean()


def train_vae(stage: Stage, train: RenderedSplit) -> torch.nn.Module:
    """Train for the stage's time and return the averaged VAE in eval mode."""
    torch.manual_seed(11)
    vae = make_vae().to(stage.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    average = AveragedWeights(vae, 0.998)
    progress = Progress(stage, {"model": vae, "optimizer": optimizer, "average": average})
    for step in progress.steps():
        rows = np.sort(np.random.default_rng([11, step]).integers(len(train), size=BATCH))
        pictures = to_tensor(train.pictures[rows]).to(stage.device, memory_format=torch.channels_last)
        set_rate(optimizer, decayed_rate(PEAK_RATE, progress.share))
        latents = vae.encode(pictures).latents
        output = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
        loss = reconstruction_loss(output, pictures)
        optimizer.zero_grad(set_to_none=True)
        (loss + 0.1 * latent_penalty(latents)).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        squared = (output.detach().clamp(-1, 1) - pictures).square().mean().item() / 4
        progress.count(BATCH, loss=loss.item(), psnr=-10 * float(np.log10(max(squared, 1e-10))))
    vae.load_state_dict(average.mean)
    return vae.eval()


@torch.no_grad()
def encode_split(vae: Any, split: RenderedSplit, file: Path, device: str) -> np.ndarray:
    """Return the latents of every picture, float16 (n, 4, 16, 16), computed once and kept in `file`."""
    if file.is_file():
        return np.load(file)
    pieces = []
    for start in range(0, len(split), 256):
        pictures = to_tensor(split.pictures[start : start + 256]).to(device)
        pieces.append(vae.encode(pictures).latents.half().cpu().numpy())
    latents = np.concatenate(pieces)
    np.save(file, latents)
    return latents
