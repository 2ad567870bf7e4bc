"""LoRAs: small weights laid over a model. Checked against the model's own layers before anything is loaded.

A file is read as safetensors only, pinned by its SHA-256, and refused where its layers have other shapes than the
model's: made for another base, it would fail deep in a run or, worse, act on nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from assetmill.engines.folders import PICKLES, hash_files, read_card, safetensors_header
from assetmill.engines.protocols import EngineError, Part
from assetmill.records import Adapter, InputError, Problem

Shape = tuple[int, ...]

_DOWN = (
    ".lora_A.weight",
    ".lora_down.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)
_UP = (".lora_B.weight", ".lora_up.weight", ".lora.up.weight", "_lora.up.weight", ".lora_linear_layer.up.weight")
_DENOISERS = ("unet", "transformer")
_KOHYA = {
    "lora_unet_": _DENOISERS,
    "lora_transformer_": _DENOISERS,
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te_": ("text_encoder",),
}
"""Prefixes of another trainer's names, in which dots are underscores, and the folders they may mean."""


def resolve_lora(
    file: Path, folder: Path, *, weight: float = 1.0, sha256: str | None = None, column: str = "model.adapters"
) -> Part:
    """A LoRA file as a part of the model in `folder`, hashed and checked against its layers without loading either.

    Raises InputError: no such file, a pickle, cut off, another hash than the pinned one, no LoRA, another base.
    """

    def refuse(message: str, way_out: str) -> InputError:
        return InputError(Problem(message, way_out, file=str(file), column=column))

    if file.suffix in PICKLES:
        raise refuse(
            "is a pickle, which runs code when it is read",
            "take the LoRA as .safetensors, or convert it where you trust it",
        )
    if not file.is_file():
        raise refuse("the adapter is missing", "give the path of a .safetensors file")
    try:
        header = safetensors_header(file)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise refuse(f"is not valid safetensors ({error})", "download or copy the file again") from error
    found = hash_files([file])[file]
    if sha256 and sha256 != found:
        raise refuse(f"its SHA-256 is {found}, the config pins {sha256}", "restore the pinned file, or pin the new one")
    layers = lora_layers(header)
    if not layers:
        raise refuse("holds no LoRA layers", "give a LoRA (other kinds of adapters are not known here)")
    fault = find_other_base(layers, folder)
    if fault:
        told = header.get("__metadata__", {})
        base = told.get("ss_base_model_version") or told.get("modelspec.architecture")
        raise refuse(
            f"was made for another base than {folder.name}: {fault}" + (f" (it names {base!r} itself)" if base else ""),
            "choose a LoRA that was trained on this model's family, or another model",
        )
    return Part("lora", file.stem, str(file), found, weight)


def part_licence(part: Part) -> str:
    """The licence that weights beside a model name themselves; empty where they say nothing.

    Files say it in their safetensors metadata as `modelspec.license` (https://github.com/Stability-AI/ModelSpec),
    folders in their model card.
    """
    path = Path(part.path)
    if path.is_dir():
        card = read_card(path)
        return str(card.get("license_name") or card.get("license") or "")
    try:
        told = safetensors_header(path).get("__metadata__", {})
    except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError):
        return ""  # whoever loads it says what is wrong with it
    return str(told.get("modelspec.license") or told.get("license") or "")


def lora_layers(header: Mapping[str, Any]) -> dict[str, tuple[Shape, Shape]]:
    """Per layer name, as the file writes it, the shapes of its two factors (down: rank x in, up: out x rank)."""
    downs: dict[str, Shape] = {}
    ups: dict[str, Shape] = {}
    for key, entry in header.items():
        for endings, found in ((_DOWN, downs), (_UP, ups)):
            for ending in endings:
                if key.endswith(ending):
                    name = key.removesuffix(ending).replace(".processor.", ".")
                    found[name] = tuple(entry["shape"])
    return {name: (shape, ups[name]) for name, shape in downs.items() if name in ups}


