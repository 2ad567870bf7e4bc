"""What a config's judges are, alone or combined: checked and named without importing torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from assetmill.engines import facts
from assetmill.engines.folders import check_weights, fingerprint_folder, hash_files, read_card, read_json
from assetmill.engines.folders import safetensors_header as read_header
from assetmill.engines.protocols import JudgePart, JudgeSpec
from assetmill.engines.upscaler_folders import check_model_folder
from assetmill.engines.weight_files import resolve_open_clip
from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    from assetmill.config import JudgeConfig, JudgePartConfig

PREFERENCE_EPOCH = 1
"""Raised by hand when `preference.py` gives other scores for the same picture and text."""

COMBINED_EPOCH = 1
"""Raised by hand when `combined.py` adds scores in another way."""

PREFERENCE_CLASSES = ("CLIPModel", "SiglipModel")
"""Classes of transformers that PreferenceJudge reads: PickScore is the first."""

Resolve = Callable[[Path | str], Path]


def resolve_one(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
    """The spec of one built-in judge. Raises InputError."""
    if config.engine != "aesthetic" and config.head is not None:
        raise InputError(Problem(f"the judge {config.engine!r} has no head", "remove judge.head", column="judge.head"))
    if config.options:
        raise InputError(
            Problem(
                f"the judge {config.engine!r} has no options", "remove judge.options; they are for plug-ins",
                column="judge.options",
            )
        )  # fmt: skip
    if config.engine == "simulated":
        from assetmill.engines.simulated import JUDGE_KEY

        return JudgeSpec(key=JUDGE_KEY, engine="simulated", source="simulated", licence="apache-2.0", commercial=True)
    if config.engine == "aesthetic":
        return _resolve_aesthetic(config, resolve)
    if config.engine == "transformers":
        return _resolve_preference(config, resolve)
    return resolve_open_clip(config, resolve)


def combine(specs: Sequence[JudgeSpec], parts: Sequence[JudgePartConfig]) -> JudgeSpec:
    """The spec of several judges together. `key` covers every part's key, weight and scale.

    The licence is that of all parts; commercial use is allowed where all allow it, unknown where one is.
    """
    if not any(part.weight for part in parts):
        raise InputError(Problem("all judges weigh 0", "give at least one of them a weight", column="judge.combine"))
    found = tuple(
        JudgePart(
            spec, part.weight, spec.centre if part.centre is None else part.centre,
            spec.spread if part.spread is None else part.spread,
        )
        for spec, part in zip(specs, parts, strict=True)
    )  # fmt: skip
    payload = {"parts": [[p.spec.key, p.weight, p.centre, p.spread] for p in found], "epoch": COMBINED_EPOCH}
    licence, commercial = _join_terms([(p.spec.licence, p.spec.commercial) for p in found])
    return JudgeSpec(
        key=content_key("judge", {"engine": "combined", **payload}),
        engine="combined",
        source=" + ".join(spec.source for spec in specs),
        licence=licence,
        commercial=commercial,
        parts=found,
    )


def head_layers(file: Path) -> list[str]:
    """The names of a head's layers in their order: a chain of matrices (out, in) that ends with one number.

    Layers count by the numbers in their names, as in LAION's `layers.0.weight`. Raises ValueError where the shapes
    don't make a chain.
    """
    header = read_header(file)
    shapes = {n: t["shape"] for n, t in header.items() if n != "__metadata__"}
    names = sorted(
        (n for n in shapes if n == "weight" or n.endswith(".weight")),
        key=lambda n: [int(d) for d in re.findall(r"\d+", n)],
    )
    if not names or any(len(shapes[n]) != 2 for n in names):
        raise ValueError("holds no matrices named `weight`")
    for name, following in pairwise(names):
        if shapes[following][1] != shapes[name][0]:
            raise ValueError(f"{name} gives {shapes[name][0]} numbers, {following} reads {shapes[following][1]}")
    if shapes[names[-1]][0] != 1:
        raise ValueError(f"{names[-1]} gives {shapes[names[-1]][0]} numbers, not one score")
    biases = {n.removesuffix("weight") + "bias" for n in names}
    odd = sorted(set(shapes) - set(names) - biases)
    if odd:
        raise ValueError(f"holds {odd[0]}, which is neither a layer's weight nor its bias")
    return names


# --- inside -------------------------------------------------------------------------------------------------


def _join_terms(terms: Sequence[tuple[str, bool | None]]) -> tuple[str, bool | None]:
    """The licence of several weights together, and whether all of them allow commercial use (None: not known)."""
    allowed = [may_sell for _, may_sell in terms]
    licence = " and ".join(dict.fromkeys(name or "unknown" for name, _ in terms))
    return licence, False if False in allowed else None if None in allowed else True


def _resolve_preference(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
    folder = resolve(config.source)
    if not (folder / "config.json").is_file():
        raise InputError(
            Problem(
                "no folder with a config.json", "give a folder that transformers' `save_pretrained` wrote, model and "
                "processor", file=str(folder), column="judge.source", value=config.source,
            )
        )  # fmt: skip
    name = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    if name not in PREFERENCE_CLASSES:
        raise InputError(
            Problem(
                f"{name or 'it'} is no judge that is known here", f"give a folder of {', '.join(PREFERENCE_CLASSES)}",
                file=str(folder), column="judge.source",
            )
        )  # fmt: skip
    problems = check_model_folder(folder, "judge.source")
    if not (folder / "preprocessor_config.json").is_file() and not (folder / "processor_config.json").is_file():
        problems.append(
            Problem(
                "does not say how it wants its pictures", "copy its preprocessor_config.json as well",
                file=str(folder), column="judge.source",
            )
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    fingerprint = fingerprint_folder(folder)
    card = read_card(folder)
    licence = str(card.get("license_name") or card.get("license") or "")
    payload = {"engine": "transformers", "weights": fingerprint, "epoch": PREFERENCE_EPOCH}
    return JudgeSpec(
        key=content_key("judge", payload), engine="transformers", source=str(folder), fingerprint=fingerprint,
        licence=licence, commercial=facts.may_sell(licence), centre=20.0, spread=1.5,
    )  # fmt: skip


def _resolve_aesthetic(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
    if config.head is None:
        raise InputError(
            Problem("an aesthetic judge needs a head", "set judge.head to its .safetensors file", column="judge.head")
        )
    file = resolve(config.head)
    if not file.is_file():
        raise InputError(Problem("no such weight file", "check the path", file=str(file), column="judge.head"))
    problems = check_weights({file.name: file}, file.parent)
    if file.suffix != ".safetensors":
        problems.append(
            Problem(
                "is not safetensors; other weight files run code when they are read",
                "convert it with `safetensors.torch.save_file` where you trust it", file=str(file), column="judge.head",
            )
        )  # fmt: skip
    if not problems:
        try:
            head_layers(file)
        except ValueError as error:
            problems = [
                Problem(
                    f"is no head: it {error}", "give an MLP on CLIP embeddings that ends with one score",
                    file=str(file), column="judge.head",
                )
            ]  # fmt: skip
    if problems:
        raise InputError(problems)
    plain = config.model_copy(update={"head": None})
    folder = resolve(config.source)
    is_model = config.source != "starter" and (folder / "config.json").is_file()
    base = (
        _resolve_preference if is_model and not (folder / "open_clip_config.json").is_file() else resolve_open_clip
    )(plain, resolve)
    digest = hash_files([file])[file]
    payload = {"engine": "aesthetic", "base": base.key, "head": digest, "epoch": PREFERENCE_EPOCH}
    card = read_card(file.parent)
    own = str(card.get("license_name") or card.get("license") or "")
    licence, commercial = _join_terms([(base.licence, base.commercial), (own, facts.may_sell(own))])
    return JudgeSpec(
        key=content_key("judge", payload), engine="aesthetic", source=base.source, pretrained=base.pretrained,
        fingerprint=base.fingerprint, licence=licence, commercial=commercial, head=str(file),
        head_fingerprint=digest, centre=5.0, spread=1.0, parts=(JudgePart(base, 1.0, 0.0, 1.0),),
    )  # fmt: skip
