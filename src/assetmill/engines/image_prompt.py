"""Reference images as prompts: an IP-Adapter beside a UNet, for variations of a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines import facts
from assetmill.engines.adapters import layer_shapes
from assetmill.engines.folders import (
    PICKLES,
    check_weights,
    fingerprint_folder,
    hash_files,
    read_json,
    safetensors_header,
)
from assetmill.engines.framing import of_role
from assetmill.engines.protocols import EngineError, Part
from assetmill.engines.recent import RecentTensors
from assetmill.records import InputError, Problem, Request, content_key

if TYPE_CHECKING:
    import torch


def resolve_ip_adapter(file: Path, folder: Path, does: facts.Does, unet: Mapping[str, Any]) -> Part:
    """An IP-Adapter file as a part of the model in `folder`, with the image encoder beside it, without loading either.

    The image encoder is the folder `image_encoder` beside the file or one level up, as IP-Adapters are published. The
    part's hash covers both. Raises InputError for what cannot be used, or was made for another base.
    """

    def refuse(message: str, way_out: str, place: Path = file) -> InputError:
        return InputError(Problem(message, way_out, file=str(place), column="model.ip_adapter"))

    if not does.ip_adapter:
        raise refuse("this model's family takes no IP-Adapter", "remove it, or choose SD 1.5, SDXL or LCM")
    if file.suffix in PICKLES:
        raise refuse("is a pickle, which runs code when it is read", "take the .safetensors file of the same name")
    if not file.is_file():
        raise refuse("there is no such file", "give the path of an IP-Adapter's .safetensors file")
    try:
        header = safetensors_header(file)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise refuse(f"is not valid safetensors ({error})", "download or copy the file again") from error
    keys = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    queries = [shape for name, shape in keys.items() if name.startswith("ip_adapter.") and "to_k_ip" in name]
    if not queries or not any(name.startswith("image_proj.") for name in keys):
        raise refuse("is not an IP-Adapter", "give the .safetensors file of one (image_proj and ip_adapter layers)")
    if any("lora" in name for name in keys):
        raise refuse("reads faces, not pictures (FaceID)", "take an IP-Adapter that reads CLIP's images, plain or Plus")
    width = unet.get("cross_attention_dim")
    if isinstance(width, int) and queries[0][1] != width:
        raise refuse(
            f"was made for another base: its images become {queries[0][1]} numbers a token, this model reads {width}",
            "take the IP-Adapter of this model's family",
        )
    layers = [name for name in layer_shapes(folder / "unet") if name.endswith("attn2_to_k")]
    if layers and len(layers) != len(queries):
        raise refuse(
            f"was made for another base: it has {len(queries)} attention layers, this model {len(layers)}",
            "take the IP-Adapter of this model's family",
        )
    encoder = find_image_encoder(file)
    if encoder is None:
        raise refuse(
            "there is no folder `image_encoder` beside it or one level up",
            "copy the CLIP vision model (config.json and model.safetensors) that its card names there",
        )
    files = {p.name: p for p in sorted(encoder.iterdir()) if p.is_file()}
    problems = [replace(problem, column="model.ip_adapter") for problem in check_weights(files, encoder)]
    if not any(encoder.glob("*.safetensors")):
        problems.append(
            Problem("has no safetensors weights", "take a revision with safetensors", str(encoder),
                    column="model.ip_adapter")
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    sizes = read_json(encoder / "config.json")
    for layer, setting in (("proj", "projection_dim"), ("proj_in", "hidden_size")):
        reads, gives = keys.get(f"image_proj.{layer}.weight"), sizes.get(setting)
        if reads is not None and gives is not None and reads[1] != gives:
            raise refuse(
                f"gives {gives} numbers for an image, and the IP-Adapter reads {reads[1]}",
                "take the image encoder that the IP-Adapter's card names",
                encoder,
            )
    return Part("ip-adapter", file.stem, str(file), fingerprint(file, encoder))


def find_image_encoder(file: Path) -> Path | None:
    """The image encoder's folder that goes with an IP-Adapter file."""
    for folder in (file.parent, file.parent.parent):
        if (folder / "image_encoder" / "config.json").is_file():
            return folder / "image_encoder"
    return None


