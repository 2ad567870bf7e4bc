"""Models that come in several folders: found, checked and named together, without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.folders import check_weights, fingerprint_folder, model_files, read_card, read_json
from assetmill.engines.model_folder import check_code, check_components, locate_model, read_index, verify_weights
from assetmill.engines.protocols import ModelSpec
from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    from assetmill.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Stage:
    """One folder of a model. `revision` is its commit if it comes from a hub, else its fingerprint."""

    name: str
    folder: Path
    revision: str
    id: str

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of one of its parts, empty where it has none."""
        path = self.folder / part / "config.json"
        return read_json(path) if path.is_file() else {}

    @property
    def spec_entry(self) -> tuple[str, str, str]:
        return self.name, str(self.folder), self.revision


def find_stages(
    config: ModelConfig,
    resolve: Callable[[Path | str], Path],
    classes: Mapping[str, str],
    *,
    optional: tuple[str, ...] = (),
) -> dict[str, Stage]:
    """The stages of a model by name, in the order of `classes`, which names the pipeline class each has to be.

    The first stage is what `model.source` names; the others stand in `model.stages`. Or `model.source` is a folder
    that holds a folder per stage. Stages in `optional` may be missing. Nothing is loaded. Raises InputError with
    every problem found.
    """
    unknown = sorted(set(config.stages) - set(list(classes)[1:]))
    if unknown:
        raise InputError(
            [
                Problem(f"there is no stage {name!r}", f"known: {', '.join(list(classes)[1:])}", column="model.stages")
                for name in unknown
            ]
        )
    first, *others = classes
    whole, whole_id, commit = locate_model(config, resolve)
    places = {first: (whole, whole_id, commit)}
    if not (whole / "model_index.json").is_file() and (whole / first).is_dir():
        places = {name: (whole / name, whole_id, "") for name in classes if (whole / name).is_dir()}
    problems = []
    for name in others:
        if name in config.stages:
            stage = config.stages[name]
            settings = config.model_copy(update={"source": stage.source, "revision": stage.revision})
            try:
                places[name] = locate_model(settings, resolve)
            except InputError as error:
                column = f"model.stages.{name}"
                problems += [replace(p, column=p.column.replace("model", column, 1)) for p in error.problems]
        elif name not in places and name not in optional:
            problems.append(
                Problem(
                    f"the stage {name!r} is missing",
                    f"give model.stages.{name}, or a folder that holds {' and '.join(f'{n}/' for n in classes)}",
                    file=str(whole),
                    column=f"model.stages.{name}",
                )
            )
    stages = {}
    for name in [n for n in classes if n in places]:
        folder, model_id, commit = places[name]
        pinned = config.stages[name].revision if name in config.stages else None
        try:
            stages[name] = _read_stage(name, folder, model_id, commit, classes[name], pinned)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return stages


def revision_of(stages: Mapping[str, Stage]) -> str:
    """The name of a model's content over all its stages: 64 hex digits, or the one stage's own revision."""
    if len(stages) == 1:
        return next(iter(stages.values())).revision
    return content_key("stages", {"stages": {name: stage.revision for name, stage in stages.items()}})


def check_pin(config: ModelConfig, stages: Mapping[str, Stage], revision: str) -> None:
    """Refuses, with InputError, folders that differ from the fingerprint a config pins."""
    first = next(iter(stages.values()))
    pinned = config.revision
    if pinned and pinned not in (revision, first.revision):
        raise InputError(
            Problem(
                f"the folders' fingerprint is {revision}, the config pins {pinned}",
                "restore the pinned files, or pin the new fingerprint",
                file=str(first.folder),
                column="model.revision",
            )
        )


def licence_of(stages: Mapping[str, Stage]) -> tuple[str, bool | None]:
    """The stages' licences, joined where they differ, and whether all of them allow commercial use."""
    found = []
    for stage in stages.values():
        card = read_card(stage.folder)
        licence = str(card.get("license_name") or card.get("license") or "")
        known = facts.MODELS.get(stage.id)
        if (not licence or licence == "other") and known is not None:
            licence = known.licence
        found.append(licence)
    allowed = [facts.may_sell(licence) for licence in found]
    commercial = False if False in allowed else None if None in allowed else True
    return " and ".join(dict.fromkeys(filter(None, found))), commercial


def weights_gib(stages: Mapping[str, Stage]) -> float:
    """GiB of all weights as stored: what loading them needs at least."""
    files = [p for stage in stages.values() for p in stage.folder.glob("*/*.safetensors")]
    return round(sum(p.stat().st_size for p in files) / 2**30, 3)


def shipped_settings(stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Defaults that an `assetmill.json` in or around the first stage's folder states."""
    first = next(iter(stages.values())).folder
    for path in (first / "assetmill.json", first.parent / "assetmill.json"):
        if path.is_file():
            return read_json(path)
    return {}


def token_limit(folder: Path, fallback: int) -> int:
    """How many tokens the tokenizer of a folder reads."""
    path = folder / "tokenizer_config.json"
    limit = read_json(path).get("model_max_length", 0) if path.is_file() else 0
    return int(limit) if 0 < limit < 100_000 else fallback


def verify_stages(spec: ModelSpec) -> None:
    """Reads every byte of each stage again and compares it with what the plan named; raises InputError."""
    problems: list[Problem] = []
    for _, folder, revision in spec.stages:
        try:
            verify_weights(replace(spec, folder=folder, revision=revision))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


# --- inside -------------------------------------------------------------------------------------------------


def _read_stage(name: str, folder: Path, model_id: str, commit: str, class_name: str, pinned: str | None) -> Stage:
    index = read_index(folder)
    files = model_files(folder)
    problems = [*check_code(folder, index, files), *check_components(folder, index), *check_weights(files, folder)]
    if index.get("_class_name") != class_name:
        problems.append(
            Problem(
                f"is a {index.get('_class_name')}, where the stage {name!r} has to be a {class_name}",
                "give the folder of that stage",
                file=str(folder),
            )
        )
    if problems:
        raise InputError(problems)
    revision = commit or fingerprint_folder(folder)
    if pinned and pinned != revision:
        raise InputError(
            Problem(
                f"the folder's fingerprint is {revision}, the config pins {pinned}",
                "restore the pinned files, or pin the new fingerprint",
                file=str(folder),
                column=f"model.stages.{name}.revision",
            )
        )
    return Stage(name, folder, revision, model_id)
