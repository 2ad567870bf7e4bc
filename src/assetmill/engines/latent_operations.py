"""The pipelines of a latent model's operations, all over the same weights, and what each is given.

One class of diffusers per operation (`facts.Does`): it is made when a batch first asks for it and costs no memory but a
ControlNet's. What a request says by its references becomes the arguments that the class knows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines import facts
from assetmill.engines.control import ControlNets, steady_encoding
from assetmill.engines.framing import check_masks, compose, framed, of_role
from assetmill.engines.image_prompt import ImagePrompt
from assetmill.engines.latent_loading import share
from assetmill.engines.operations import strength_of
from assetmill.engines.protocols import ModelSpec
from assetmill.records import Request

if TYPE_CHECKING:
    import torch

_STARTS = ("image-to-image", "inpaint", "keep-product")
_GLOBAL_NOISE = ("StableDiffusion3ControlNetPipeline",)
"""Pipelines that encode their maps with torch's global noise."""


@dataclass(frozen=True)
class Prepared:
    """A pipeline ready for one batch: its own arguments, and the parameters that it takes at all.

    `during` is entered around the call. `finish` is applied to its pictures, floats (N, 3, H, W) in [0, 1], in the
    order of the batch, before they count as the model's.
    """

    pipeline: Any
    names: frozenset[str]
    arguments: Mapping[str, Any]
    during: AbstractContextManager[None]
    finish: Callable[[torch.Tensor], torch.Tensor]


class OperationPipelines:
    """What a spec's operations run with. `base` is the pipeline that was loaded; `ready` is told of each one made."""

    def __init__(
        self, base: Any, spec: ModelSpec, device: torch.device, dtype: torch.dtype, ready: Callable[[Any], None]
    ) -> None:
        family = facts.family_named(spec.family)
        self.base = base
        self.spec = spec
        self.device = device
        self.does = family.does if family else facts.Does()
        self._ready = ready
        controls = {part.name: part for part in spec.parts if part.kind == "control"}
        self._nets = ControlNets(controls, self.does.controlnet, dtype, device)
        adapter = next((part for part in spec.parts if part.kind == "ip-adapter"), None)
        self._image_prompt = ImagePrompt(base, adapter, device, dtype) if adapter else None
        self._made: dict[tuple[str, ...], tuple[Any, frozenset[str]]] = {}

    def prepare(self, batch: Sequence[Request], pictures: Mapping[str, np.ndarray], *, guided: bool) -> Prepared:
        """The pipeline for the operation of a batch, and what its references become.

        `pictures` maps blob hashes to uint8 arrays. `guided`: classifier-free guidance runs, two forwards a step.
        Raises EngineError for references that are missing or do not fit.
        """
        operation = batch[0].operation
        if self._image_prompt is not None:
            self._image_prompt.switch(operation == "variation")
        if operation == "control":
            return self._prepare_control(batch, pictures)
        if operation in _STARTS:
            return self._prepare_start(batch, pictures)
        pipeline, names = self._pipeline(type(self.base).__name__)
        if operation == "variation":
            assert self._image_prompt is not None  # an operation of the spec only with one
            images = self._image_prompt.arguments(batch, pictures, guided)
            return Prepared(pipeline, names, images, self._image_prompt.rows(), _as_it_is)
        return Prepared(pipeline, names, {}, nullcontext(), _as_it_is)

    # --- inside -----------------------------------------------------------------------------------------------

    def _prepare_start(self, batch: Sequence[Request], pictures: Mapping[str, np.ndarray]) -> Prepared:
        operation = batch[0].operation
        images = framed(batch, "init", pictures)
        arguments = {"image": images, "strength": strength_of(batch[0])}
        if operation == "image-to-image":
            pipeline, names = self._pipeline(self.does.image_to_image)
            return Prepared(pipeline, names, arguments, nullcontext(), _as_it_is)
        check_masks(batch, pictures)
        masks = framed(batch, "mask", pictures)
        if operation == "keep-product":
            masks = [mask.point(lambda level: 255 - level) for mask in masks]
        pipeline, names = self._pipeline(self.does.inpaint)

        def put_back(made: torch.Tensor) -> torch.Tensor:
            kept, inside = _floats(images).movedim(-1, 1), _floats(masks)[:, None]
            return compose(made, kept.to(made.device), inside.to(made.device))

        # what keeping a product cost is measured on the picture as it was made, and only then is the product put back
        finish = put_back if operation == "inpaint" else _as_it_is
        return Prepared(pipeline, names, {**arguments, "mask_image": masks}, nullcontext(), finish)

    def _prepare_control(self, batch: Sequence[Request], pictures: Mapping[str, np.ndarray]) -> Prepared:
        references = of_role(batch[0], "control")  # a bucket's requests share kinds and weights, in their order
        kinds = tuple(reference.kind for reference in references)
        nets = [self._nets.get(kind) for kind in kinds]
        several = len(nets) > 1
        pipeline, names = self._pipeline(self.does.control, *kinds, controlnet=nets if several else nets[0])
        maps = [framed(batch, "control", pictures, index) for index in range(len(kinds))]
        weights = [reference.weight for reference in references]
        arguments = {
            # a list for each of several nets would be taken for a list for each picture: tensors (N, 3, H, W)
            self.does.control_argument: [_floats(m).movedim(-1, 1) for m in maps] if several else maps[0],
            "controlnet_conditioning_scale": weights if several else weights[0],
        }
        during = steady_encoding(pipeline.vae) if self.does.control in _GLOBAL_NOISE else nullcontext()
        return Prepared(pipeline, names, arguments, during, _as_it_is)

    def _pipeline(self, class_name: str, *kinds: str, **parts: Any) -> tuple[Any, frozenset[str]]:
        """The pipeline of a class (made once) and the names of its parameters."""
        key = (class_name, *kinds)
        if key not in self._made:
            same = class_name == type(self.base).__name__
            pipeline = self.base if same else share(self.base, class_name, **parts)
            self._ready(pipeline)
            self._made[key] = pipeline, frozenset(inspect.signature(pipeline.__call__).parameters)
        return self._made[key]


def _as_it_is(pictures: torch.Tensor) -> torch.Tensor:
    return pictures


def _floats(images: Sequence[Any]) -> torch.Tensor:
    """PIL images of one size as floats in [0, 1], (N, H, W, 3) or (N, H, W)."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).float().div(255)
