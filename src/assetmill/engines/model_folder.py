"""A diffusers folder, or a hub id with a pinned revision, as a ModelSpec: checked and named without importing torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.adapters import resolve_lora
from assetmill.engines.control import resolve_controls
from assetmill.engines.folders import (
    PICKLES,
    check_weights,
    fingerprint_folder,
    hash_files,
    model_files,
    read_card,
    read_json,
)
from assetmill.engines.image_prompt import find_image_encoder, resolve_ip_adapter
from assetmill.engines.operations import operations_of
from assetmill.engines.preview import locate_preview, resolve_preview
from assetmill.engines.protocols import ModelSpec, Part
from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    from assetmill.config import ModelConfig

EPOCH = 1
"""Raised by hand when `latent.py` makes other pictures of the same request."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_pipeline(config: ModelConfig, resolve: Callable[[Path | str], Path]) -> ModelSpec:
    """What is known of the model a config names, and its content's name, without loading it.

    Raises InputError with all that is wrong: a missing folder, an unpinned hub id, pickled weights, remote code,
    pointer files, cut-off weights, a size the model cannot make, an adapter or ControlNet for another base.
    """
    folder, model_id, commit = locate_model(config, resolve)
    index = read_index(folder)
    engine = facts.OTHER_ENGINES.get(str(index.get("_class_name")))
    if engine:
        raise InputError(
            Problem(
                f"is a {index['_class_name']}, which the engine {engine!r} runs",
                f"set model.engine: {engine}",
                file=str(folder),
                column="model.engine",
            )
        )
    files = model_files(folder)
    problems = [*check_code(folder, index, files), *check_components(folder, index), *check_weights(files, folder)]
    if problems:
        raise InputError(problems)
    if commit:
        revision = commit
    else:
        revision = fingerprint_folder(folder)
        if config.revision and config.revision != revision:
            raise InputError(
                Problem(
                    f"the folder's fingerprint is {revision}, the config pins {config.revision}",
                    "restore the pinned files, or pin the new fingerprint",
                    file=str(folder),
                    column="model.revision",
                )
            )
    return _describe(folder, index, model_id, revision, _parts(config, resolve, folder, index))


def locate_model(config: ModelConfig, resolve: Callable[[Path | str], Path]) -> tuple[Path, str, str]:
    """The model's folder on this machine, its id for people, and its commit if it comes from a hub (else empty)."""
    source = config.source
    if source == "starter":
        from assetmill.starter.locations import pipeline_folder

        try:
            return pipeline_folder(), "starter", ""
        except FileNotFoundError as error:
            raise InputError(Problem(str(error), column="model.source", value=source)) from error
    path = resolve(source)
    if path.is_dir():
        return path, path.name, ""
    if path.is_file():
        raise InputError(
            Problem(
                "a single file is not a pipeline",
                "give a diffusers folder; make one with `from_single_file(…).save_pretrained(folder)` in diffusers",
                file=str(path),
                column="model.source",
            )
        )
    if not _HUB_ID.fullmatch(source) or source.startswith("."):
        raise InputError(
            Problem(
                f"no model folder at {path}",
                "give `starter`, the path of a diffusers folder, or a hub id such as owner/name with its revision",
                column="model.source",
                value=source,
            )
        )
    if not config.revision or not _COMMIT.fullmatch(config.revision):
        raise InputError(
            Problem(
                f"the hub model {source!r} needs a pinned revision: a branch or tag may change overnight",
                "set model.revision to the commit, 40 hex digits (or give a path, if a folder was meant)",
                column="model.revision",
                value=config.revision,
            )
        )
    return _find_snapshot(source, config.revision, config.offline), source, config.revision


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's `model_index.json`."""
    path = folder / "model_index.json"
    if not path.is_file():
        engine = facts.OTHER_ENGINES.get(*_architecture(folder))
        if engine:
            raise InputError(
                Problem(
                    f"is a model of transformers, which the engine {engine!r} runs",
                    f"set model.engine: {engine}",
                    file=str(folder),
                    column="model.engine",
                )
            )
        held = sorted(p.name for p in folder.glob("*") if p.suffix in (*PICKLES, ".safetensors"))
        raise InputError(
            Problem(
                "there is no model_index.json" + (f", only {', '.join(held[:3])}" if held else ""),
                "give a folder that diffusers' `save_pretrained` wrote",
                file=str(folder),
                column="model.source",
            )
        )
    return read_json(path)


def check_code(folder: Path, index: Mapping[str, Any], files: Mapping[str, Path]) -> list[Problem]:
    """Code that the folder would bring along. It is never run, and no setting enables it."""
    way_out = "no setting enables it: use a model whose pipeline is part of diffusers"
    problems = []
    if not isinstance(index.get("_class_name"), str):
        problems.append(
            Problem(
                "names a custom pipeline, code that comes with the model",
                way_out,
                file=str(folder / "model_index.json"),
            )
        )
    for name, path in files.items():
        if name.endswith((".py", ".so", ".pyc")):
            problems.append(Problem("is code that comes with the model", way_out, file=str(path)))
        elif name.endswith("config.json") and "auto_map" in read_json(path):
            problems.append(Problem("asks for remote code (auto_map)", way_out, file=str(path)))
    return problems


