"""A diffusers folder as a pipeline where and how it is to run, and further pipelines over the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines.model_folder import find_variant
from assetmill.engines.protocols import EngineError, ModelSpec

if TYPE_CHECKING:
    import torch

    from assetmill.config import ModelConfig


def load_pipeline(spec: ModelSpec, dtype: torch.dtype) -> Any:
    """The pipeline of a spec's folder, with frozen weights: the one for its first operation.

    Safetensors only, nothing fetched. Raises EngineError where the folder cannot be loaded.
    """
    folder = Path(spec.folder)
    inpaints = spec.operations[0] == "inpaint"  # a model that was trained for nothing else
    auto = "AutoPipelineForInpainting" if inpaints else "AutoPipelineForText2Image"
    try:
        with quiet():
            import diffusers

            pipeline = getattr(diffusers, auto).from_pretrained(
                str(folder),
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=find_variant(folder),
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        if "out of memory" in str(error).lower() or "can't allocate" in str(error):
            raise
        raise EngineError(
            f"{folder} cannot be loaded by {auto}: {error}; "
            f"check that it is a complete {spec.operations[0]} folder of the installed diffusers"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if hasattr(part, "eval") and hasattr(part, "requires_grad_"):
            part.eval().requires_grad_(False)
    return pipeline


def arrange(pipeline: Any, device: torch.device, config: ModelConfig) -> None:
    """Puts a pipeline where and how it is to run."""
    import torch

    denoiser = denoiser_of(pipeline)
    if config.channels_last:
        denoiser.to(memory_format=torch.channels_last)
        if getattr(pipeline, "vae", None) is not None:  # cascades of pixels have none
            pipeline.vae.to(memory_format=torch.channels_last)
    if config.offload:
        if device.type == "cpu":
            raise EngineError("offload moves parts from a GPU to the CPU; set model.offload: false on a CPU")
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if config.fuse:
        if config.adapters:
            raise EngineError("fused projections would leave LoRAs out; set model.fuse: false, or remove the adapters")
        if not hasattr(denoiser, "fuse_qkv_projections"):
            raise EngineError(f"{type(denoiser).__name__} has no projections to fuse; set model.fuse: false")
        try:
            denoiser.fuse_qkv_projections()
        except ValueError as error:  # UNets with added projections (Kandinsky, IF)
            raise EngineError(f"{error}; set model.fuse: false") from error
    if config.compile:
        compile_blocks(denoiser)


def compile_blocks(denoiser: Any) -> None:
    """Regional compilation: each kind of block once, for the one batch size that a bucket has.

    Each size of picture is compiled for itself; dynamo's usual limit of eight would be used up by two sizes and leave
    the rest uncompiled, with a line in the log as the only sign.
    """
    import torch

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    denoiser.compile_repeated_blocks(dynamic=False)


def denoiser_of(pipeline: Any) -> Any:
    """The UNet or transformer of a pipeline."""
    return getattr(pipeline, "unet", None) or pipeline.transformer


def share(pipeline: Any, class_name: str, **parts: Any) -> Any:
    """Another pipeline class over the very same modules, as AutoPipeline's `from_pipe` makes it, with further parts.

    Unlike a class's own `from_pipe` it leaves the number formats alone, which some text encoders mix on purpose.
    """
    import diffusers

    kind = getattr(diffusers, class_name)
    modules, settings = kind._get_signature_keys(kind)
    given = {name: part for name, part in pipeline.components.items() if name in modules}
    given |= {name: value for name, value in pipeline.config.items() if name in settings and name not in given}
    other = kind(**{**given, **parts})
    other.set_progress_bar_config(disable=True)
    return other


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without progress bars, and without advice that is meant for the authors of a model's config files."""
    import warnings

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    was = diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        if was[0]:
            diffusers_logging.enable_progress_bar()
        if was[1]:
            transformers_logging.enable_progress_bar()
