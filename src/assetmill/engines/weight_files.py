"""What a config's judge and upscaler are, from their weight files alone: checked and named without importing torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.folders import (
    PICKLES,
    cache_folder,
    check_weights,
    fingerprint_folder,
    hash_files,
    model_files,
    read_card,
    read_json,
)
from assetmill.engines.protocols import EngineError, JudgeSpec, UpscalerSpec
from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    from assetmill.config import JudgeConfig, JudgePartConfig, UpscaleConfig

_TOKENIZERS = {
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
}

JUDGE_EPOCH = 1
"""Raised by hand when `clip.py` gives other scores for the same picture and text."""

UPSCALER_EPOCH = 1
"""Raised by hand when `upscale.py` makes other pictures of the same picture."""

Resolve = Callable[[Path | str], Path]


def resolve_open_clip(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
    """The spec of an open_clip judge: a folder, or an architecture by name with weights. Raises InputError."""
    if config.source == "starter":
        from assetmill.starter.locations import clip_folder

        try:
            folder = clip_folder()
        except FileNotFoundError as error:
            raise InputError(Problem(str(error), column="judge.source", value=config.source)) from error
        spec = _judge_folder(folder)
        return spec if spec.licence else replace(spec, licence="apache-2.0", commercial=True)
    path = resolve(config.source)
    if path.is_dir():
        return _judge_folder(path)
    return _judge_architecture(config, resolve)


def resolve_spandrel(config: UpscaleConfig, resolve: Resolve) -> UpscalerSpec:
    """The spec of a super-resolution file. Raises InputError.

    A factor that no config states is found by loading the file once with spandrel, and remembered by its hash.
    """
    if config.source == "starter":
        from assetmill.starter.locations import upscaler_file

        try:
            file = upscaler_file()
        except FileNotFoundError as error:
            raise InputError(Problem(str(error), column="upscale.source", value=config.source)) from error
        licence, own = "apache-2.0", 4
    else:
        file, licence, own = resolve(config.source), "", 0
        if not file.is_file():
            raise InputError(
                Problem(
                    "no such weight file", "give `starter` or the path of a .safetensors file", file=str(file),
                    column="upscale.source",
                )
            )  # fmt: skip
    _refuse_pickle(file, "upscale.source")
    if config.overlap * 2 >= config.tile:
        raise InputError(
            Problem(
                f"an overlap of {config.overlap} leaves nothing of a tile of {config.tile}",
                "make upscale.overlap less than half of upscale.tile",
                column="upscale.overlap",
            )
        )
    digest = hash_files([file])[file]
    own = own or _remembered_scale(file, digest)
    scale = config.scale or own
    if scale > own:
        raise InputError(
            Problem(
                f"this model enlarges {own} times, not {scale}",
                f"set upscale.scale to {own} or less, or leave it out",
                file=str(file),
                column="upscale.scale",
            )
        )
    payload = {
        "engine": "spandrel", "weights": digest, "scale": scale, "tile": config.tile, "overlap": config.overlap,
        "epoch": UPSCALER_EPOCH,
    }  # fmt: skip
    return UpscalerSpec(
        key=content_key("upscaler", payload),
        engine="spandrel",
        scale=scale,
        file=str(file),
        fingerprint=digest,
        licence=licence,
        commercial=facts.may_sell(licence),
    )


# --- inside -------------------------------------------------------------------------------------------------


def _judge_folder(folder: Path) -> JudgeSpec:
    if not (folder / "open_clip_config.json").is_file():
        raise InputError(
            Problem(
                "there is no open_clip_config.json",
                "give a folder with open_clip's config, safetensors weights and tokenizer",
                file=str(folder),
                column="judge.source",
            )
        )
    files = model_files(folder)
    problems = check_weights(files, folder)
    weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    if not weights:
        pickled = [path for name, path in files.items() if Path(name).suffix in PICKLES]
        problems.append(
            Problem(
                "has no safetensors weights" + (f", only the pickle {pickled[0].name}" if pickled else ""),
                "convert them with `safetensors.torch.save_file` where you trust them",
                file=str(pickled[0] if pickled else folder),
                column="judge.source",
            )
        )
    model = read_json(folder / "open_clip_config.json").get("model_cfg", {})
    problems += _check_text_side(model.get("text_cfg", {}), files, folder)
    if problems:
        raise InputError(problems)
    fingerprint = fingerprint_folder(folder)
    card = read_card(folder)
    licence = str(card.get("license_name") or card.get("license") or "")
    centre, spread = _score_scale(model)
    return JudgeSpec(
        key=content_key("judge", {"engine": "open_clip", "weights": fingerprint, "epoch": JUDGE_EPOCH}),
        engine="open_clip",
        source=str(folder),
        fingerprint=fingerprint,
        licence=licence,
        commercial=facts.may_sell(licence),
        centre=centre,
        spread=spread,
    )


def _check_text_side(text: Mapping[str, Any], files: Mapping[str, Path], folder: Path) -> list[Problem]:
    """A text tower or a tokenizer that open_clip would fetch from a hub, because the folder lacks it."""
    config = str(folder / "open_clip_config.json")
    if (tower := text.get("hf_model_name")) and not Path(tower).is_dir():
        return [
            Problem(
                f"its text tower is the hub model {tower!r}", "choose a model whose folder holds all of it",
                file=config, column="judge.source",
            )
        ]  # fmt: skip
    if (name := text.get("hf_tokenizer_name")) and not _TOKENIZERS & files.keys():
        return [
            Problem(
                f"its tokenizer {name!r} is missing", "copy tokenizer.json and tokenizer_config.json into the folder",
                file=config, column="judge.source",
            )
        ]  # fmt: skip
    return []


def _judge_architecture(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
    names = _open_clip_names()
    if config.source not in names:
        near = difflib.get_close_matches(config.source, names, n=3)
        raise InputError(
            Problem(
                f"no judge folder at {resolve(config.source)}, and open_clip has no such architecture",
                "give `starter`, a folder with open_clip_config.json, or a name"
                + (f", say {', '.join(near)}" if near else ""),
                column="judge.source",
                value=config.source,
            )
        )
    if not config.pretrained:
        raise InputError(
            Problem(
                f"{config.source} names an architecture without weights",
                "set judge.pretrained to a .safetensors file, or to one of open_clip's tags",
                column="judge.pretrained",
            )
        )
    file = resolve(config.pretrained)
    fingerprint, pretrained = "", config.pretrained
    if file.is_file():
        _refuse_pickle(file, "judge.pretrained")
        fingerprint, pretrained = hash_files([file])[file], str(file)
    elif "/" in config.pretrained or config.pretrained.endswith((".safetensors", *PICKLES)):
        raise InputError(Problem("no such weight file", "check the path", file=str(file), column="judge.pretrained"))
    weights = fingerprint or f"tag:{config.pretrained}"
    payload = {"engine": "open_clip", "architecture": config.source, "weights": weights, "epoch": JUDGE_EPOCH}
    licence = facts.judge_licence(config.source, "" if fingerprint else config.pretrained)
    if fingerprint:
        card = read_card(file.parent)
        licence = str(card.get("license_name") or card.get("license") or "")
    centre, spread = _score_scale(read_json(names[config.source]))
    return JudgeSpec(
        key=content_key("judge", payload),
        engine="open_clip",
        source=config.source,
        pretrained=pretrained,
        fingerprint=fingerprint,
        licence=licence,
        commercial=facts.may_sell(licence),
        centre=centre,
        spread=spread,
    )


def _score_scale(model: Mapping[str, Any]) -> tuple[float, float]:
    """Where an open_clip model's cosines usually lie: models with a logit bias (SigLIP) have lower ones than CLIP."""
    return (0.05, 0.05) if "init_logit_bias" in model else (0.2, 0.05)


def _open_clip_names() -> dict[str, Path]:
    found = find_spec("open_clip")  # finds the package without importing it
    if found is None or not found.submodule_search_locations:
        raise EngineError("open_clip is not installed; install the package open-clip-torch")
    folder = Path(next(iter(found.submodule_search_locations))) / "model_configs"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def _refuse_pickle(file: Path, column: str) -> None:
    problems = check_weights({file.name: file}, file.parent)
    if file.suffix != ".safetensors":
        problems.append(
            Problem(
                "is not safetensors; other weight files run code when they are read",
                "convert it with `safetensors.torch.save_file` where you trust it",
                file=str(file),
                column=column,
            )
        )
    if problems:
        raise InputError(problems)


def _remembered_scale(file: Path, digest: str) -> int:
    memory = cache_folder() / "scales" / f"{digest}.json"
    try:
        return int(json.loads(memory.read_text(encoding="utf-8"))["scale"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    from assetmill.engines.upscale import read_scale

    scale = read_scale(file)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps({"scale": scale}), encoding="utf-8")
    except OSError:
        pass  # only costs the next start another look
    return scale
