"""DeepFloyd IF, the open line of Imagen (Saharia et al. 2022): 64 x 64 pixels from a frozen T5, then four times that.

The ×4 that IF's own scripts put last is an upscaler like any other here (`upscale` in a config): it enlarges what was
chosen, not every candidate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import free_gib, memory_errors, pick_device, pick_dtype
from assetmill.engines.latent_loading import arrange, quiet
from assetmill.engines.loading import (
    check_batch,
    fitting_batch,
    hand_over,
    library_versions,
    load_stage,
    make_scheduler,
    refused_folders,
    seeded,
)
from assetmill.engines.model_folder import read_index
from assetmill.engines.protocols import EngineError, Generated, ModelSpec, OnStep
from assetmill.engines.recent import RecentTensors
from assetmill.engines.stage_folders import (
    check_pin,
    find_stages,
    licence_of,
    revision_of,
    shipped_settings,
    verify_stages,
    weights_gib,
)
from assetmill.records import Request

if TYPE_CHECKING:
    import torch

    from assetmill.config import ModelConfig

EPOCH = 1
"""Raised by hand when this engine makes other pictures of the same request."""

CLASSES = {"first": "IFPipeline", "second": "IFSuperResolutionPipeline"}
OPTIONS = ("noise_level", "second_guidance", "second_steps")
SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler")
TOKENS = 77
"""What IF was trained with; its pipelines cut there."""

GIB_PER_IMAGE = 24.0
"""A UNet over pixels of 256 x 256, told per 1024 x 1024."""

_UNSAFE = "the model's own safety checker withheld the picture"


def resolve_cascade(config: ModelConfig, resolve: Callable[[Path | str], Path]) -> ModelSpec:
    """What is known of a DeepFloyd IF before it is loaded. Never imports torch. Raises InputError.

    `model.source` is a folder that holds `first/` and `second/`, or the first stage, with the second in
    `model.stages.second`. Without a second stage pictures have the first one's size.
    """
    stages = find_stages(config, resolve, CLASSES, optional=("second",))
    revision = revision_of(stages)
    check_pin(config, stages, revision)
    first = stages["first"]
    side = int(first.config("unet").get("sample_size") or 64)
    multiple = 2 ** (len(first.config("unet").get("block_out_channels") or (1, 2, 3, 4)) - 1)
    scale = 1
    if "second" in stages:
        unet = stages["second"].config("unet")
        scale = max(1, int(unet.get("sample_size") or 4 * side) // side)
        deep = 2 ** (len(unet.get("block_out_channels") or (1, 2, 3, 4)) - 1)
        multiple = math.lcm(multiple * scale, deep)
    settings = shipped_settings(stages)
    licence, commercial = licence_of(stages)
    return ModelSpec(
        id=first.id,
        engine="cascade",
        epoch=EPOCH,
        revision=revision,
        family="deepfloyd-if",
        licence=licence,
        commercial=commercial,
        operations=("text-to-image",),
        width=int(settings.get("width", side * scale)),
        height=int(settings.get("height", side * scale)),
        steps=int(settings.get("steps", 100)),
        guidance=float(settings.get("guidance", 7.0)),
        size_multiple=multiple,
        token_limit=TOKENS,
        gib=weights_gib(stages),
        folder=str(first.folder),
        option_names=OPTIONS if scale > 1 else (),
        stages=tuple(stage.spec_entry for stage in stages.values()),
        schedulers=SCHEDULERS,
    )


class CascadeGenerator:
    """DeepFloyd IF as a Generator. T5 reads each distinct text once; both stages get the same embeddings.

    Steps, guidance and scheduler of a request are the first stage's. The options `second_steps` (50),
    `second_guidance` (4.0) and `noise_level` (250, in [0, 1000)) are the second's, which keeps its own scheduler. One
    CPU generator per picture goes through both stages.

    The first stage's folder may ship a safety checker: a picture it withholds comes with the reason. It sees the final
    picture; its flag for visible watermarks counts too. The mark that such a folder ships is put on, as IF's own
    scripts do and its licence expects.

    Raises EngineError where the folders cannot be loaded, OutOfMemory where they do not fit the device.
    """

    def __init__(self, spec: ModelSpec, config: ModelConfig, *, max_bytes: int = 256 * 2**20) -> None:
        from diffusers import IFPipeline, IFSuperResolutionPipeline

        verify_stages(spec)
        self.spec = spec
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        folders = {name: Path(folder) for name, folder, _ in spec.stages}
        self.second: Any = None
        with memory_errors(f"the model {spec.id} (about {spec.gib:.1f} GiB, {free_gib(self.device):.1f} GiB free)"):
            checker = _load_checker(folders["first"], self.dtype)
            self.first = load_stage(IFPipeline, folders["first"], self.dtype, safety_checker=checker)
            arrange(self.first, self.device, config)
            if "second" in folders:
                # its own T5, where a folder has one, stays on disk: the first stage has read the texts
                without = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "watermarker": None}
                self.second = load_stage(
                    IFSuperResolutionPipeline, folders["second"], self.dtype, **without, feature_extractor=None
                )
                arrange(self.second, self.device, config)
        if self.first.text_encoder is None:
            raise EngineError(f"{folders['first']} has no text encoder; give a first stage with its T5")
        self._scheduler = self.first.scheduler
        self._second_scheduler = self.second.scheduler if self.second is not None else None
        self._recent = RecentTensors(max_bytes)

    def generate(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        on_step: OnStep | None = None,
    ) -> Generated:
        """Pictures of requests that share a bucket; see Generator."""
        import torch

        check_batch(self.spec, batch, on_step)
        first = batch[0]
        start = time.perf_counter()
        what = f"a batch of {len(batch)} at {first.width}x{first.height}"
        with memory_errors(what), torch.inference_mode():
            texts = self._read([request.positive for request in batch])
            negatives = self._read([request.negative for request in batch])
            generators = seeded(batch)
            try:
                pixels = self._first(first, texts, negatives, generators)
                if self.second is not None:
                    pixels = self._second(first, pixels, texts, negatives, generators)
            except ValueError as error:
                raise EngineError(f"{self.spec.id} refused {what}: {error}") from error
            made = hand_over(pixels, start, self._withheld(pixels))
        return made if self.first.watermarker is None else self._mark(made)

    def fitting_batch(self, width: int, height: int) -> int:
        """A batch size to start from; halve it if it doesn't fit."""
        return fitting_batch(self.device, width, height, GIB_PER_IMAGE)

    def versions(self) -> Mapping[str, str]:
        """Library versions, device and dtype, to record beside candidates."""
        return library_versions(self.device, self.dtype)

    # --- inside -----------------------------------------------------------------------------------------------

    def _first(
        self, request: Request, texts: torch.Tensor, negatives: torch.Tensor, generators: list[torch.Generator]
    ) -> torch.Tensor:
        scale = self._scale
        self.first.scheduler = make_scheduler(self.first, self._scheduler, request.scheduler, SCHEDULERS)
        return self.first(
            prompt_embeds=texts,
            negative_prompt_embeds=negatives,
            width=request.width // scale,
            height=request.height // scale,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=generators,
            output_type="pt",
        ).images

    def _second(
        self,
        request: Request,
        pixels: torch.Tensor,
        texts: torch.Tensor,
        negatives: torch.Tensor,
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        options = dict(request.options)
        self.second.scheduler = make_scheduler(self.second, self._second_scheduler, "", SCHEDULERS)
        return self.second(
            prompt_embeds=texts,
            negative_prompt_embeds=negatives,
            image=pixels,
            width=request.width,
            height=request.height,
            num_inference_steps=int(options.get("second_steps", 50)),
            guidance_scale=float(options.get("second_guidance", 4.0)),
            noise_level=int(options.get("noise_level", 250)),
            generator=generators,
            output_type="pt",
        ).images

    @property
    def _scale(self) -> int:
        if self.second is None:
            return 1
        return max(1, self.second.unet.config.sample_size // self.first.unet.config.sample_size)

    def _read(self, texts: Sequence[str]) -> torch.Tensor:
        """T5's embeddings (N, 77, D), each distinct text read once while it is remembered."""
        import torch

        held = {text: self._recent.get(text) for text in dict.fromkeys(texts)}
        missing = [text for text, group in held.items() if group is None]
        for start in range(0, len(missing), 32):
            part = missing[start : start + 32]
            embeds, _ = self.first.encode_prompt(part, do_classifier_free_guidance=False, device=self.device)
            for row, text in enumerate(part):
                read = {"embeds": embeds[row].clone()}
                held[text] = read
                self._recent.put(text, read)
        return torch.stack([group["embeds"] for text in texts if (group := held[text])])

    def _mark(self, made: Generated) -> Generated:
        """The same pictures with IF's visible mark in a corner."""
        import torch
        from PIL import Image

        images = [Image.fromarray(picture) for picture in made.pixels]
        last = self.first if self.second is None else self.second
        self.first.watermarker.apply_watermark(images, last.unet.config.sample_size)
        pixels = np.stack([np.asarray(image) for image in images])
        floats = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div(255)
        return replace(made, pixels=pixels, device_pixels=floats)

    def _withheld(self, pixels: torch.Tensor) -> list[str]:
        """Why each picture is withheld, empty where it is not."""
        if self.first.safety_checker is None:
            return [""] * len(pixels)
        images = pixels.float().div(2).add(0.5).nan_to_num(0.0).clamp(0, 1).cpu().permute(0, 2, 3, 1).numpy()
        _, unsafe, watermarked = self.first.run_safety_checker(images.copy(), self.device, self.dtype)
        reasons = {True: _UNSAFE, False: ""}
        return [
            reasons[a] or ("the model's own checker saw a watermark" if b else "")
            for a, b in zip(unsafe, watermarked, strict=True)
        ]


def _load_checker(folder: Path, dtype: torch.dtype) -> Any:
    """The safety checker of a stage's folder, None where it ships none."""
    if not (read_index(folder).get("safety_checker") or [None])[0]:
        return None
    from diffusers.pipelines.deepfloyd_if import IFSafetyChecker

    class Checker(IFSafetyChecker):
        """diffusers 0.42 leaves out what transformers 5 wants done at the end of a constructor."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.post_init()

    place = folder / "safety_checker"
    with refused_folders(place, "IFSafetyChecker"), quiet():
        return Checker.from_pretrained(str(place), dtype=dtype, use_safetensors=True, local_files_only=True)
