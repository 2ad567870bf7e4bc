"""What every engine over diffusers or transformers does around a model: load its folder, check a batch, hand over."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import free_gib, to_bytes
from assetmill.engines.latent_loading import quiet
from assetmill.engines.model_folder import find_variant
from assetmill.engines.protocols import EngineError, Generated, ModelSpec, OnStep
from assetmill.engines.registry import check_request
from assetmill.records import Request

if TYPE_CHECKING:
    import torch


def load_stage(pipeline_class: Any, folder: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """A diffusers pipeline from a folder: safetensors only, nothing fetched, its modules frozen.

    Raises EngineError where the folder cannot be loaded.
    """
    with refused_folders(folder, pipeline_class.__name__), quiet():
        pipeline = pipeline_class.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=find_variant(folder),
            **settings,
        )
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if hasattr(part, "requires_grad_"):
            part.eval().requires_grad_(False)
    return pipeline


@contextmanager
def refused_folders(folder: Path, what: str) -> Iterator[None]:
    """Turns what libraries raise over a folder into EngineError; running out of memory passes through."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        if "out of memory" in str(error).lower() or "can't allocate" in str(error):
            raise
        raise EngineError(
            f"{folder} cannot be loaded by {what}: {error}; check that it is a complete folder of that class"
        ) from error


def check_batch(spec: ModelSpec, batch: Sequence[Request], on_step: OnStep | None) -> None:
    """Refuses, with EngineError, a batch of several buckets, what the model cannot honour, and watching it."""
    bucket = batch[0].bucket
    for request in batch:
        if request.bucket != bucket:
            raise EngineError("requests of one batch must share their bucket (all but texts, seed and references)")
        problems = check_request(spec, request)
        if problems:
            raise EngineError("; ".join(map(str, problems)))
    for name, _ in batch[0].options:
        if name not in spec.option_names:
            raise EngineError(f"{spec.id} does not take the option {name!r}; remove it")
    if batch[0].adapters:
        raise EngineError(f"the engine {spec.engine!r} takes no adapters; remove them")
    if on_step is not None:
        raise EngineError(f"{spec.id} ({spec.family}) cannot be watched mid-way; turn cutting off for this model")


def make_scheduler(pipeline: Any, own: Any, name: str, allowed: Sequence[str]) -> Any:
    """A fresh scheduler with the noise settings of `own`, of the class `name` (empty: of its own class).

    A class that doesn't know learned variances gets none: such pipelines then drop that half of the UNet's output.
    """
    import diffusers

    if not name or name == type(own).__name__:
        return type(own).from_config(own.config)
    if name not in allowed:
        raise EngineError(f"scheduler {name!r} is unknown here; use one of {', '.join(allowed)}")
    return getattr(diffusers, name).from_config({**own.config, "variance_type": "fixed_small"})


def seeded(batch: Sequence[Request]) -> list[torch.Generator]:
    """One CPU generator per picture: its noise depends on its seed alone."""
    import torch

    return [torch.Generator("cpu").manual_seed(request.seed) for request in batch]


def hand_over(decoded: torch.Tensor, start: float, refused: Sequence[str] = ()) -> Generated:
    """What a batch gave, from decoded pictures (N, 3, H, W) as the model left them, about -1 to 1, not yet clamped.

    `start` is `time.perf_counter()` of the batch's beginning. Pictures with a reason in `refused` are black.
    """
    import torch

    finite = torch.isfinite(decoded).flatten(1).all(dim=1)
    pixels = decoded.float().div(2).add(0.5).clamp(0, 1)
    for row, reason in enumerate(refused):
        if reason:
            pixels[row] = 0
    data = to_bytes(pixels)  # waits for the device
    return Generated(
        pixels=data,
        finite=finite.cpu().numpy(),
        cut=np.zeros(len(data), np.int32),
        seconds=time.perf_counter() - start,
        device_pixels=pixels,
        refused=tuple(refused) or ("",) * len(data),
    )


def fitting_batch(device: torch.device, width: int, height: int, gib_per_image: float) -> int:
    """A batch size to start from: on a GPU what its free memory should hold, on a CPU more the smaller pictures are.

    `gib_per_image` are the GiB that one picture of 1024 x 1024 takes.
    """
    if device.type != "cuda":
        return max(1, min(16, 16 * 128 * 128 // (width * height)))
    room = free_gib(device) * 0.8 / max(gib_per_image * width * height / 2**20, 1e-3)
    return max(1, min(64, 2 ** int(np.log2(max(room, 1)))))


def library_versions(device: torch.device, dtype: torch.dtype) -> Mapping[str, str]:
    """Library versions, device and dtype, to record beside candidates."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    libraries = {name: metadata.version(name) for name in ("diffusers", "torch", "transformers")}
    return {**libraries, "device": name, "dtype": str(dtype).removeprefix("torch.")}
