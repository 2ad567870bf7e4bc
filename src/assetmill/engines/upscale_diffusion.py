"""Upscalers that sample: diffusers' Stable Diffusion x4, latent diffusion super-resolution, DeepFloyd IF's stage II.

They read what a picture shows, invent detail that fits, and take many steps; the same picture, text and options give
the same result, whatever else is upscaled with it.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import memory_errors, pick_device, pick_dtype
from assetmill.engines.folders import fingerprint_folder
from assetmill.engines.loading import load_stage
from assetmill.engines.protocols import EngineError, UpscalerSpec
from assetmill.engines.recent import RecentTensors
from assetmill.engines.tiling import Place, TileRun
from assetmill.engines.upscale import check_pixels
from assetmill.engines.upscaler_folders import options_of, read_own_scale
from assetmill.records import Scalar

if TYPE_CHECKING:
    import torch

_BATCH_PIXELS = 64 * 64
"""Input pixels per forward on a CPU: a tile at a time. A GPU takes 64 times as many, halved if need be."""


class DiffusionUpscaler:
    """A super-resolution pipeline of diffusers, from a folder.

    Pictures larger than `tile` go through in overlapping tiles, each with noise of its own that follows from the
    picture and the tile's place. Texts are encoded once while they are remembered. `options` are those of the family
    (see `upscaler_folders.FAMILIES`); IF reads texts in lower case.

    The pipelines' own safety checkers, which return black pictures, are not loaded: candidates were checked before
    (`gates.safety`), and a master that came out black is refused by its gate.

    Raises EngineError where the folder cannot be used.
    """

    generative = True

    def __init__(
        self,
        spec: UpscalerSpec,
        *,
        options: Mapping[str, Scalar] | None = None,
        tile: int = 256,
        overlap: int = 16,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        self.spec = spec
        self.key = spec.key
        self.scale = spec.scale
        self.options = options_of(spec.family, options or {})
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        folder = Path(spec.file)
        if fingerprint_folder(folder, trust_cache=False) != spec.fingerprint:
            raise EngineError(f"{folder} is not what the plan named: changed or damaged; plan again or restore it")
        with memory_errors(f"the upscaler {folder.name}"):
            self._pipeline = _load_pipeline(folder, spec.family, self.dtype)
            self._pipeline.to(self.device)
        self._sample = _SAMPLERS[spec.family]
        self._encoded = RecentTensors(64 * 2**20)
        own_scale = read_own_scale(folder, spec.family)
        # The UNet halves the picture level by level; the image processor of x4 cuts to multiples of its factor.
        multiple = math.lcm(2 ** (len(self._pipeline.unet.config.block_out_channels) - 1), own_scale)
        self.tiles = TileRun(
            self.scale, own_scale, self.device, self.dtype,
            _BATCH_PIXELS * (64 if self.device.type == "cuda" else 1), tile, overlap, multiple,
        )  # fmt: skip

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times; see Upscaler. Raises OutOfMemory when one tile doesn't fit."""
        check_pixels(pixels, texts)
        wanted = list(texts) if texts is not None else [""] * len(pixels)
        seeds = [hashlib.sha256(p.tobytes() + str(self.options["seed"]).encode()).hexdigest() for p in pixels]

        def enlarge(tiles: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
            noise = [_noise_source(seeds[n], y[0], x[0]) for n, y, x in places]
            return self._sample(self, tiles, [wanted[n] for n, _, _ in places], noise)

        return self.tiles.enlarge(pixels, enlarge)

    # --- inside -----------------------------------------------------------------------------------------------

    def _encode(self, texts: Sequence[str], encode: Callable[[str], tuple[Any, Any]]) -> dict[str, Any]:
        """The pipeline's arguments for texts: embeddings, and those of the negative text where guidance needs them."""
        import torch

        groups = []
        for text in texts:
            group = self._encoded.get(text)
            if group is None:
                positive, negative = encode(text)
                group = {"prompt_embeds": positive} | ({} if negative is None else {"negative_prompt_embeds": negative})
                self._encoded.put(text, group)
            groups.append(group)
        return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}

    @property
    def _guided(self) -> bool:
        return self.options["guidance"] > 1


def _sample_sd(upscaler: DiffusionUpscaler, tiles: Any, texts: Sequence[str], noise: list[Any]) -> Any:
    options, pipeline = upscaler.options, upscaler._pipeline

    def encode(text: str) -> tuple[Any, Any]:
        return pipeline.encode_prompt(text, upscaler.device, 1, upscaler._guided, options["negative"])

    made = pipeline(
        image=tiles, num_inference_steps=options["steps"], guidance_scale=options["guidance"],
        noise_level=options["noise_level"], generator=noise, output_type="pt", **upscaler._encode(texts, encode),
    )  # fmt: skip
    return made.images


def _sample_ldm(upscaler: DiffusionUpscaler, tiles: Any, texts: Sequence[str], noise: list[Any]) -> Any:
    options, scheduler = upscaler.options, upscaler._pipeline.scheduler
    own_step = type(scheduler).step.__get__(scheduler)
    if "generator" in inspect.signature(own_step).parameters:
        # The pipeline draws the steps' noise (eta above 0) from torch's global state: not twice the same.
        scheduler.step = partial(own_step, generator=noise)
    made = upscaler._pipeline(
        tiles * 2 - 1, num_inference_steps=options["steps"], eta=options["eta"], generator=noise, output_type="pt"
    )
    return made.images


def _sample_if(upscaler: DiffusionUpscaler, tiles: Any, texts: Sequence[str], noise: list[Any]) -> Any:
    options, pipeline = upscaler.options, upscaler._pipeline

    def encode(text: str) -> tuple[Any, Any]:
        return pipeline.encode_prompt(
            text, upscaler._guided, device=upscaler.device, negative_prompt=options["negative"], clean_caption=False
        )

    own = upscaler.tiles.own_scale
    made = pipeline(
        image=tiles * 2 - 1, height=tiles.shape[2] * own, width=tiles.shape[3] * own,
        num_inference_steps=options["steps"], guidance_scale=options["guidance"], noise_level=options["noise_level"],
        generator=noise, output_type="pt", **upscaler._encode(texts, encode),
    )  # fmt: skip
    return made.images / 2 + 0.5


_SAMPLERS: Mapping[str, Callable[[DiffusionUpscaler, Any, Sequence[str], list[Any]], Any]] = {
    "StableDiffusionUpscalePipeline": _sample_sd,
    "LDMSuperResolutionPipeline": _sample_ldm,
    "IFSuperResolutionPipeline": _sample_if,
}
"""What to call with tiles in [0, 1], their texts and a generator of noise each; it gives pictures in [0, 1]."""


def _noise_source(seed: str, top: int, left: int) -> torch.Generator:
    import torch

    number = hashlib.sha256(f"{seed}:{top}:{left}".encode()).digest()[:8]
    # On the CPU, so that the noise is the same on every device.
    return torch.Generator("cpu").manual_seed(int.from_bytes(number, "big") >> 1)


def _load_pipeline(folder: Path, family: str, dtype: torch.dtype) -> Any:
    import diffusers

    without: dict[str, Any] = {}
    if family != "LDMSuperResolutionPipeline":
        without = {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    if family == "IFSuperResolutionPipeline":
        without["requires_safety_checker"] = False
    return load_stage(getattr(diffusers, family), folder, dtype, **without)
