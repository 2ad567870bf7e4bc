"""Puts trained models into the folders that the field's loaders read, in fp16."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.starter.locations import ShippedSettings
from assetmill.starter.models import make_scheduler, make_text_encoder, save_half

if TYPE_CHECKING:
    import torch

SHIPPED = ShippedSettings(steps=16, guidance=1.0, size=64, scheduler="DDIMScheduler")


def write_pipeline(
    folder: Path,
    tokenizer_folder: Path,
    vae: torch.nn.Module,
    unet: torch.nn.Module,
    text_encoder: torch.nn.Module | None = None,
    settings: ShippedSettings = SHIPPED,
) -> None:
    """Write a diffusers folder (fp16 safetensors) and the settings it is shipped with."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder or new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=_half())
    pipeline.save_pretrained(str(folder))
    _edit_json(folder / "text_encoder" / "config.json", dtype="float32")
    _edit_json(folder / "vae" / "config.json", block_out_channels=None)
    (folder / "assetmill.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")


def write_upscaler(folder: Path, upscaler: torch.nn.Module) -> None:
    """Write the upscaler's fp16 weights under the key names that spandrel recognises."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(upscaler, folder / "starter-x4.safetensors")
    about = {"architecture": "SRVGGNetCompact", "scale": 4, "num_feat": 32, "num_conv": 8, "range": [0, 1]}
    (folder / "starter-x4.json").write_text(json.dumps(about, indent=1) + "\n")


def write_judge(folder: Path, judge: torch.nn.Module) -> None:
    """Write the judge's fp16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(judge, folder / "judge.safetensors")


def new_text_encoder(tokenizer: object) -> torch.nn.Module:
    """Return an untrained text encoder that fits a tokenizer."""
    return make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)  # type: ignore[arg-type, attr-defined]


def folder_megabytes(folder: Path) -> float:
    """Return the size of all files below a folder, in MB (10^6 bytes)."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _edit_json(file: Path, **changes: object) -> None:
    """Set keys of a JSON file; None removes the key.

    Two notes in the saved configs would harm: transformers would load half precision beside a float32
    UNet, and diffusers would warn about a key that it wrote itself.
    """
    content = {**json.loads(file.read_text()), **changes}
    kept = {name: value for name, value in content.items() if name not in changes or value is not None}
    file.write_text(json.dumps(kept, indent=2) + "\n")


def _half() -> object:
    import torch

    return torch.float16