def find_other_base(layers: Mapping[str, tuple[Shape, Shape]], folder: Path) -> str:
    """Why LoRA layers cannot belong to the model in a folder; empty where nothing speaks against it.

    Names that this doesn't understand (some trainers' own) pass here and are judged when the LoRA is loaded.
    """
    parts = {p.parent.name for p in folder.glob("*/*.safetensors")}
    denoiser = next((name for name in _DENOISERS if name in parts), "")
    num_known = 0
    for name, (down, up) in layers.items():
        target = _target(name)
        if target is None:
            continue
        places, module = target
        place = next((p for p in places if p in parts), "")
        if not place:
            if any(p in _DENOISERS for p in places):
                return f"its layer {name!r} belongs to a {places[0]}, and this model has a {denoiser}"
            continue  # a text encoder that this model lacks
        if place == "transformer" and re.match(r"(down|up|mid)_block", module):
            return f"its layer {name!r} belongs to a unet, and this model has a transformer"
        own = layer_shapes(folder / place).get(module.replace(".", "_"))
        if own is None:
            continue
        num_known += 1
        if len(own) >= 2 and (own[0], own[1]) != (up[0], down[1]):
            return f"its layer {name!r} is for {up[0]} x {down[1]} weights, and this model's is {own[0]} x {own[1]}"
    if not num_known and any(name.startswith("unet.down_blocks") for name in layers):
        return "none of its layers is in this model"
    return ""


def layer_shapes(part: Path) -> Mapping[str, Shape]:
    """Per layer of a part's safetensors, its name with underscores for dots, the shape of its weight."""
    files = sorted(part.glob("*.safetensors"))
    return _layer_shapes(tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


class LoraShelf:
    """The LoRAs of a loaded pipeline: all of the spec's, switched on and off per batch.

    Raises EngineError for a LoRA that changed since it was planned, or that does not fit the pipeline.
    """

    def __init__(self, pipeline: Any, parts: Sequence[Part]) -> None:
        self.pipeline = pipeline
        self.names = {part.sha256: f"lora_{part.sha256[:16]}" for part in parts}
        self.current: tuple[Adapter, ...] = ()
        for part in parts:
            _load(pipeline, part, self.names[part.sha256])
        if parts:
            pipeline.disable_lora()

    def use(self, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
        """Lays the LoRAs among the adapters over the model, with their weights, and takes all others off."""
        wanted = tuple(adapter for adapter in adapters if adapter.kind == "lora")
        if wanted != self.current:
            if wanted:
                names = [self.names[adapter.sha256] for adapter in wanted]
                self.pipeline.enable_lora()
                self.pipeline.set_adapters(names, adapter_weights=[adapter.weight for adapter in wanted])
            else:
                self.pipeline.disable_lora()
            self.current = wanted
        return wanted


# --- inside -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _layer_shapes(files: tuple[tuple[str, int, int], ...]) -> Mapping[str, Shape]:
    shapes = {}
    for path, _, _ in files:
        for name, entry in safetensors_header(Path(path)).items():
            if name.endswith(".weight"):
                shapes[name.removesuffix(".weight").replace(".", "_")] = tuple(entry["shape"])
    return shapes


def _target(name: str) -> tuple[tuple[str, ...], str] | None:
    """The folders that a layer's name may mean, and the layer's name in there; None for names of another kind."""
    for prefix, places in _KOHYA.items():
        if name.startswith(prefix):
            return places, name.removeprefix(prefix)
    head, _, rest = name.partition(".")
    if head in (*_DENOISERS, "text_encoder", "text_encoder_2", "text_encoder_3") and rest:
        return (head,), rest
    return None


def _load(pipeline: Any, part: Part, name: str) -> None:
    from assetmill.engines.latent_loading import quiet

    path = Path(part.path)
    if hash_files([path], trust_cache=False)[path] != part.sha256:
        raise EngineError(f"{path}: the LoRA changed since it was planned; plan again, or restore the file")
    if not hasattr(pipeline, "load_lora_weights"):
        raise EngineError(f"{type(pipeline).__name__} takes no LoRAs; remove model.adapters")
    way_out = "it may be made for another base; choose one that was trained on this model's family"
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs are what we want
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, use_safetensors=True, local_files_only=True
            )
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
        if "out of memory" in str(error).lower() or "can't allocate" in str(error):
            raise
        raise EngineError(f"{path}: the LoRA does not fit the model ({_first_line(error)}); {way_out}") from error
    if not any(name in names for names in pipeline.get_list_adapters().values()):
        raise EngineError(f"{path}: none of the LoRA's layers is in the model; {way_out}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]