def fingerprint(file: Path, encoder: Path, *, trust_cache: bool = True) -> str:
    """64 hex digits over the bytes of the adapter and of its image encoder."""
    adapter = hash_files([file], trust_cache=trust_cache)[file]
    return content_key("ip-adapter", {"file": adapter, "encoder": fingerprint_folder(encoder, trust_cache=trust_cache)})


class ImagePrompt:
    """An IP-Adapter on a pipeline: put on for a batch of variations, taken off for everything else.

    Its UNet cannot run without images while it is on. Embeddings of the latest images are remembered.
    """

    def __init__(self, pipeline: Any, part: Part, device: torch.device, dtype: torch.dtype) -> None:
        self.pipeline = pipeline
        self.part = part
        self.device = device
        self.dtype = dtype
        self.is_on = False
        self.recent = RecentTensors(64 * 2**20)
        self._encoder: Any = None

    def switch(self, on: bool) -> None:
        """Puts the adapter on the pipeline's UNet, or takes it off. Raises EngineError where it does not fit."""
        from assetmill.engines.latent_loading import quiet

        if on == self.is_on:
            return
        if not on:
            self.pipeline.unload_ip_adapter()
            self.is_on = False
            return
        path = Path(self.part.path)
        if self._encoder is None:
            self._encoder = self._load_encoder(path)
        self.pipeline.register_modules(image_encoder=self._encoder)
        try:
            with quiet():
                self.pipeline.load_ip_adapter(
                    str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None,
                    local_files_only=True,
                )  # fmt: skip
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            raise EngineError(
                f"{path}: the IP-Adapter does not fit the model ({str(error)[:300]}); take its family's own"
            ) from error
        self.is_on = True

    def arguments(
        self, batch: Sequence[Request], pictures: Mapping[str, np.ndarray], guided: bool
    ) -> dict[str, list[torch.Tensor]]:
        """The pipeline's argument for a batch: per row the embeddings of its images, and of none before them.

        One tensor (2 N or N, images, numbers) or, where the adapter reads hidden states, one dimension more.
        """
        import torch

        self.pipeline.set_ip_adapter_scale(batch[0].references[0].weight)
        rows = [[self._embed(r.blob, pictures) for r in of_role(request, "image")] for request in batch]
        positive = torch.stack([torch.cat([image["image"] for image in row]) for row in rows])
        if not guided:
            return {"ip_adapter_image_embeds": [positive]}
        negative = torch.stack([torch.cat([image["none"] for image in row]) for row in rows])
        return {"ip_adapter_image_embeds": [torch.cat([negative, positive])]}

    @contextmanager
    def rows(self) -> Iterator[None]:
        """While this lasts the pipeline takes the embeddings as they are, a row per picture.

        Left alone it would repeat all of them for each picture, as if every picture had been given all images.
        """

        def as_given(image: Any, embeds: list[torch.Tensor], device: Any, *_: Any) -> list[torch.Tensor]:
            return [tensor.to(device) for tensor in embeds]

        self.pipeline.prepare_ip_adapter_image_embeds = as_given
        try:
            yield
        finally:
            del self.pipeline.prepare_ip_adapter_image_embeds

    def _embed(self, blob: str, pictures: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        held = self.recent.get(blob)
        if held is None:
            if blob not in pictures:
                raise EngineError(f"the reference {blob[:12]} (image) was not given to the engine")
            from diffusers.models import ImageProjection
            from PIL import Image

            layers = self.pipeline.unet.encoder_hid_proj.image_projection_layers
            hidden = not isinstance(layers[0], ImageProjection)  # finer adapters read the encoder's hidden states
            image, none = self.pipeline.encode_image(Image.fromarray(pictures[blob]), self.device, 1, hidden)
            held = {"image": image.clone(), "none": none.clone()}
            self.recent.put(blob, held)
        return held

    def _load_encoder(self, path: Path) -> Any:
        from transformers import CLIPVisionModelWithProjection

        folder = find_image_encoder(path)
        if folder is None or fingerprint(path, folder, trust_cache=False) != self.part.sha256:
            raise EngineError(f"{path}: the IP-Adapter or its encoder changed since it was planned; plan again")
        encoder = CLIPVisionModelWithProjection.from_pretrained(
            str(folder), dtype=self.dtype, use_safetensors=True, local_files_only=True
        )
        return encoder.eval().requires_grad_(False).to(self.device)
