"""Trains the UNet: v-prediction on latents computed ahead, with the CLIP's text tower kept frozen.

On two cores it runs as two processes of one thread each, which average their weights through files
(local SGD, arXiv:1805.09767): a synchronous all-reduce would wait for whichever core is disturbed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assetmill.starter.captions import caption
from assetmill.starter.models import CONTEXT_LENGTH, make_scheduler, make_unet
from assetmill.starter.train.clip import specs_of
from assetmill.starter.train.loop import (
    AveragedWeights,
    Progress,
    Stage,
    decayed_rate,
    set_rate,
    write_atomically,
)

BATCH = 32
UNCONDITIONED_SHARE = 0.1
PEAK_RATE = 1e-3
AVERAGE_EVERY, AVERAGE_DECAY = 4, 0.992


@dataclass
class Partnership:
    """Two or more processes that train one model and meet every `every` seconds of the wall clock.

    At a meeting each writes its weights and the samples it has seen since the last one, waits up to
    `patience` seconds for the others, and goes on from the mean weighted by samples. Who doesn't come is
    left out of that meeting.
    """

    folder: Path
    rank: int
    size: int
    every: float = 30.0
    patience: float = 8.0
    _meeting: int = 0
    _samples: int = 0

    def meet(self, model: torch.nn.Module, samples: int) -> int:
        """Average with the partners if it is time; returns how many came (0 when it is not time yet)."""
        meeting = int(time.time() / self.every)
        if self.size < 2 or meeting == self._meeting:
            return 0
        first, self._meeting = self._meeting == 0, meeting
        since, self._samples = samples - self._samples, samples
        if first:
            since = 0  # who joins late takes the others' weights over
        self.folder.mkdir(parents=True, exist_ok=True)
        mine: dict[str, Any] = {"samples": since, "weights": model.state_dict()}
        write_atomically(mine, self._file(self.rank, meeting))
        self._file(self.rank, meeting - 3).unlink(missing_ok=True)
        present = [mine]
        deadline = time.monotonic() + self.patience
        for rank in range(self.size):
            file = self._file(rank, meeting)
            while rank != self.rank and not file.is_file() and time.monotonic() < deadline and self._alive(rank):
                time.sleep(0.1)
            if rank != self.rank and file.is_file():
                present.append(torch.load(file, weights_only=True))
        total = sum(one["samples"] for one in present)
        if len(present) > 1 and total:
            weights = {
                name: sum(one["weights"][name] * (one["samples"] / total) for one in present)
                for name in mine["weights"]
            }
            model.load_state_dict(weights)
        return len(present)

    def _file(self, rank: int, meeting: int) -> Path:
        return self.folder / f"{rank}-{meeting}.pt"

    def _alive(self, rank: int) -> bool:
        """Say whether a partner has written anything in the last three meetings."""
        newest = [file.stat().st_mtime for file in self.folder.glob(f"{rank}-*.pt")]
        return bool(newest) and time.time() - max(newest) < 3 * self.every


@dataclass(frozen=True)
class Noise:
    """The forward process of the shipped scheduler, as two tables over the 1000 steps."""

    signal: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of_scheduler(cls) -> Noise:
        """Read the tables off the scheduler."""
        kept = make_scheduler().alphas_cumprod
        return cls(kept.sqrt(), (1 - kept).sqrt())

    def mix(self, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return noisy latents and the velocity to predict (arXiv:2202.00512)."""
        a, s = self.signal[steps].view(-1, 1, 1, 1), self.noise[steps].view(-1, 1, 1, 1)
        return a * latents + s * noise, a * noise - s * latents


def spread_steps(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Return `count` training steps spread evenly over the schedule (one random point in each slice)."""
    points = (rng.permutation(count) + rng.random(count)) / count
    return torch.from_numpy(np.clip((points * 1000).astype(np.int64), 0, 999))


def train_unet(
    stage: Stage,
    latents: np.ndarray,
    labels: np.ndarray,
    text_encoder: torch.nn.Module,
    tokenizer_folder: Path,
    partnership: Partnership | None = None,
) -> torch.nn.Module:
    """Train for the stage's time and return the averaged UNet in eval mode.

    `latents` float16 (n, 4, 16, 16) with their `labels` (n, 5); captions are worded anew at every step.
    """
    from transformers import CLIPTokenizer

    rank = partnership.rank if partnership else 0
    torch.manual_seed(47)
    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    unet = make_unet().to(stage.device, memory_format=torch.channels_last)
    text_encoder = text_encoder.to(stage.device).eval()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = AveragedWeights(unet, AVERAGE_DECAY)
    noise_tables = Noise.of_scheduler()
    progress = Progress(stage, {"model": unet, "optimizer": optimizer, "average": average})
    torch.manual_seed(47 + 1000 * rank + progress.step)
    for step in progress.steps():
        rng = np.random.default_rng([47, rank, step])
        rows = rng.integers(len(labels), size=BATCH)
        texts = [caption(spec, rng) for spec in specs_of(labels[rows])]
        texts = ["" if rng.random() < UNCONDITIONED_SHARE else text for text in texts]
        tokens = tokenizer(
            texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            hidden = text_encoder(tokens.to(stage.device))[0]
        clean = torch.from_numpy(latents[rows]).float().to(stage.device)
        steps = spread_steps(BATCH, rng)
        noisy, velocity = noise_tables.mix(clean, torch.randn_like(clean), steps)
        set_rate(optimizer, decayed_rate(PEAK_RATE, progress.share))
        predicted = unet(noisy.contiguous(memory_format=torch.channels_last), steps.to(stage.device), hidden).sample
        error = (predicted - velocity).square().mean((1, 2, 3))
        optimizer.zero_grad(set_to_none=True)
        error.mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        late = steps >= 700
        progress.count(BATCH, loss=error.mean().item(), noisy_loss=error[late].mean().item())
        if partnership is not None and (came := partnership.meet(unet, progress.samples)) > 1:
            progress.count(0, partners=came)
        if step % AVERAGE_EVERY == 0:
            average.update(unet)
    unet.load_state_dict(average.mean)
    return unet.eval()
