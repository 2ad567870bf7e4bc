"""What each row's pictures are made with and from: model, operation, settings, reference images, adapters.

A row that says nothing of the engine shares one request with all others like it, so that it costs a plan nothing. What
a row says is looked up and checked here, before any model is loaded; whatever is wrong names its row and column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from assetmill.config import Config, ModelConfig
from assetmill.deliver.picture import decode
from assetmill.engines.adapters import resolve_lora
from assetmill.engines.operations import DEFAULT_STRENGTH, adapters_for
from assetmill.engines.own_options import request_options
from assetmill.engines.protocols import ModelSpec, Part
from assetmill.engines.references import References, StoredPictures
from assetmill.engines.registry import check_request, check_settings, count_tokens, resolve_model
from assetmill.intake.plan import AssetPlan, requests_of
from assetmill.operate.adapter_files import keep_adapter
from assetmill.operate.inputs import CALLED, IMAGE_SETTINGS, IMAGES, Inputs
from assetmill.operate.licences import declare
from assetmill.records import Adapter, Asset, EngineOverrides, InputError, Problem, Prompt, Request
from assetmill.storage.store import Store

DEFAULT = ""
"""The name of the config's `model` among its models."""

_SETTING_OF = {"init": "image", "image-to": "image_to", "adapters": "lora", "negative": "negative", "size": "size"}
_SAYS_NOTHING = EngineOverrides()
_PLACES = ("device", "dtype", "offload", "compile", "channels_last")


def base_request(section: ModelConfig, spec: ModelSpec) -> Request:
    """The request that all rows share which say nothing of the engine; texts, seed and references are left out."""
    width, height = section.size or (spec.width, spec.height)
    return Request(
        spec.engine, spec.epoch, spec.id, spec.revision, "", 0, width, height, section.steps or spec.steps,
        spec.guidance if section.guidance is None else section.guidance, negative=section.negative,
        scheduler=section.scheduler or spec.scheduler, operation=section.operation,
        strength=section.strength if section.operation in DEFAULT_STRENGTH else None,
        adapters=adapters_for(spec, section.operation), options=request_options(spec, section.options),
    )  # fmt: skip


def read_pictures(store: Store, config: Config) -> StoredPictures:
    """Gives engines the reference images of their requests, from the store."""
    return StoredPictures(store, partial(decode, max_pixels=config.references.max_pixels))


def open_recipes(config: Config, store: Store, assets: Sequence[Asset]) -> Recipes:
    """The models of a config, and all reference images and adapters that its rows name, looked up.

    Raises InputError for models and settings that no row can work with; what is wrong with one row waits for it.
    """
    sections = {DEFAULT: config.model, **config.models}
    specs: dict[str, ModelSpec] = {}
    problems: list[Problem] = []
    for name, section in sections.items():
        try:
            specs[name] = declare(resolve_model(_checkable(config, section), config.resolve), config.licences)
        except InputError as error:
            problems += [_in_section(p, name) for p in error.problems]
        problems += _unused_images(config, name, section)
    problems += _same_weights_elsewhere(sections, specs)
    if problems:
        raise InputError(problems)
    folders = [config.resolve(folder) for folder in config.references.folders]
    references = References(store, config.references, config.name, config.base.resolve(), folders, decode)
    recipes = Recipes(config, specs, references)
    recipes.prepare(assets)
    return recipes


