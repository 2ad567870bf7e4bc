"""ControlNets, LoRAs and IP-Adapters beside the tiny models, and requests for every operation of a latent engine."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assetmill.engines.operations import NEEDS, adapters_for
from assetmill.engines.protocols import ModelSpec
from assetmill.records import Reference, Request

TEXTS = ("a red mug", "a blue key", "")
NEGATIVES = ("blurry", "", "text")
SIZE = 32


def operation_requests(
    spec: ModelSpec, operation: str, count: int = 3, **changes: Any
) -> tuple[list[Request], dict[str, np.ndarray]]:
    """Requests for an operation that share a bucket, each with texts, seed and reference images of its own.

    The pictures are 32 x 32, as the requests are; a control map of each kind that the spec knows (one, if `kinds` says
    so) comes with `control`.
    """
    kinds = changes.pop("kinds", tuple(part.name for part in spec.parts if part.kind == "control")[:1])
    pictures: dict[str, np.ndarray] = {}
    first = Request(
        "diffusers", spec.epoch, spec.id, spec.revision, "", 0, SIZE, SIZE, steps=4,
        guidance=0.0 if spec.guidance_kind == "none" else 3.0, operation=operation,
        adapters=adapters_for(spec, operation, kinds),
    )  # fmt: skip
    requests = []
    for row in range(count):
        references = []
        for role in NEEDS[operation]:
            for kind in kinds if role == "control" else ("",):
                blob = f"{role}{kind}{row}".encode().hex().ljust(64, "0")
                pictures[blob] = tiny_mask(row) if role == "mask" else tiny_picture(row, role + kind)
                references.append(Reference(role, blob, kind=kind))
        negative = NEGATIVES[row % 3] if spec.guidance_kind == "classifier-free" else ""
        own: dict[str, Any] = {
            "positive": TEXTS[row % 3],
            "negative": negative,
            "seed": 100 + row,
            "references": tuple(references),
        }
        requests.append(replace(first, **{**own, **changes}))
    return requests, pictures


def tiny_picture(row: int, role: str = "init", size: int = SIZE) -> np.ndarray:
    """A smooth picture, uint8 (size, size, 3), another one for each row and role."""
    random = np.random.default_rng([row, *role.encode()])
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(6 * (x * a + y * b) + c) for a, b, c in random.normal(size=(3, 3))]
    return np.uint8(127 + 100 * np.stack(waves, -1))


def tiny_mask(row: int, size: int = SIZE) -> np.ndarray:
    """A mask, uint8 (size, size): 255 in a block that lies elsewhere for each row, 0 around it."""
    mask = np.zeros((size, size), np.uint8)
    start = 4 * (row % 3)
    mask[start : start + size // 2, 8 : 8 + size // 2] = 255
    return mask


def write_tiny_controlnet(folder: Path, base: Path, *, seed: int = 0) -> Path:
    """A ControlNet for the pipeline in `base`, with random weights also where training starts from zero."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    kind = json.loads((base / "model_index.json").read_text())["_class_name"]
    part = "unet" if (base / "unet").is_dir() else "transformer"
    denoiser = getattr(diffusers, json.loads((base / part / "config.json").read_text())["_class_name"]).from_pretrained(
        str(base / part)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what diffusers' own code asks of itself
        net = _make_net(kind, denoiser)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(str(folder))
    return folder


def write_tiny_sana_of_two(folder: Path) -> Path:
    """The tiny Sana with a second block: what a ControlNet says is added between blocks."""
    import torch
    from diffusers import SanaTransformer2DModel

    from tiny_families import write_tiny_sana

    write_tiny_sana(folder)
    config = SanaTransformer2DModel.load_config(str(folder / "transformer"))
    torch.manual_seed(0)
    SanaTransformer2DModel.from_config({**config, "num_layers": 2}).save_pretrained(str(folder / "transformer"))
    return folder


def write_tiny_lora(file: Path, base: Path, *, seed: int = 0, text: bool = False) -> Path:
    """A LoRA for the denoiser of the pipeline in `base` (and its first text encoder), as diffusers' trainers save."""
    import torch
    from diffusers import DiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(seed)
    pipeline = DiffusionPipeline.from_pretrained(str(base))
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    denoiser = getattr(pipeline, part)
    config = {"r": 4, "lora_alpha": 8, "init_lora_weights": False}
    denoiser.add_adapter(LoraConfig(**config, target_modules=["to_q", "to_k", "to_v"]))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(denoiser)}
    if text:
        pipeline.text_encoder.add_adapter(
            LoraConfig(**config, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
        )
        layers["text_encoder_lora_layers"] = get_peft_model_state_dict(pipeline.text_encoder)
    pipeline.save_lora_weights(str(file.parent), weight_name=file.name, **layers)
    return file


def write_tiny_ip_adapter(folder: Path, base: Path, *, seed: int = 0, projection: int = 16) -> Path:
    """An IP-Adapter for the UNet in `base`, `ip-adapter.safetensors`, with its image encoder beside it."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(str(base / "unet"))
    width = unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * width, projection),
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(cross):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for letter in "kv":
            tensors[f"ip_adapter.{2 * number + 1}.to_{letter}_ip.weight"] = torch.randn(hidden, width) / 4
    folder.mkdir(parents=True, exist_ok=True)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=8, projection_dim=projection,
        )
    ).save_pretrained(str(folder / "image_encoder"))  # fmt: skip
    save_file(tensors, str(folder / "ip-adapter.safetensors"))
    return folder / "ip-adapter.safetensors"


def _make_net(kind: str, denoiser: Any) -> Any:
    """The ControlNet that goes with a denoiser of a pipeline class."""
    import diffusers

    if "Flux" in kind or "QwenImage" in kind:
        same = {name: denoiser.config[name] for name in ("num_attention_heads", "attention_head_dim")}
        if "Flux" in kind:
            return diffusers.FluxControlNetModel.from_transformer(denoiser, num_layers=1, num_single_layers=1, **same)
        return diffusers.QwenImageControlNetModel.from_transformer(denoiser, num_layers=1, **same)
    if "ZImage" in kind:
        return diffusers.ZImageControlNetModel(
            control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=16, dim=32,
            n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        )  # fmt: skip
    if "Sana" in kind:
        config = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
        names = inspect.signature(diffusers.SanaControlNetModel).parameters
        return diffusers.SanaControlNetModel(**{name: value for name, value in config.items() if name in names})
    if kind == "StableDiffusion3Pipeline":
        return diffusers.SD3ControlNetModel.from_transformer(
            denoiser, num_layers=1, num_extra_conditioning_channels=0, load_weights_from_transformer=False
        )
    return diffusers.ControlNetModel.from_unet(denoiser, conditioning_embedding_out_channels=(16, 32))
