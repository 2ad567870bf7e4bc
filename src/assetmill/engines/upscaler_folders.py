"""Upscalers that lie in a folder (diffusers' pipelines, transformers' Swin2SR): named and checked without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.folders import PICKLES, check_weights, fingerprint_folder, model_files, read_card, read_json
from assetmill.engines.model_folder import check_code, check_components, read_index
from assetmill.engines.protocols import UpscalerSpec
from assetmill.records import InputError, Problem, Scalar, content_key

if TYPE_CHECKING:
    from assetmill.config import UpscaleConfig

EPOCH = 1
"""Raised by hand when `upscale_diffusion.py` or `upscale_swin2sr.py` make other pictures of the same picture."""


@dataclass(frozen=True, slots=True)
class UpscalerFamily:
    """A class of upscalers: the engine it belongs to, and its options with their defaults (those of its card)."""

    engine: str
    options: Mapping[str, Scalar]


FAMILIES: Mapping[str, UpscalerFamily] = MappingProxyType(
    {
        "StableDiffusionUpscalePipeline": UpscalerFamily(
            "diffusers", {"steps": 75, "guidance": 9.0, "noise_level": 20, "negative": "", "seed": 0}
        ),
        "LDMSuperResolutionPipeline": UpscalerFamily("diffusers", {"steps": 100, "eta": 1.0, "seed": 0}),
        "IFSuperResolutionPipeline": UpscalerFamily(
            "diffusers", {"steps": 50, "guidance": 4.0, "noise_level": 250, "negative": "", "seed": 0}
        ),
        "Swin2SRForImageSuperResolution": UpscalerFamily("transformers", {}),
    }
)
"""Upscalers by class. `noise_level` is how much noise hides the small picture: more invents more, and keeps less."""

_LIMITS: Mapping[str, tuple[float, float]] = {
    "steps": (1, 1000), "guidance": (0, 100), "noise_level": (0, 999), "eta": (0, 1), "seed": (0, 2**32 - 1),
}  # fmt: skip


def resolve_upscaler_folder(config: UpscaleConfig, resolve: Callable[[Path | str], Path]) -> UpscalerSpec:
    """The spec of an upscaler's folder. Raises InputError with all that is wrong with folder and options."""
    folder = resolve(config.source)
    if not folder.is_dir():
        raise InputError(
            Problem(
                f"no upscaler's folder at {folder}", "give the folder of a saved upscaler, or upscale.engine: spandrel "
                "for a weight file", column="upscale.source", value=config.source,
            )
        )  # fmt: skip
    name, own, problems = (_look_at_pipeline if config.engine == "diffusers" else _look_at_model)(folder)
    family = FAMILIES.get(name)
    if family is None or family.engine != config.engine:
        known = ", ".join(n for n, f in FAMILIES.items() if f.engine == config.engine)
        raise InputError(
            Problem(
                f"{name or 'it'} is no upscaler of the engine {config.engine!r}", f"give a folder of {known}",
                file=str(folder), column="upscale.source",
            )
        )  # fmt: skip
    problems += check_options(config.options, family.options, name)
    if config.scale is not None and config.scale > own:
        problems.append(
            Problem(
                f"this model enlarges {own} times, not {config.scale}",
                f"set upscale.scale to {own} or less, or leave it out", file=str(folder), column="upscale.scale",
            )
        )  # fmt: skip
    if config.overlap * 2 >= config.tile:
        problems.append(
            Problem(
                f"an overlap of {config.overlap} leaves nothing of a tile of {config.tile}",
                "make upscale.overlap less than half of upscale.tile", column="upscale.overlap",
            )
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    fingerprint = fingerprint_folder(folder)
    scale = config.scale or own
    payload = {
        "engine": config.engine, "weights": fingerprint, "scale": scale, "tile": config.tile,
        "overlap": config.overlap, "options": sorted(options_of(name, config.options).items()), "epoch": EPOCH,
    }  # fmt: skip
    card = read_card(folder)
    licence = str(card.get("license_name") or card.get("license") or "")
    return UpscalerSpec(
        key=content_key("upscaler", payload),
        engine=config.engine,
        scale=scale,
        file=str(folder),
        family=name,
        fingerprint=fingerprint,
        licence=licence,
        commercial=facts.may_sell(licence),
    )


def options_of(family: str, given: Mapping[str, Scalar]) -> dict[str, Any]:
    """The options of an upscaler with their defaults filled in."""
    return {**FAMILIES[family].options, **given}


def read_own_scale(folder: Path, family: str) -> int:
    """How many times a model enlarges, from its configs: what its decoder does, or what it was trained for."""
    if family == "Swin2SRForImageSuperResolution":
        config = read_json(folder / "config.json")
        # The variants without an upsampler remove JPEG's traces and keep the size.
        has_upsampler = config.get("upsampler", "pixelshuffle") in _SWIN_UPSAMPLERS
        return int(config.get("upscale", 2)) if has_upsampler else 1
    if family == "IFSuperResolutionPipeline":
        return 4  # 64 to 256 pixels: any factor runs, this one is what it learned
    part = "vqvae" if family == "LDMSuperResolutionPipeline" else "vae"
    return 2 ** (len(read_json(folder / part / "config.json").get("block_out_channels") or (0, 0, 0)) - 1)


def check_options(given: Mapping[str, Scalar], known: Mapping[str, Scalar], name: str) -> list[Problem]:
    """What is wrong with `upscale.options`: unknown names, values of another kind or out of range."""
    problems = []
    for key, value in given.items():
        column = f"upscale.options.{key}"
        if key not in known:
            way_out = f"known options: {', '.join(known) or 'none'}"
            problems.append(Problem(f"{name} has no option {key!r}", way_out, column=column))
            continue
        if isinstance(known[key], str):
            fits, wanted = isinstance(value, str), "a text"
        else:
            low, high = _LIMITS[key]
            whole = isinstance(known[key], int)
            right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            fits = right and low <= float(value) <= high  # type: ignore[arg-type]
            wanted = f"a {'whole ' if whole else ''}number from {low:g} to {high:.10g}"
        if not fits:
            problems.append(
                Problem(f"{key} does not fit {name}", f"give {wanted}", column=column, value=repr(value)[:80])
            )
    return problems


# --- inside -------------------------------------------------------------------------------------------------

_SWIN_UPSAMPLERS = ("pixelshuffle", "pixelshuffle_aux", "pixelshuffledirect", "nearest+conv")


def _look_at_pipeline(folder: Path) -> tuple[str, int, list[Problem]]:
    index = read_index(folder)
    files = model_files(folder)
    problems = [*check_code(folder, index, files), *check_components(folder, index), *check_weights(files, folder)]
    name = index.get("_class_name")
    name = name if isinstance(name, str) else ""
    return name, read_own_scale(folder, name) if name in FAMILIES and not problems else 1, problems


def _look_at_model(folder: Path) -> tuple[str, int, list[Problem]]:
    if not (folder / "config.json").is_file():
        raise InputError(
            Problem(
                "there is no config.json", "give a folder that transformers' `save_pretrained` wrote",
                file=str(folder), column="upscale.source",
            )
        )  # fmt: skip
    name = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    return name, read_own_scale(folder, name) if name in FAMILIES else 1, check_model_folder(folder, "upscale.source")


def check_model_folder(folder: Path, column: str) -> list[Problem]:
    """What makes the folder of one transformers model unfit: code, pickles alone, damaged or missing weights."""
    files = model_files(folder)
    problems = [*check_code(folder, {"_class_name": ""}, files), *check_weights(files, folder)]
    if not any(name.endswith(".safetensors") for name in files):
        pickled = [path for name, path in files.items() if Path(name).suffix in PICKLES]
        problems.append(
            Problem(
                "has no safetensors weights" + (f", only the pickle {pickled[0].name}" if pickled else ""),
                "convert them with `save_pretrained` where you trust them, or take a revision that has them",
                file=str(pickled[0] if pickled else folder),
                column=column,
            )
        )
    return problems
