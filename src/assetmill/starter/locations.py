"""Where the shipped starter models lie, and the settings they are meant to be sampled with. Loads no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class ShippedSettings:
    """Sampler settings that the published figures were measured at; `size` in pixels a side."""

    steps: int
    guidance: float
    size: int
    scheduler: str


def pipeline_folder(weights: Path = WEIGHTS) -> Path:
    """Return the folder that `StableDiffusionPipeline.from_pretrained` loads."""
    return _existing(weights / "pipeline", "model_index.json")


def preview_folder(weights: Path = WEIGHTS) -> Path:
    """Return the folder of the `AutoencoderTiny` that shows half-made pictures (decoder only)."""
    return _existing(weights / "preview", "config.json")


def clip_folder(weights: Path = WEIGHTS) -> Path:
    """Return the folder for open_clip's `local-dir:` scheme (model and tokenizer)."""
    return _existing(weights / "clip", "open_clip_config.json")


def upscaler_file(weights: Path = WEIGHTS) -> Path:
    """Return the safetensors file that spandrel's `ModelLoader` reads (×4, compact SRVGG)."""
    return _existing(weights / "upscaler", "starter-x4.safetensors") / "starter-x4.safetensors"


def judge_file(weights: Path = WEIGHTS) -> Path:
    """Return the judge's safetensors file; see `assetmill.starter.judge.load_judge`."""
    return _existing(weights / "judge", "judge.safetensors") / "judge.safetensors"


def shipped_settings(weights: Path = WEIGHTS) -> ShippedSettings:
    """Return the steps, guidance, size and scheduler that the pack is shipped with."""
    return ShippedSettings(**json.loads((pipeline_folder(weights) / "assetmill.json").read_text()))


def _existing(folder: Path, needed: str) -> Path:
    if not (folder / needed).is_file():
        raise FileNotFoundError(
            f"{folder / needed} is missing: install assetmill with its package data, "
            "or make the weights with `python -m assetmill.starter.train all --out DIR`"
        )
    return folder
