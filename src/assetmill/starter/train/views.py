"""Pictures as the pipeline shows them: what CLIP must also be able to read, beside clean renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from assetmill.starter.captions import caption
from assetmill.starter.data import RenderedSplit, to_pictures
from assetmill.starter.models import CONTEXT_LENGTH
from assetmill.starter.train.clip import specs_of
from assetmill.starter.train.unet import Noise


@torch.no_grad()
def draw_views(
    split: RenderedSplit,
    latents: np.ndarray,
    vae: Any,
    unet: Any,
    text_encoder: torch.nn.Module,
    tokenizer_folder: Path,
    count: int = 6000,
) -> RenderedSplit:
    """Return `count` pictures of a split as the pipeline shows them: half decoded, half half-denoised.

    A half-denoised picture is the UNet's guess at the clean latents from noisy ones (arXiv:2202.00512),
    decoded: it has the softness and the errors of generated pictures, and its truth is still known.
    """
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    tables = Noise.of_scheduler()
    rng = np.random.default_rng(61)
    torch.manual_seed(61)
    rows = rng.permutation(len(split))[:count]
    pictures = []
    for start in range(0, len(rows), 50):
        some = rows[start : start + 50]
        clean = torch.from_numpy(latents[some]).float()
        if (start // 50) % 2:
            texts = [caption(spec, rng) for spec in specs_of(split.labels[some])]
            tokens = tokenizer(
                texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
            ).input_ids
            steps = torch.from_numpy(rng.integers(100, 600, size=len(some)))
            noisy, _ = tables.mix(clean, torch.randn_like(clean), steps)
            velocity = unet(noisy, steps, text_encoder(tokens)[0]).sample
            signal, noise = tables.signal[steps].view(-1, 1, 1, 1), tables.noise[steps].view(-1, 1, 1, 1)
            clean = signal * noisy - noise * velocity
        pictures.append(to_pictures(vae.decode(clean).sample))
    return RenderedSplit(split.name, split.held_out, np.concatenate(pictures), split.labels[rows])
