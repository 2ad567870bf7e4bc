"""One pipeline's pure forwards: denoiser and decoder with made-up inputs of the true shapes, and their FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from architectures import (
    JUDGES,
    RRDB_X4,
    TOKENS,
    Architecture,
    Part,
    Upscaling,
    build_judge,
    build_part,
    build_upscaler,
)


@dataclass(frozen=True, slots=True)
class Forwards:
    """Denoiser and VAE of a pipeline. Give them as loaded by an engine, or on `meta` to count alone."""

    denoiser: Any
    vae: Any

    @property
    def packed(self) -> bool:
        """Whether latents go through the denoiser as rows of 2 × 2 patches (FLUX)."""
        return not hasattr(self.denoiser.config, "cross_attention_dim")

    def latents(self, count: int, width: int, height: int) -> Any:
        """Noise as the denoiser takes it: (count, C, h, w), or (count, h/2 · w/2, 4 C) where packed."""
        import torch

        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        rows, columns, channels = height // factor, width // factor, self.vae.config.latent_channels
        shape = (count, rows * columns // 4, channels * 4) if self.packed else (count, channels, rows, columns)
        return torch.randn(shape, device=self.denoiser.device, dtype=self.denoiser.dtype)

    def conditions(self, count: int, width: int, height: int, text_tokens: int) -> dict[str, Any]:
        """Prompt embeddings and all else the denoiser is told, `count` rows of noise."""
        import torch

        device, dtype, config = self.denoiser.device, self.denoiser.dtype, self.denoiser.config

        def noise(*shape: int) -> Any:
            return torch.randn(shape, device=device, dtype=dtype)

        if not self.packed:
            out = {"encoder_hidden_states": noise(count, TOKENS, config.cross_attention_dim)}
            if config.addition_embed_type == "text_time":
                pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
                sizes = torch.tensor([height, width, 0, 0, height, width], device=device, dtype=dtype)
                out["added_cond_kwargs"] = {"text_embeds": noise(count, pooled), "time_ids": sizes.repeat(count, 1)}
            return out
        factor = 2 ** len(self.vae.config.block_out_channels)
        grid = torch.zeros(height // factor, width // factor, 3)
        grid[..., 1] += torch.arange(height // factor)[:, None]
        grid[..., 2] += torch.arange(width // factor)[None, :]
        return {
            "encoder_hidden_states": noise(count, text_tokens, config.joint_attention_dim),
            "pooled_projections": noise(count, config.pooled_projection_dim),
            "txt_ids": torch.zeros(text_tokens, 3, device=device, dtype=dtype),
            "img_ids": grid.flatten(0, 1).to(device, dtype),
        }

    def denoise(self, latents: Any, timestep: Any, conditions: Mapping[str, Any]) -> Any:
        """One forward of the denoiser. `timestep` is a tensor without dimensions, in training steps."""
        if not self.packed:
            return self.denoiser(latents, timestep, **conditions, return_dict=False)[0]
        when = timestep.expand(len(latents)).to(latents.dtype) / 1000
        return self.denoiser(hidden_states=latents, timestep=when, **conditions, return_dict=False)[0]

    def sample(self, scheduler: Any, latents: Any, conditions: Mapping[str, Any], steps: int, guidance: float) -> Any:
        """All steps of a fresh `scheduler`; with guidance above 1, `conditions` has the negative rows first."""
        import numpy as np
        import torch

        guided = guidance > 1
        if self.packed:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=latents.device)
        else:
            scheduler.set_timesteps(steps, device=latents.device)
            latents = latents * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            given = torch.cat([latents] * 2) if guided else latents
            if not self.packed:
                given = scheduler.scale_model_input(given, step)
            predicted = self.denoise(given, step, conditions)
            if guided:
                without, with_text = predicted.chunk(2)
                predicted = without + guidance * (with_text - without)
            latents = scheduler.step(predicted, step, latents, return_dict=False)[0]
        return latents

    def decode(self, latents: Any, width: int, height: int) -> Any:
        """Pictures (N, 3, height, width), about -1 to 1."""
        config = self.vae.config
        if self.packed:
            factor = 2 ** len(config.block_out_channels)
            rows, columns = height // factor, width // factor
            latents = latents.view(len(latents), rows, columns, config.latent_channels, 2, 2)
            latents = latents.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), -1, rows * 2, columns * 2)
        shifted = latents / config.scaling_factor + (config.shift_factor or 0.0)
        return self.vae.decode(shifted, return_dict=False)[0]


@dataclass(frozen=True, slots=True)
class Flops:
    """TFLOP of one forward for one picture (a product and a sum are two); `upscale` is of the whole one, untiled."""

    denoise: float
    decode: float
    upscale: float
    judge: float

    def of_run(self, pictures: int, steps: int, guided: bool, upscales: int) -> float:
        """TFLOP that a work list needs at least: what is computed beyond it is not useful."""
        one = self.denoise * steps * (2 if guided else 1) + self.decode + self.judge
        return pictures * one + upscales * self.upscale


def count_flops(
    architecture: Architecture, *, size: int = 0, upscaling: Upscaling = RRDB_X4, judge: Any = None
) -> Flops:
    """Counted over the architecture itself on the meta device: no memory, no arithmetic, seconds."""
    size = size or architecture.size
    forwards = on_meta(architecture)
    latents = forwards.latents(1, size, size)
    conditions = forwards.conditions(1, size, size, architecture.text_tokens)
    timestep = _meta(())
    return Flops(
        tflop(lambda: forwards.denoise(latents, timestep, conditions)),
        tflop(lambda: forwards.decode(latents, size, size)),
        upscaler_tflop(upscaling, size),
        judge_tflop(judge or JUDGES["ViT-L-14"]),
    )


def on_meta(architecture: Architecture) -> Forwards:
    """Denoiser and VAE without memory."""
    import torch

    denoiser, vae = (
        build_part(architecture.parts[name], "meta", torch.float32) for name in (architecture.denoiser, "vae")
    )
    return Forwards(denoiser, vae)


def judge_tflop(config: Mapping[str, Any]) -> float:
    """TFLOP of a judge's image tower for one picture."""
    import torch

    edge = config["vision_cfg"]["image_size"]
    network = build_judge(config, "meta", torch.float32)
    return tflop(lambda: network.encode_image(_meta((1, 3, edge, edge))))


def upscaler_tflop(shape: Upscaling, size: int) -> float:
    """TFLOP of an RRDB network for one square picture of `size` pixels."""
    import torch

    network = build_upscaler(shape, "meta", torch.float32)
    return tflop(lambda: network(_meta((1, 3, size, size))))


def text_tflop(part: Part, tokens: int) -> float:
    """TFLOP of a text encoder for one text."""
    import torch

    network = build_part(part, "meta", torch.float32)
    return tflop(lambda: network(torch.zeros((1, tokens), dtype=torch.long, device="meta")))


def tflop(forward: Callable[[], Any]) -> float:
    """TFLOP of one call: its matrix products, convolutions and attention, by torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / 1e12


def _meta(shape: tuple[int, ...]) -> Any:
    import torch

    return torch.empty(shape, device="meta")
