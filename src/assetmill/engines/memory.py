"""What a model needs of a device's memory, told from its files before any of them is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from assetmill.engines.devices import free_gib, pick_device, pick_dtype
from assetmill.engines.folders import safetensors_header
from assetmill.engines.protocols import ModelSpec, OutOfMemory

if TYPE_CHECKING:
    import torch

    from assetmill.config import ModelConfig

_VARIANT = re.compile(r".+\.[a-z][a-z0-9]*(?:-\d+-of-\d+)?\.safetensors")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def needed_gib(spec: ModelSpec, config: ModelConfig, dtype: str = "float32") -> float:
    """About how many GiB of the device's memory a model's weights take in a number format.

    Counted from the headers of its files: all of its parts, or with `offload` on a GPU the largest. Working memory
    comes on top. Where there are no files to look at, what the spec says.
    """
    folders = [Path(folder) for _, folder, _ in spec.stages] or ([Path(spec.folder)] if spec.folder else [])
    folders += [Path(part.path) for part in spec.parts if part.kind == "control"]
    parts = [count for folder in folders for count in _parameters(folder)]
    if not parts:
        return spec.gib
    count = max(parts) if config.offload else sum(parts)
    return count * _BYTES[dtype] / 2**30


def check_memory(spec: ModelSpec, config: ModelConfig) -> None:
    """Raises OutOfMemory, with what would help, where a model's weights alone don't fit its device."""
    device = pick_device(config.device)
    dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
    need, free = needed_gib(spec, config, dtype), free_gib(device)
    if need > free:
        ways = list(_ways_out(spec, config, device, dtype, free))
        raise OutOfMemory(
            f"{spec.id} needs about {need:.1f} GiB in {dtype} on {device}, {free:.1f} GiB are free: "
            f"try {', '.join(ways)}"
        )


def _ways_out(
    spec: ModelSpec, config: ModelConfig, device: torch.device, dtype: str, free: float
) -> Iterator[str]:  # fmt: skip
    """What would make a model fit; only what would, but for the last one."""
    half = "bfloat16"
    if dtype == "float32" and (need := needed_gib(spec, config, half)) <= free:
        yield f"model.dtype: {half} (about {need:.1f} GiB)"
    if device.type == "cuda" and not config.offload:
        other = config.model_copy(update={"offload": True})
        if (need := needed_gib(spec, other, dtype)) <= free:
            yield f"model.offload: true (about {need:.1f} GiB at a time)"
    if device.type == "cuda" and config.device == "auto":
        yield "another GPU by model.device"
    yield "a smaller model, or end what else uses the memory"


def _parameters(folder: Path) -> Iterator[int]:
    """How many numbers each part of a model folder holds. Files of a part that come in two formats count once."""
    for part in (folder, *sorted(p for p in folder.glob("*") if p.is_dir())):
        files = sorted(part.glob("*.safetensors"))
        plain = [file for file in files if not _VARIANT.fullmatch(file.name)]
        count = sum(_count(file) for file in plain or files)
        if count:
            yield count


def _count(file: Path) -> int:
    total = 0
    try:
        header = safetensors_header(file)
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # what is wrong with it is said where it is loaded
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for side in entry["shape"]:
                size *= side
            total += size
    return total
