"""What decides how pictures come out and how they are judged, named without loading any of it.

A setup is plain JSON: for each model its base request (revision, epoch, steps, guidance, options …), number format and
weights laid over it, the judge, the gates, and the versions of the libraries behind them. Where two setups are equal,
so are their pictures, but for another machine's rounding. Places (paths, devices) and batch sizes are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from assetmill.config import Config, GatesConfig, JudgeConfig, ModelConfig
from assetmill.engines.protocols import JudgeSpec
from assetmill.engines.registry import resolve_judge, resolve_safety
from assetmill.operate.job import Job
from assetmill.operate.licences import check_licences
from assetmill.operate.overrides import wishes_of
from assetmill.operate.recipes import base_request, open_recipes
from assetmill.operate.taste import open_ranker
from assetmill.records import InputError, Problem, content_key

_TORCH = ("torch", "diffusers", "transformers")
_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "diffusers": _TORCH,
    "kandinsky": _TORCH,
    "cascade": _TORCH,
    "autoregressive": ("torch", "transformers"),
    "simulated": ("numpy",),
}
_JUDGE_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "open_clip": ("torch", "open-clip-torch"),
    "transformers": ("torch", "transformers"),
    "aesthetic": ("torch", "open-clip-torch", "transformers"),
    "simulated": ("numpy",),
}
_KNOBS = ("dtype", "compile", "channels_last", "fuse")
_NOT_ASKED = {"max_rejected", "regenerate", "safety"}
"""Settings of gates that say nothing about one picture; the safety check is named by its key."""


def setup_of(job: Job) -> dict[str, Any]:
    """What makes and judges the pictures of a job, as plain JSON. Imports no torch."""
    models: dict[str, Any] = {}
    for name, spec in job.recipes.specs.items():
        section = job.recipes.sections[name]
        request = base_request(section, spec).payload()
        models[name or "model"] = {
            **{k: v for k, v in request.items() if k not in ("positive", "seed")},
            **{k: getattr(section, k) for k in _KNOBS},
            "parts": sorted([p.kind, p.name, p.sha256, p.weight] for p in spec.parts),
            "stages": [[stage, revision] for stage, _, revision in spec.stages],
        }
    return {
        "models": models,
        "judge": {"key": job.judge.key, "dtype": job.config.judge.dtype},
        "gates": job.config.gates.model_dump(mode="json", exclude=_NOT_ASKED),
        "safety": job.safety.key if job.safety is not None else "",
        "versions": library_versions(job),
    }


def setup_key(setup: Mapping[str, Any]) -> str:
    """Names a setup: 64 hex digits."""
    return content_key("setup", setup)


def library_versions(job: Job) -> dict[str, str]:
    """Installed versions of what generates, judges and checks a job's pictures, by distribution. Imports none."""
    names = {"numpy", "pillow"}
    for spec in job.recipes.specs.values():
        names.update(_LIBRARIES.get(spec.engine) or _provider("assetmill.generators", spec.engine))
    for judge in _judges(job.judge):
        names.update(_JUDGE_LIBRARIES.get(judge.engine) or _provider("assetmill.judges", judge.engine))
    if job.safety is not None:
        names.update(("torch", "transformers"))
    for gate in job.config.gates.plugins:
        names.update(_provider("assetmill.gates", gate))
    return {name: metadata.version(name) for name in sorted(names)}


def sections_of(config: Config) -> dict[str, Any]:
    """The sections of a config that a setup comes from, as plain JSON: what the old one is opened with again."""
    return {
        "model": config.model.model_dump(mode="json"),
        "models": {name: section.model_dump(mode="json") for name, section in config.models.items()},
        "judge": config.judge.model_dump(mode="json"),
        "gates": config.gates.model_dump(mode="json"),
    }


def with_sections(job: Job, sections: Mapping[str, Any]) -> Job:
    """The same job with models, judge and gates of another day. Raises InputError, EngineError where they are gone."""
    try:
        config = job.config.model_copy(
            update={
                "model": ModelConfig.model_validate(sections["model"]),
                "models": {name: ModelConfig.model_validate(s) for name, s in sections["models"].items()},
                "judge": JudgeConfig.model_validate(sections["judge"]),
                "gates": GatesConfig.model_validate(sections["gates"]),
            }
        )
    except ValueError as error:  # pydantic's error is one
        raise InputError(Problem(f"settings of the baseline are not read any more: {error}")) from error
    wishes = wishes_of(job.decisions.states(), job.sheet.assets, config)
    wanted = [a for a in wishes.assets if not job.only or a.id in job.only][: job.limit]
    recipes = open_recipes(config, job.store, wanted)
    check_licences(config, recipes.specs, job.upscaler)
    judge = resolve_judge(config.judge, config.resolve)
    return replace(
        job, config=config, recipes=recipes, wishes=wishes, judge=judge,
        safety=resolve_safety(config.gates.safety, config.resolve), ranker=open_ranker(job.store, config, judge.key),
    )  # fmt: skip


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two setups, a line each: `models.model.revision: 1f0c… is now 77ab…`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    lines = []
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name), after.get(name)
        if one != other:
            lines.append(f"{name}: {_shown(one)} is now {_shown(other)}")
    return tuple(lines)


# --- inside -------------------------------------------------------------------------------------------------


def _judges(spec: JudgeSpec) -> Iterable[JudgeSpec]:
    return [part.spec for part in spec.parts] or [spec]


def _provider(group: str, name: str) -> tuple[str, ...]:
    """The distribution that brings a plug-in."""
    found = [p.dist.name for p in metadata.entry_points(group=group, name=name) if p.dist is not None]
    return tuple(found)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _shown(value: Any) -> str:
    text = "nothing" if value in (None, "", [], {}) else str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
