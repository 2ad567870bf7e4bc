"""F: the denoiser, VAE and upscaler forwards alone. Nothing is ranked, encoded, hashed or stored.

On as many copies of the model as there are cores for: what the whole machine can do at best.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peers.work import Piece, Settings, Work


class Pure:
    """The models' bare forwards over the work list, prompt embeddings made beforehand."""

    late = 0.0

    def __init__(self, work: Work, settings: Settings) -> None:
        import torch
        from diffusers import StableDiffusionPipeline
        from spandrel import ModelLoader

        torch.set_num_threads(settings.threads)
        self.pipes: list[Any] = []
        for _ in range(lanes_for(settings)):
            pipe = StableDiffusionPipeline.from_pretrained(work.model, torch_dtype=torch.float32)
            if settings.channels_last:
                pipe.unet.to(memory_format=torch.channels_last)
                pipe.vae.to(memory_format=torch.channels_last)
            if settings.compile:
                pipe.unet.compile_repeated_blocks()
            self.pipes.append(pipe)
        self.upscaler = ModelLoader("cpu").load_from_file(work.upscaler).eval()
        self.embedded = self._embed(work)
        for pipe in self.pipes:
            self._sample(pipe, work, _fill(work.pieces[: settings.batch], settings.batch), steps=2)

    def run(self, work: Work, settings: Settings, out: Path) -> float:
        """Seconds of the forwards. The pictures are saved afterwards, so that they can be compared."""
        import torch

        torch.set_num_threads(settings.threads)
        parts = [work.pieces[at : at + settings.batch] for at in range(0, len(work.pieces), settings.batch)]

        def lane(number: int) -> list[Any]:
            pipe, own = self.pipes[number], parts[number :: len(self.pipes)]
            return [self._sample(pipe, work, _fill(part, settings.batch))[: len(part)] for part in own]

        start = time.perf_counter()
        with torch.inference_mode(), ThreadPoolExecutor(len(self.pipes)) as pool:
            lanes = list(pool.map(lane, range(len(self.pipes))))
            decoded = [lanes[at % len(lanes)][at // len(lanes)] for at in range(len(parts))]
            small = torch.cat(decoded).div(2).add(0.5).clamp(0, 1)
            for at in range(0, work.num_masters, 16):
                self.upscaler(small[at : min(at + 16, work.num_masters)])
        seconds = time.perf_counter() - start
        self._save(work, small, out)
        return seconds

    def _embed(self, work: Work) -> dict[str, Any]:
        import torch

        pipe, found = self.pipes[0], {}
        with torch.inference_mode():
            for text in {p.positive for p in work.pieces} | {p.negative for p in work.pieces}:
                tokens = pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
                found[text] = pipe.text_encoder(tokens)[0]
        return found

    def _sample(self, pipe: Any, work: Work, part: list[Piece], steps: int | None = None) -> Any:
        """Decoded pictures of one batch, in [-1, 1], as the VAE gives them."""
        import torch

        guided = work.guidance > 1
        with torch.inference_mode():
            scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
            scheduler.set_timesteps(steps or work.steps)
            factor = pipe.vae_scale_factor
            shape = (pipe.unet.config.in_channels, work.height // factor, work.width // factor)
            noise = [torch.randn(shape, generator=torch.Generator().manual_seed(p.seed)) for p in part]
            latents = torch.stack(noise) * scheduler.init_noise_sigma
            context = torch.cat([self.embedded[p.positive] for p in part])
            if guided:
                context = torch.cat([torch.cat([self.embedded[p.negative] for p in part]), context])
            for step in scheduler.timesteps:
                given = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, step)
                predicted = pipe.unet(given, step, encoder_hidden_states=context, return_dict=False)[0]
                if guided:
                    without, with_text = predicted.chunk(2)
                    predicted = without + work.guidance * (with_text - without)
                latents = scheduler.step(predicted, step, latents, return_dict=False)[0]
            return pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]

    def _save(self, work: Work, small: Any, out: Path) -> None:
        import torch
        from PIL import Image

        (out / "candidates").mkdir(parents=True)
        pixels = small.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for piece, picture in zip(work.pieces, pixels, strict=True):
            Image.fromarray(picture).save(out / "candidates" / f"{piece.name}.png", compress_level=1)


def lanes_for(settings: Settings) -> int:
    """Copies of the model that share the machine out: as many as there are cores for each copy's threads."""
    return max(1, len(os.sched_getaffinity(0)) // settings.threads)


def _fill(part: Any, size: int) -> list[Piece]:
    """A batch padded to its size with its last piece: one shape for all forwards, which a compiled model needs."""
    return [*part, *[part[-1]] * (size - len(part))]
