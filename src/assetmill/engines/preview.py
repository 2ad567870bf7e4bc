"""A tiny VAE that shows what half-made pictures are becoming, at a fraction of the model's own decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines.folders import check_weights, fingerprint_folder, model_files, read_json
from assetmill.engines.protocols import EngineError, Part
from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    import torch


def locate_preview(path: Path, resolve: Callable[[Path | str], Path]) -> Path:
    """The folder that a config's `model.preview` names: `starter` is the pack's own."""
    if str(path) != "starter":
        return resolve(path)
    from assetmill.starter.locations import preview_folder

    try:
        return preview_folder()
    except FileNotFoundError as error:
        raise InputError(Problem(str(error), column="model.preview", value="starter")) from error


def resolve_preview(folder: Path, channels: int | None) -> Part:
    """The folder of an AutoencoderTiny for latents of that many channels, checked without loading it.

    Raises InputError: no such folder, another class, pickles or cut-off weights, made for another kind of latents.
    """
    column = "model.preview"
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise InputError(
            Problem("there is no tiny VAE", "give the folder of an AutoencoderTiny", str(folder), column=column)
        )
    config = read_json(config_file)
    problems = list(check_weights(model_files(folder), folder))
    if config.get("_class_name") != "AutoencoderTiny":
        found = config.get("_class_name")
        problems.append(
            Problem(f"holds {found!r}, not an AutoencoderTiny", "give a tiny VAE", str(folder), column=column)
        )
    elif channels is not None and config.get("latent_channels") != channels:
        problems.append(
            Problem(
                f"is made for latents of {config.get('latent_channels')} channels, the model has {channels}",
                "give the tiny VAE of this model's family",
                str(folder),
                column=column,
            )
        )
    if problems:
        raise InputError(problems)
    return Part("preview", folder.name, str(folder), fingerprint_folder(folder))


def load_preview(part: Part, device: torch.device, dtype: torch.dtype) -> Any:
    """The AutoencoderTiny of a part. Raises EngineError where it cannot be loaded."""
    from diffusers import AutoencoderTiny

    from assetmill.engines.latent_loading import quiet

    options = {"torch_dtype": dtype, "local_files_only": True, "use_safetensors": True}
    try:
        with quiet():
            vae = AutoencoderTiny.from_pretrained(part.path, **options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise EngineError(f"{part.path} cannot be loaded as an AutoencoderTiny: {error}") from error
    return vae.eval().requires_grad_(False).to(device)
