"""Pictures as the pipeline shows them: what CLIP must also be able to read, beside clean renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from assetmill.starter.captions import caption
from assetmill.starter.data import RenderedSplit, to_tensor
from assetmill.starter.models import CONTEXT_LENGTH
from assetmill.starter.train.clip import PictureSource, specs_of
from assetmill.starter.train.unet import Noise


def seen_by_the_pipeline(
    split: RenderedSplit,
    latents: np.ndarray,
    vae: torch.nn.Module,
    unet: torch.nn.Module,
    text_encoder: torch.nn.Module,
    tokenizer_folder: Path,
) -> PictureSource:
    """Return a source of batches that mix renders, VAE reconstructions and half-denoised pictures by thirds.

    A half-denoised picture is the UNet's guess at the clean latents from noisy ones (arXiv:2202.00512),
    decoded: it has the softness and the errors of generated pictures, and its truth is still known.
    """
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    tables = Noise.of_scheduler()

    def half_denoised(rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        clean = torch.from_numpy(latents[rows]).float()
        texts = [caption(spec, rng) for spec in specs_of(split.labels[rows])]
        tokens = tokenizer(
            texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        steps = torch.from_numpy(rng.integers(100, 700, size=len(rows)))
        noisy, _ = tables.mix(clean, torch.randn_like(clean), steps)
        velocity = unet(noisy, steps, text_encoder(tokens)[0]).sample
        signal, noise = tables.signal[steps].view(-1, 1, 1, 1), tables.noise[steps].view(-1, 1, 1, 1)
        return vae.decode(signal * noisy - noise * velocity).sample.clamp(-1, 1)

    @torch.no_grad()
    def pictures_of(rows: np.ndarray, step: int) -> torch.Tensor:
        rng = np.random.default_rng([61, step])
        pictures = to_tensor(split.pictures[rows])
        kinds = rng.permutation(len(rows)) % 3
        decoded = torch.from_numpy(latents[rows[kinds == 1]]).float()
        pictures[torch.from_numpy(kinds == 1)] = vae.decode(decoded).sample.clamp(-1, 1)
        pictures[torch.from_numpy(kinds == 2)] = half_denoised(rows[kinds == 2], rng)
        return pictures

    return pictures_of