def check_components(folder: Path, index: Mapping[str, Any]) -> list[Problem]:
    """Parts that are missing, or whose weights are missing or only there as pickles."""
    problems = []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2 or value[1] is None:
            continue
        part = folder / name
        if not part.is_dir():
            problems.append(
                Problem(f"the part {name!r} is missing", "copy or download the whole folder", file=str(part))
            )
            continue
        if not (part / "config.json").is_file():
            continue  # a scheduler, tokenizer or processor: no weights
        if any(part.glob("*.safetensors")):
            continue
        pickled = sorted(p for p in part.iterdir() if p.suffix in PICKLES)
        if pickled:
            problems.append(
                Problem(
                    "is a pickle, which runs code when it is read, and there are no safetensors beside it",
                    "take a revision with safetensors, or convert it with `save_pretrained(safe_serialization=True)`"
                    " where you trust it",
                    file=str(pickled[0]),
                )
            )
        else:
            problems.append(
                Problem(f"the part {name!r} has no weights", "copy or download its .safetensors file", file=str(part))
            )
    return problems


def find_variant(folder: Path) -> str | None:
    """The weight variant to load (say `fp16`), None where plain files are there."""
    variants: set[str] = set()
    for path in folder.glob("*/*.safetensors"):
        match = re.fullmatch(r"[\w-]+\.([a-z][a-z0-9]*)(?:-\d+-of-\d+)?\.safetensors", path.name)
        if match is None:
            return None
        variants.add(match[1])
    return min(variants) if variants else None


def verify_weights(spec: ModelSpec) -> None:
    """Reads every byte of the model again and compares it with what the plan named; raises InputError if it differs.

    A folder is compared with its fingerprint, a hub snapshot with the hashes its cache names large files by.
    """
    folder = Path(spec.folder)
    if _COMMIT.fullmatch(spec.revision):
        named = {p: p.resolve().name for p in model_files(folder).values()}
        named = {path: name for path, name in named.items() if re.fullmatch(r"[0-9a-f]{64}", name)}
        digests = hash_files(list(named), trust_cache=False)
        changed = [path for path, name in named.items() if digests[path] != name]
    else:
        changed = [] if fingerprint_folder(folder, trust_cache=False) == spec.revision else [folder]
    if changed:
        raise InputError(
            [
                Problem(
                    "the weights on disk are not those the plan named: changed or damaged",
                    "plan again if you changed them, else restore them from where they came",
                    file=str(path),
                )
                for path in changed
            ]
        )


# --- inside -------------------------------------------------------------------------------------------------


