"""`python -m assetmill.starter.train.preview --out DIR`: the tiny decoder that shows half-made starter pictures.

It learns to draw what the pack's own decoder draws, at a quarter of its width: from latents of rendered pictures, of
mixtures of two and of noisy ones, since predicted clean latents are blends of what a picture may still become. Some
minutes on one core. Only the decoder is trained; the encoder that the class demands is as small as it can be.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from assetmill.starter.data import SIZE, to_tensor
from assetmill.starter.locations import pipeline_folder
from assetmill.starter.models import make_preview
from assetmill.starter.renderer import draw, sample_spec

NUM_PICTURES = 1500
BATCH = 32
PEAK_RATE = 4e-3
logger = logging.getLogger(__name__)


def train_preview(minutes: float, num_pictures: int = NUM_PICTURES) -> Any:
    """Train a preview decoder for that long against the pack's VAE; returns it in eval mode."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(17)
    teacher = AutoencoderTiny.from_pretrained(pipeline_folder() / "vae", local_files_only=True).eval()
    latents = _latents(teacher, num_pictures)
    student = make_preview()
    optimizer = torch.optim.AdamW(student.decoder.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    begin, end = time.monotonic(), time.monotonic() + 60 * minutes
    step = 0
    while (now := time.monotonic()) < end:
        share = (now - begin) / (end - begin)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 50) * (1 - share)
        given = _half_made(latents)
        with torch.no_grad():
            wanted = teacher.decode(given).sample.clamp(-1, 1)
        error = student.decode(given).sample - wanted
        loss = error.abs().mean() + error.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.decoder.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            logger.info("step %d, %.0f%% of the time, loss %.4f", step, 100 * share, loss.item())
    return student.eval()


@torch.no_grad()
def _latents(teacher: Any, count: int) -> torch.Tensor:
    """Latents (count, 4, 16, 16) of rendered pictures of the training split."""
    pictures = np.stack([draw(sample_spec("train", index, held_out=False), SIZE)[0] for index in range(count)])
    return torch.cat(
        [teacher.encode(to_tensor(part)).latents for part in np.array_split(pictures, max(1, count // 64))]
    )


def _half_made(latents: torch.Tensor) -> torch.Tensor:
    """A batch like the predictions of early steps: mixtures of two pictures, smoothed and noisy to random degrees."""
    first, second = (latents[torch.randint(len(latents), (BATCH,))] for _ in range(2))
    blend = 0.5 * torch.rand(BATCH, 1, 1, 1) * (torch.rand(BATCH, 1, 1, 1) < 0.6)
    mixed = first * (1 - blend) + second * blend
    smooth = torch.rand(BATCH, 1, 1, 1) * (torch.rand(BATCH, 1, 1, 1) < 0.5)
    mixed = mixed * (1 - smooth) + F.avg_pool2d(mixed, 3, 1, 1) * smooth
    return mixed + 0.15 * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(mixed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m assetmill.starter.train.preview", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    train_preview(options.minutes).save_pretrained(options.out)


if __name__ == "__main__":
    main()