class Recipes:
    """Gives the request that a row's pictures start from, and says what is wrong with it.

    `specs` are the config's models by name, `""` being `model`; `prepare` adds the rows' LoRAs to their parts.
    """

    def __init__(self, config: Config, specs: Mapping[str, ModelSpec], references: References) -> None:
        self.config = config
        self.sections: Mapping[str, ModelConfig] = {DEFAULT: config.model, **config.models}
        self.specs = dict(specs)
        self.references = references
        self.inputs = Inputs(config, references)
        self._loras: dict[tuple[str, str], Part | tuple[Problem, ...]] = {}
        self._common = {
            name: [Adapter("lora", p.sha256, p.weight) for p in spec.parts if p.kind == "lora"]
            for name, spec in specs.items()
        }
        self._built: dict[EngineOverrides, Request | tuple[Problem, ...]] = {}
        self._counters: dict[str, Callable[[str], int] | None] = {}
        self.base = base_request(config.model, specs[DEFAULT])

    def prepare(self, assets: Iterable[Asset]) -> None:
        """Looks up every image and LoRA that rows or config name, each once."""
        said = [a.overrides.engine for a in assets if a.overrides.engine is not None]
        texts = [getattr(s, k) for s in (*said, *self.sections.values()) for k in IMAGE_SETTINGS]
        self.references.prepare(text for text in texts if isinstance(text, str))
        for own in said:
            for file, _ in own.lora or ():
                self._find_lora(own.model or DEFAULT, file)
        for name, spec in self.specs.items():
            held = {part.sha256 for part in spec.parts}
            found = [p for (model, _), p in self._loras.items() if model == name and isinstance(p, Part)]
            new = {part.sha256: part for part in found if part.sha256 not in held}
            self.specs[name] = replace(spec, parts=(*spec.parts, *new.values()))

    def base_of(self, asset: Asset) -> Request:
        """The request an asset's pictures start from: all but texts, seed and size. Raises InputError with its row."""
        return self._request(asset, asset.overrides.engine)

    def spec_of(self, asset: Asset) -> ModelSpec:
        """The model that an asset names."""
        return self.specs[self.name_of(asset)]

    def name_of(self, asset: Asset) -> str:
        """Under which name the config has the model of an asset."""
        own = asset.overrides.engine
        return (own.model if own is not None else None) or DEFAULT

    def check(self, asset: Asset, prompts: Sequence[Prompt]) -> None:
        """Raises InputError, naming row and column, where the model cannot make what a row and its prompts ask for."""
        base = self.base_of(asset)
        own, spec = asset.overrides, self.spec_of(asset)
        guided = spec.guidance_kind == "classifier-free" and base.guidance > 1
        if own.engine is None and own.width is None and own.negative is None:
            varied = [prompt for prompt in prompts if prompt.engine is not None]
            prompts = varied if guided else [*[prompt for prompt in prompts if prompt.negative][:1], *varied]
        problems: dict[Problem, None] = {}
        for prompt in prompts:
            request, _ = requests_of(asset, prompt, self.base_of, self.config, [0])
            problems |= dict.fromkeys(check_request(spec, request))
        if problems:
            raise self._located(asset, [self._in_sheet(p, own.engine or _SAYS_NOTHING) for p in problems])

    def token_limit(self, name: str) -> tuple[Callable[[str], int] | None, int | None]:
        """How a model counts tokens, and how many it reads."""
        if name not in self._counters:
            self._counters[name] = count_tokens(self.specs[name])
        return self._counters[name], self.config.prompts.token_limit or self.specs[name].token_limit

    def needed(self, assets: Iterable[Asset]) -> tuple[str, ...]:
        """Names of the models that some assets need, those of equal weights once."""
        names = [name for name in dict.fromkeys(map(self.name_of, assets)) if name in self.specs]
        return tuple({_identity(self.specs[name]): name for name in reversed(names)}.values())[::-1]

    def loaded_spec(self, name: str) -> ModelSpec:
        """A model's spec with the parts of all sections that have the same weights: what is to be loaded."""
        spec = self.specs[name]
        same = [s for s in self.specs.values() if _identity(s) == _identity(spec)]
        parts = {(p.kind, p.name, p.sha256): p for s in same for p in s.parts}
        return replace(spec, parts=tuple(parts.values()))

    def licences(self) -> dict[str, tuple[str, bool | None]]:
        """Licence of each model and whether it allows commercial use, by revision."""
        return {spec.revision: (spec.licence, spec.commercial) for spec in self.specs.values()}

    def keep(self, plans: Sequence[AssetPlan]) -> None:
        """Puts the images and LoRAs of some plans into the store, before any record names them. Raises InputError."""
        varied = ((plan, p.engine) for plan in plans for p in plan.prompts if p.engine is not None)
        found = [self._request(plan.asset, own) for plan, own in varied]
        bases = {id(base): base for base in (*found, *(self.base_of(plan.asset) for plan in plans))}
        self.references.keep({r.blob for base in bases.values() for r in base.references})
        used = {a.sha256 for base in bases.values() for a in base.adapters if a.kind == "lora"}
        parts = {p.sha256: p for spec in self.specs.values() for p in spec.parts if p.sha256 in used}
        for sha256, part in parts.items():
            keep_adapter(self.references.store, Path(part.path), sha256)

    # --- inside -----------------------------------------------------------------------------------------------

    def _request(self, asset: Asset, own: EngineOverrides | None) -> Request:
        own = own or _SAYS_NOTHING
        found = self._built.get(own)
        if found is None:
            if len(self._built) > 20_000:  # sheets with a picture per row: nearly all are asked for twice only
                self._built.clear()
            found = self._built[own] = self._build(own)
        if isinstance(found, Request):
            return found
        raise self._located(asset, found)

    def _build(self, own: EngineOverrides) -> Request | tuple[Problem, ...]:
        name = own.model or DEFAULT
        if name not in self.specs:
            known = ", ".join(filter(None, self.specs)) or "none yet"
            return (
                Problem(
                    f"there is no model called {name!r}", f"`models` has {known}", column=self.inputs.column("model")
                ),
            )
        spec, section = self.specs[name], self.sections[name]
        operation = own.operation or section.operation
        strength = own.strength
        if strength is None and operation in DEFAULT_STRENGTH:
            strength = section.strength
        settings = {"operation": operation, "strength": strength}
        settings |= {k: getattr(own, k) for k in ("steps", "guidance", "scheduler") if getattr(own, k) is not None}
        section = section.model_copy(update=settings)
        problems = [self._in_sheet(p, own) for p in check_settings(spec, section)] if own != _SAYS_NOTHING else []
        if operation not in spec.operations:
            return tuple(problems)
        references, options = self.inputs.gather(own, section, spec, problems)
        loras: list[Adapter] = self._common[name]
        if own.lora is not None:
            loras = []
            for file, weight in own.lora:
                part = self._find_lora(name, file)
                if isinstance(part, Part):
                    loras.append(Adapter("lora", part.sha256, weight))
                else:
                    problems += part
        if problems:
            return tuple(problems)
        kinds = [r.kind for r in references if r.role == "control"]
        return replace(
            base_request(section, spec), references=tuple(references), options=request_options(spec, options),
            adapters=adapters_for(spec, operation, kinds, loras),
        )  # fmt: skip

    def _find_lora(self, model: str, file: str) -> Part | tuple[Problem, ...]:
        key = (model, file)
        if key not in self._loras and model in self.specs:
            self._loras[key] = self._check_lora(self.specs[model], file)
        return self._loras.get(key, ())

    def _check_lora(self, spec: ModelSpec, file: str) -> Part | tuple[Problem, ...]:
        column = self.inputs.column("lora")
        path = (self.references.base / file).resolve()
        if not any(path.is_relative_to(folder) for folder in self.references.folders):
            way_out = "copy the file there, or add its folder to references.folders"
            return (Problem(f"the path leads out of {self.references.base}", way_out, column=column, value=file),)
        if spec.engine != "diffusers":
            return (Problem(f"{spec.id} takes no LoRAs", "empty the cell, or choose another model", column=column),)
        try:
            return resolve_lora(path, Path(spec.folder), column=column)
        except InputError as error:
            return tuple(replace(p, file="", message=f"{file}: {p.message}") for p in error.problems)

    def _in_sheet(self, problem: Problem, own: EngineOverrides) -> Problem:
        """A problem of settings or of a request, under the name of the column where the row itself said so."""
        setting = problem.column.rpartition("model.")[2]
        setting = _SETTING_OF.get(setting, setting)
        if getattr(own, setting, None) is not None or setting in ("size", "negative"):
            return replace(problem, column=self.inputs.column(setting))
        return problem

    def _located(self, asset: Asset, problems: Sequence[Problem]) -> InputError:
        file, row = str(self.config.sheet.path), asset.rows[0] if asset.rows else None
        return InputError([replace(p, file=file, row=row, message=f"{asset.id}: {p.message}") for p in problems])


