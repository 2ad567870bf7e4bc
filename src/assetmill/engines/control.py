"""ControlNets: models that steer a denoiser by a map (edges, depth, a pose), checked as folders and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.folders import PICKLES, check_weights, fingerprint_folder, model_files, read_json
from assetmill.engines.protocols import EngineError, Part
from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    import torch

_SHARED = (
    "cross_attention_dim", "block_out_channels", "joint_attention_dim", "pooled_projection_dim", "attention_head_dim",
    "num_attention_heads", "caption_channels", "addition_embed_type",
)  # fmt: skip
"""Settings that a ControlNet has in common with the denoiser it was trained beside."""


def resolve_controls(
    paths: Mapping[str, Path], does: facts.Does, denoiser: Mapping[str, Any], resolve: Callable[[Path | str], Path]
) -> list[Part]:
    """The ControlNet folders that a config names, by kind of map, checked and fingerprinted without loading them.

    Raises InputError with all that is wrong: a family without ControlNets, no such folder, another class, pickles,
    cut-off weights, made for another base.
    """
    problems: list[Problem] = []
    parts = []
    for kind, path in paths.items():
        folder = resolve(path)
        found = _check_folder(kind, folder, does, denoiser)
        problems += found
        if not found:
            parts.append(Part("control", kind, str(folder), fingerprint_folder(folder)))
    if problems:
        raise InputError(problems)
    return parts


class ControlNets:
    """The ControlNets of a spec, each loaded when it is first asked for, on the pipeline's device."""

    def __init__(self, parts: Mapping[str, Part], class_name: str, dtype: torch.dtype, device: torch.device) -> None:
        self.parts = parts
        self.class_name = class_name
        self.dtype = dtype
        self.device = device
        self._loaded: dict[str, Any] = {}

    def get(self, kind: str) -> Any:
        """The ControlNet for a kind of map. Raises EngineError where its folder cannot be loaded."""
        if kind not in self._loaded:
            self._loaded[kind] = self._load(self.parts[kind])
        return self._loaded[kind]

    def _load(self, part: Part) -> Any:
        import diffusers

        from assetmill.engines.latent_loading import quiet

        if fingerprint_folder(Path(part.path), trust_cache=False) != part.sha256:
            raise EngineError(f"{part.path}: the ControlNet changed since it was planned; plan again, or restore it")
        try:
            with quiet():
                net = getattr(diffusers, self.class_name).from_pretrained(
                    part.path, torch_dtype=self.dtype, use_safetensors=True, local_files_only=True
                )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            if "out of memory" in str(error).lower() or "can't allocate" in str(error):
                raise
            raise EngineError(f"{part.path} cannot be loaded by {self.class_name}: {error}") from error
        return net.eval().requires_grad_(False).to(self.device)


@contextmanager
def steady_encoding(vae: Any) -> Iterator[None]:
    """The autoencoder gives the mean in place of a draw wherever a pipeline encodes without a picture's generator.

    Some ControlNet pipelines encode their maps with torch's global noise, so that no picture could be made again.
    """
    encode = vae.encode

    def steady(*args: Any, **options: Any) -> Any:
        output = encode(*args, **options)
        distribution = output.latent_dist
        draw = distribution.sample
        distribution.sample = lambda generator=None: distribution.mode() if generator is None else draw(generator)
        return output

    vae.encode = steady
    try:
        yield
    finally:
        del vae.encode


# --- inside -------------------------------------------------------------------------------------------------


def _check_folder(kind: str, folder: Path, does: facts.Does, denoiser: Mapping[str, Any]) -> list[Problem]:
    column = f"model.control.{kind}"
    if not does.control:
        return [Problem("this model's family has no ControlNet in diffusers", "remove it", column=column)]
    if not (folder / "config.json").is_file():
        return [
            Problem(
                "there is no config.json",
                f"give a folder that `save_pretrained` of a {does.controlnet} wrote",
                file=str(folder),
                column=column,
            )
        ]
    config = read_json(folder / "config.json")
    if config.get("_class_name") != does.controlnet:
        return [
            Problem(
                f"is a {config.get('_class_name')}, and this model's family needs a {does.controlnet}",
                "give a ControlNet that was trained for this family",
                file=str(folder),
                column=column,
            )
        ]
    files = model_files(folder)
    problems = [replace(problem, column=column) for problem in check_weights(files, folder)]
    if not any(name.endswith(".safetensors") for name in files):
        pickled = next((str(path) for name, path in files.items() if name.endswith(PICKLES)), "")
        problems.append(
            Problem(
                "is a pickle, and there are no safetensors beside it" if pickled else "has no weights",
                "take a revision with safetensors",
                file=pickled or str(folder),
                column=column,
            )
        )
    for name in _SHARED:
        ours, theirs = denoiser.get(name), config.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            problems.append(
                Problem(
                    f"was made for another base: its {name} is {theirs}, this model's {ours}",
                    "give a ControlNet that was trained for this model's family",
                    file=str(folder),
                    column=column,
                )
            )
    return problems