def _find_snapshot(model_id: str, commit: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md", "*/*.json"]
    try:
        return Path(snapshot_download(model_id, revision=commit, local_files_only=offline, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            Problem(
                f"{model_id} at {commit[:12]} is not on this machine"
                + ("" if offline else f" and could not be fetched ({type(error).__name__})"),
                f"fetch it once with `hf download {model_id} --revision {commit}`, or set model.offline: false",
                column="model.source",
                value=model_id,
            )
        ) from error


def _parts(
    config: ModelConfig, resolve: Callable[[Path | str], Path], folder: Path, index: Mapping[str, Any]
) -> tuple[Part, ...]:
    """The LoRAs, ControlNets, IP-Adapter and tiny VAE that a config adds. Raises InputError with all problems."""
    does = _family(index["_class_name"]).does
    denoiser = _config(folder, "unet") or _config(folder, "transformer")
    parts: list[Part] = []
    problems: list[Problem] = []

    def gather(find: Callable[[], Part | Sequence[Part]]) -> None:
        try:
            found = find()
        except InputError as error:
            problems.extend(error.problems)
        else:
            parts.extend([found] if isinstance(found, Part) else found)

    for number, adapter in enumerate(config.adapters):
        column = f"model.adapters.{number}"
        if does.lora:
            pinned: dict[str, Any] = {"weight": adapter.weight, "sha256": adapter.sha256, "column": column}
            gather(partial(resolve_lora, resolve(adapter.path), folder, **pinned))
        else:
            problems.append(Problem(f"the family of {folder.name} takes no LoRAs", "remove them", column=column))
    gather(partial(resolve_controls, config.control, does, denoiser, resolve))
    if config.ip_adapter is not None:
        gather(partial(resolve_ip_adapter, resolve(config.ip_adapter), folder, does, denoiser))
    if config.preview is not None:
        gather(partial(resolve_preview, locate_preview(config.preview, resolve), denoiser.get("in_channels")))
    if problems:
        raise InputError(problems)
    return tuple(parts)


def _family(class_name: str) -> facts.Family:
    return facts.FAMILIES.get(class_name) or facts.Family(class_name, 0, -1.0)


def _describe(
    folder: Path, index: Mapping[str, Any], model_id: str, revision: str, parts: tuple[Part, ...]
) -> ModelSpec:
    class_name = index["_class_name"]
    known = facts.MODELS.get(model_id) or facts.MODELS.get(str(index.get("_name_or_path", "")))
    family = _family(class_name)
    settings = _shipped_settings(folder)
    kind = (known.guidance_kind if known else "") or family.guidance_kind
    guidance = family.guidance if known is None or known.guidance is None else known.guidance
    steps = (known.steps if known else 0) or family.steps
    transformer, unet = _config(folder, "transformer"), _config(folder, "unet")
    if class_name == "FluxPipeline" and transformer.get("guidance_embeds") is False:
        kind, guidance, steps = "none", 0.0, 4  # schnell's shape: distilled to few steps, no guidance input
    if index.get("is_distilled") is True:
        kind, guidance, steps = "none", 0.0, 4  # FLUX.2 klein's shape: guidance is ignored there
    cuts = family.cuts
    if unet.get("time_cond_proj_dim") is not None:
        # guidance is an input of such a UNet (latent consistency), held in a loop variable no callback reaches
        kind, cuts = "distilled", False
    width, height = _native_size(folder, unet, family, known)
    licence, commercial = _licence(folder, known)
    if model_id == "starter" and not licence:
        licence, commercial = "apache-2.0", True
    return ModelSpec(
        id=model_id,
        engine="diffusers",
        epoch=EPOCH,
        revision=revision,
        family=family.name,
        licence=licence,
        commercial=commercial,
        operations=operations_of(family.does, parts, unet),
        width=int(settings.get("width", settings.get("size", width))),
        height=int(settings.get("height", settings.get("size", height))),
        steps=int(settings.get("steps", steps)),
        guidance=float(settings.get("guidance", guidance)),
        scheduler=str(settings.get("scheduler", "")),
        size_multiple=math.lcm(family.size_multiple, _vae_factor(folder)),
        token_limit=facts.flux_tokens(transformer) if family.name == "flux" else _token_limit(folder, family),
        gib=((known.gib if known else 0.0) or _weights_gib(folder)) + _parts_gib(parts),
        folder=str(folder),
        guidance_kind=kind,
        cuts=cuts,
        option_names=family.option_names,
        parts=parts,
    )


def _architecture(folder: Path) -> tuple[str, ...]:
    """The class a folder of transformers names, as one item."""
    path = folder / "config.json"
    return tuple(read_json(path).get("architectures") or [""])[:1] if path.is_file() else ("",)


def _shipped_settings(folder: Path) -> dict[str, Any]:
    path = folder / "assetmill.json"
    return read_json(path) if path.is_file() else {}


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    return read_json(path) if path.is_file() else {}


def _vae_factor(folder: Path) -> int:
    vae = _config(folder, "vae")
    levels = vae.get("block_out_channels") or vae.get("decoder_block_out_channels") or ()
    return 2 ** (len(levels) - 1) if levels else 8


def _native_size(
    folder: Path, unet: Mapping[str, Any], family: facts.Family, known: facts.ModelFacts | None
) -> tuple[int, int]:
    if known is not None and known.size:
        return known.size, known.size
    sample = unet.get("sample_size")
    if sample:
        height, width = (sample, sample) if isinstance(sample, int) else sample
        return width * _vae_factor(folder), height * _vae_factor(folder)
    return (family.size or 512,) * 2


def _token_limit(folder: Path, family: facts.Family) -> int | None:
    path = folder / family.token_part / "tokenizer_config.json"
    limit = read_json(path).get("model_max_length", 0) if path.is_file() else 0
    if family.token_limit:
        return family.token_limit
    return int(limit) if 0 < limit < 100_000 else None


def _licence(folder: Path, known: facts.ModelFacts | None) -> tuple[str, bool | None]:
    card = read_card(folder)
    licence = str(card.get("license_name") or card.get("license") or "")
    if (not licence or licence == "other") and known is not None:
        licence = known.licence
    return licence, facts.may_sell(licence)


def _parts_gib(parts: Sequence[Part]) -> float:
    """GiB of the adapters as stored, an IP-Adapter's image encoder among them."""
    files: list[Path] = []
    for part in parts:
        path = Path(part.path)
        files += path.glob("*.safetensors") if path.is_dir() else [path]
        encoder = find_image_encoder(path) if part.kind == "ip-adapter" else None
        files += encoder.glob("*.safetensors") if encoder else []
    return round(sum(p.stat().st_size for p in files) / 2**30, 3)


def _weights_gib(folder: Path) -> float:
    """GiB of the weights as stored: what loading them needs at least."""
    return round(sum(p.stat().st_size for p in folder.glob("*/*.safetensors")) / 2**30, 3)