# --- inside -------------------------------------------------------------------------------------------------


def _identity(spec: ModelSpec) -> tuple[Any, ...]:
    return spec.engine, spec.epoch, spec.id, spec.revision


def _in_section(problem: Problem, name: str) -> Problem:
    """A problem of a model's section under the section's own key."""
    if not name:
        return problem
    key = problem.column.removeprefix("model").lstrip(".")
    return replace(problem, column=f"models.{name}.{key}".rstrip("."))


def _checkable(config: Config, section: ModelConfig) -> ModelConfig:
    """A section as its own operation sees it: with a column for operations, its strength may be meant for others."""
    if "operation" in config.sheet.overrides and section.operation not in DEFAULT_STRENGTH:
        return section.model_copy(update={"strength": None})
    return section


def _unused_images(config: Config, name: str, section: ModelConfig) -> list[Problem]:
    """Images of a section that no row can use: the operation takes none, and no column names another operation."""
    if "operation" in config.sheet.overrides:
        return []
    wanted = IMAGES.get(section.operation, {})
    return [
        _in_section(
            Problem(f"{section.operation} takes no {CALLED[s][2:]}", "remove it", column=f"model.{s}"), name
        )
        for s in IMAGE_SETTINGS
        if s != "control" and s not in wanted and getattr(section, s) is not None
    ]  # fmt: skip


def _same_weights_elsewhere(sections: Mapping[str, ModelConfig], specs: Mapping[str, ModelSpec]) -> list[Problem]:
    """Sections that name the same weights but not the same place for them: they are loaded once."""
    problems = []
    first: dict[tuple[Any, ...], str] = {}
    for name, spec in specs.items():
        other = first.setdefault(_identity(spec), name)
        for key in _PLACES:
            if getattr(sections[name], key) != getattr(sections[other], key):
                problems.append(
                    Problem(
                        f"{key} differs from {f'models.{other}' if other else 'model'}, which has the same weights",
                        "say the same: they are loaded once", column=f"models.{name}.{key}",
                    )
                )  # fmt: skip
    return problems
