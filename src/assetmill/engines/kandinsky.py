"""Kandinsky 2.2, the open line of unCLIP (Ramesh et al. 2022): a prior from text to CLIP's image space, and a decoder.

The image space between them is what the operations work in: a reference image goes in as its own embedding, and two
pictures or captions are mixed by mixing theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import free_gib, memory_errors, pick_device, pick_dtype
from assetmill.engines.latent_loading import arrange
from assetmill.engines.loading import (
    check_batch,
    fitting_batch,
    hand_over,
    library_versions,
    load_stage,
    make_scheduler,
    seeded,
)
from assetmill.engines.protocols import EngineError, Generated, ModelSpec, OnStep
from assetmill.engines.stage_folders import (
    check_pin,
    find_stages,
    licence_of,
    revision_of,
    shipped_settings,
    token_limit,
    verify_stages,
    weights_gib,
)
from assetmill.records import Problem, Request

if TYPE_CHECKING:
    import torch

    from assetmill.config import ModelConfig

EPOCH = 1
"""Raised by hand when this engine makes other pictures of the same request."""

CLASSES = {"decoder": "KandinskyV22Pipeline", "prior": "KandinskyV22PriorPipeline"}
OPERATIONS = ("text-to-image", "variation", "interpolation")
OPTIONS = ("caption_to", "caption_weight", "prior_guidance", "prior_steps")
SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler")
"""Those whose input needs no scaling: this pipeline scales none."""

GIB_PER_IMAGE = 4.0


def resolve_kandinsky(config: ModelConfig, resolve: Callable[[Path | str], Path]) -> ModelSpec:
    """What is known of a Kandinsky 2.2 before it is loaded. Never imports torch. Raises InputError.

    `model.source` is a folder that holds `decoder/` and `prior/`, or the decoder, with the prior in
    `model.stages.prior`.
    """
    stages = find_stages(config, resolve, CLASSES)
    revision = revision_of(stages)
    check_pin(config, stages, revision)
    decoder, prior = stages["decoder"], stages["prior"]
    factor = 2 ** (len(decoder.config("movq").get("block_out_channels") or (1, 2, 3, 4)) - 1)
    side = int(decoder.config("unet").get("sample_size") or 64) * factor
    settings = shipped_settings(stages)
    licence, commercial = licence_of(stages)
    return ModelSpec(
        id=decoder.id,
        engine="kandinsky",
        epoch=EPOCH,
        revision=revision,
        family="kandinsky-2.2",
        licence=licence,
        commercial=commercial,
        operations=OPERATIONS,
        width=int(settings.get("width", side)),
        height=int(settings.get("height", side)),
        steps=int(settings.get("steps", 50)),
        guidance=float(settings.get("guidance", 4.0)),
        size_multiple=factor**2,  # the pipeline rounds latents up to multiples of the factor
        token_limit=token_limit(prior.folder / "tokenizer", 77),
        gib=weights_gib(stages),
        folder=str(prior.folder),
        option_names=OPTIONS,
        stages=tuple(stage.spec_entry for stage in stages.values()),
        schedulers=SCHEDULERS,
    )


class KandinskyGenerator:
    """Kandinsky 2.2 as a Generator: text to image, variations of a reference, and interpolation.

    Both stages draw from their own CPU generator with the picture's seed.

    - `variation`: the reference with the role `image`, by its weight; what its weight leaves (1 - weight) is the
      prompt's.
    - `interpolation`: from `image`, or the prompt where there is none, to `image-to`, or the option `caption_to`; the
      weight of `image-to`, or the option `caption_weight`, says how far: 0 is all start, 1 all end.

    A negative prompt goes through the prior as the prompt does, and takes the place of the black picture that the
    decoder's guidance otherwise leads away from. The options `prior_steps` (25) and `prior_guidance` (4.0) are the
    prior's; steps, guidance and scheduler of a request the decoder's.

    Raises EngineError where the folders cannot be loaded, OutOfMemory where they do not fit the device.
    """

    def __init__(self, spec: ModelSpec, config: ModelConfig) -> None:
        from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline

        verify_stages(spec)
        self.spec = spec
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        folders = {name: Path(folder) for name, folder, _ in spec.stages}
        with memory_errors(f"the model {spec.id} (about {spec.gib:.1f} GiB, {free_gib(self.device):.1f} GiB free)"):
            self.prior = load_stage(KandinskyV22PriorPipeline, folders["prior"], self.dtype)
            self.decoder = load_stage(KandinskyV22Pipeline, folders["decoder"], self.dtype)
            if config.offload:
                self.prior.enable_model_cpu_offload(device=self.device)
            else:
                self.prior.to(self.device)
            arrange(self.decoder, self.device, config)
        self._scheduler = self.decoder.scheduler

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
        ends = _ends(batch, references or {})
        first = batch[0]
        start = time.perf_counter()
        what = f"a batch of {len(batch)} at {first.width}x{first.height}"
        with memory_errors(what), torch.inference_mode():
            embeds, negative_embeds = self._mix(batch, ends)
            self.decoder.scheduler = make_scheduler(self.decoder, self._scheduler, first.scheduler, SCHEDULERS)
            try:
                result = self.decoder(
                    image_embeds=embeds,
                    negative_image_embeds=negative_embeds,
                    width=first.width,
                    height=first.height,
                    num_inference_steps=first.steps,
                    guidance_scale=first.guidance,
                    generator=seeded(batch),
                    output_type="pt",
                )
            except ValueError as error:
                raise EngineError(f"{self.spec.id} refused {what}: {error}") from error
            return hand_over(result.images, start)

    def fitting_batch(self, width: int, height: int) -> int:
        """A batch size to start from; halve it if it doesn't fit."""
        return fitting_batch(self.device, width, height, GIB_PER_IMAGE)

    def versions(self) -> Mapping[str, str]:
        """Library versions, device and dtype, to record beside candidates."""
        return library_versions(self.device, self.dtype)

    # --- inside -----------------------------------------------------------------------------------------------

    def _mix(
        self, batch: Sequence[Request], ends: Sequence[tuple[float, Sequence[Any]]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image embeddings (N, D) of a batch and those to lead away from."""

        total: Any = 0
        negative: torch.Tensor | None = None
        for weight, items in ends:
            if isinstance(items[0], str):
                embeds, away = self._imagine(batch, items)
                negative = away if negative is None else negative
            else:
                embeds = self._look_at(items)
            total = total + weight * embeds
        if negative is None:
            negative = self._nothing(len(batch))
            for row, request in enumerate(batch):
                if request.negative:
                    # guidance 1: what the prior makes of the text alone, as beside a prompt
                    negative[row] = self._run_prior([request], [request.negative], None, 1.0)[0][0]
        return total.to(self.decoder.unet.dtype), negative.to(self.decoder.unet.dtype)

    def _imagine(self, batch: Sequence[Request], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The prior's image embeddings of texts, and the negative ones. Requests with a negative prompt go apart."""
        import torch

        rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for named in (False, True):
            picked = [row for row, request in enumerate(batch) if bool(request.negative) is named]
            if not picked:
                continue
            negatives = [batch[row].negative for row in picked] if named else None
            guidance = float(dict(batch[0].options).get("prior_guidance", 4.0))
            result = self._run_prior(
                [batch[row] for row in picked], [texts[row] for row in picked], negatives, guidance
            )
            rows |= {row: (result[0][i], result[1][i]) for i, row in enumerate(picked)}
        order = range(len(batch))
        return torch.stack([rows[row][0] for row in order]), torch.stack([rows[row][1] for row in order])

    def _run_prior(
        self, batch: Sequence[Request], texts: Sequence[str], negatives: list[str] | None, guidance: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        steps = int(dict(batch[0].options).get("prior_steps", 25))
        # with negative texts the pipeline doubles the batch, and needs a generator for each half
        generators = seeded(batch) if negatives is None else [*seeded(batch), *seeded(batch)]
        result = self.prior(
            list(texts),
            negative_prompt=negatives,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        )
        return result.image_embeds, result.negative_image_embeds

    def _look_at(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """CLIP's embeddings (N, D) of pictures, uint8 (H, W, 3) of any size."""
        import torch
        from PIL import Image

        encoder = self.prior.image_encoder
        # one by one: pictures of several sizes make no one array
        process = self.prior.image_processor
        values = [process(Image.fromarray(image), return_tensors="pt").pixel_values for image in images]
        return encoder(torch.cat(values).to(device=self.device, dtype=encoder.dtype)).image_embeds

    def _nothing(self, count: int) -> torch.Tensor:
        """The embedding of a black picture, once per picture."""
        return self.prior.get_zero_embed(count, device=self.device).clone()


def check_mix(request: Request) -> list[Problem]:
    """What in a request's references and captions cannot be mixed. Torch-free: a plan refuses it."""
    problems = []

    def add(column: str, message: str, way_out: str) -> None:
        problems.append(Problem(message, way_out, column=column))

    options = dict(request.options)
    roles = [reference.role for reference in request.references]
    captioned = [name for name in ("caption_to", "caption_weight") if name in options]
    if request.operation != "interpolation":
        for name in captioned:
            add(f"options.{name}", f"{name} has no meaning for {request.operation}", "remove it")
    else:
        for role in dict.fromkeys(roles):
            if role not in ("image", "image-to"):
                add(role, f"interpolation takes no reference image of the role {role!r}", "remove it")
        if "image-to" in roles and captioned:
            add("image-to", "an interpolation has one end", "give image-to or the option caption_to, not both")
        elif "image-to" not in roles and "caption_to" not in options:
            add("image-to", "an interpolation needs an end", "give image-to, or the option caption_to")
    for role in dict.fromkeys(roles):
        if roles.count(role) > 1:
            add(role, f"{request.operation} takes one {role}, not {roles.count(role)}", "give one")
    weights: list[tuple[str, Any]] = [("weight", reference.weight) for reference in request.references]
    weights += [("options.caption_weight", options[name]) for name in captioned[-1:] if name == "caption_weight"]
    for column, weight in weights:
        if not isinstance(weight, int | float) or not 0 <= weight <= 1:
            add(column, f"the weight {weight} is outside [0, 1]", "give a number from 0 to 1")
    steps, guidance = options.get("prior_steps", 25), options.get("prior_guidance", 4.0)
    if not isinstance(steps, int) or steps < 1:
        add("options.prior_steps", f"{steps!r} is no number of steps", "give a whole number of 1 or more")
    if not isinstance(guidance, int | float) or guidance < 0:
        add("options.prior_guidance", f"{guidance!r} is no guidance", "give a number of 0 or more")
    return problems


def _ends(batch: Sequence[Request], references: Mapping[str, np.ndarray]) -> list[tuple[float, list[Any]]]:
    """What is mixed, as weights and items (a text or an image per request)."""
    first = batch[0]
    options = dict(first.options)
    texts: list[Any] = [request.positive for request in batch]
    weights = {reference.role: reference.weight for reference in first.references}
    images: dict[str, list[Any]] = {role: [_image(request, role, references) for request in batch] for role in weights}
    if first.operation == "text-to-image":
        return [(1.0, texts)]
    if first.operation == "variation":
        weight = weights["image"]
        return [(weight, images["image"])] + ([(1 - weight, texts)] if weight < 1 else [])
    if "image-to" in weights:
        weight, end = weights["image-to"], images["image-to"]
    else:
        weight, end = float(options.get("caption_weight", 0.5)), [str(options["caption_to"])] * len(batch)
    return [(1 - weight, images.get("image", texts)), (weight, end)]


def _image(request: Request, role: str, references: Mapping[str, np.ndarray]) -> np.ndarray:
    blob = next((reference.blob for reference in request.references if reference.role == role), "")
    if blob not in references:
        raise EngineError(f"the reference image {role!r} ({blob[:12]}) was not handed to the engine")
    return references[blob]
