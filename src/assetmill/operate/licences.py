"""The licence policy: which weights a config may use, found out before anything is planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from assetmill.config import Config, LicencesConfig
from assetmill.engines.adapters import part_licence
from assetmill.engines.facts import describe_terms, may_sell
from assetmill.engines.protocols import ModelSpec, SegmenterSpec, UpscalerSpec
from assetmill.records import InputError, Problem
from assetmill.storage.bans import wildcard

Spec = TypeVar("Spec", ModelSpec, UpscalerSpec, SegmenterSpec)


def declare(spec: Spec, policy: LicencesConfig) -> Spec:
    """The spec with the licence that `licences.known` names for it, where its weights name none themselves."""
    if spec.licence:
        return spec
    names = (spec.id, spec.revision) if isinstance(spec, ModelSpec) else (Path(spec.file).name, spec.fingerprint)
    licence = next((policy.known[name] for name in names if name in policy.known), "")
    return replace(spec, licence=licence, commercial=may_sell(licence)) if licence else spec


def check_licences(
    config: Config, models: Mapping[str, ModelSpec], upscaler: UpscalerSpec, segmenter: SegmenterSpec | None = None
) -> None:
    """Raises InputError with everything that `licences` refuses: what, its licence, what the policy says.

    `models` are those of the config by name, with the parts of all rows: LoRAs, ControlNets, IP-Adapters.
    """
    policy = config.licences
    if not policy.asks:
        return
    problems: dict[str, Problem] = {}
    for what, column, licence, commercial in _weights(policy, models, upscaler, segmenter):
        for key, reason in _refusals(policy, licence, commercial):
            way_out = "choose another one, or change the policy"
            if not licence:
                way_out = "name its licence in licences.known, or choose another one"
            message = f"{what} has {_said(licence, commercial)}; licences.{key} {reason}"
            problems.setdefault(what, Problem(message, way_out, column=column))
    if problems:
        raise InputError(list(problems.values()))


def _weights(
    policy: LicencesConfig,
    models: Mapping[str, ModelSpec],
    upscaler: UpscalerSpec,
    segmenter: SegmenterSpec | None,
) -> Iterator[tuple[str, str, str, bool | None]]:
    """All weights that make or cut out pixels: what they are, the key that names them, licence, commercial use."""
    for name, spec in models.items():
        column = f"models.{name}" if name else "model"
        yield f"the model {spec.id}", f"{column}.source", spec.licence, spec.commercial
        for part in spec.parts:
            if part.kind == "preview":
                continue  # shows pictures in the making, and makes none
            names = (Path(part.path).name, part.sha256)
            licence = part_licence(part) or next((policy.known[n] for n in names if n in policy.known), "")
            key = {"lora": "adapters", "ip-adapter": "ip_adapter"}.get(part.kind, part.kind)
            yield f"the {part.kind} {Path(part.path).name}", f"{column}.{key}", licence, may_sell(licence)
    what = Path(upscaler.file).name if upscaler.file else upscaler.engine
    yield f"the upscaler {what}", "upscale.source", upscaler.licence, upscaler.commercial
    if segmenter is not None:
        yield f"the segmenter {segmenter.model}", "cutout.model", segmenter.licence, segmenter.commercial


def _refusals(policy: LicencesConfig, licence: str, commercial: bool | None) -> Iterator[tuple[str, str]]:
    denied = next((p for p in policy.deny if licence and wildcard(p).fullmatch(licence)), None)
    if denied is not None:
        yield "deny", f"has {denied!r}"
    if policy.allow and not any(wildcard(p).fullmatch(licence) for p in policy.allow if licence):
        yield "allow", f"has only {', '.join(policy.allow)}"
    if policy.commercial == "required" and not commercial:
        yield "commercial", "is 'required'"


def _said(licence: str, commercial: bool | None) -> str:
    return f"the licence {describe_terms(licence, commercial)}" if licence else "no licence that is known"
