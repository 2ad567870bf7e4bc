"""Which engines there are, what a config names, and how it is loaded. Resolving never imports torch; loading does.

Other packages add engines by entry points: group `assetmill.generators`, `assetmill.judges`, `assetmill.upscalers` or
`assetmill.segmenters`, each naming an object with `resolve(config, resolve_path)`, which gives the role's spec without
loading weights, and `load(spec, config)`, which gives the engine. A plug-in cannot take the name of a built-in engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from assetmill.config import JudgeConfig
from assetmill.engines import facts
from assetmill.engines.folders import read_json
from assetmill.engines.operations import DEFAULT_STRENGTH, check_operation, way_to
from assetmill.engines.own_options import check_options, check_request_options
from assetmill.engines.protocols import (
    EngineError,
    Generator,
    Judge,
    JudgeSpec,
    ModelSpec,
    Safety,
    SafetySpec,
    Segmenter,
    SegmenterSpec,
    Upscaler,
    UpscalerSpec,
)
from assetmill.engines.schedulers import scheduler_names
from assetmill.engines.tokens import count_tokens
from assetmill.engines.weighting import reads_long_prompts
from assetmill.records import InputError, Problem, Request, content_key

if TYPE_CHECKING:
    from assetmill.config import CutoutConfig, JudgePartConfig, ModelConfig, SafetyConfig, UpscaleConfig

__all__ = [
    "check_request",
    "check_settings",
    "count_tokens",
    "load_generator",
    "load_judge",
    "load_safety",
    "load_segmenter",
    "load_upscaler",
    "resolve_judge",
    "resolve_model",
    "resolve_safety",
    "resolve_segmenter",
    "resolve_upscaler",
]

GENERATORS = ("diffusers", "kandinsky", "cascade", "autoregressive", "simulated")
JUDGES = ("open_clip", "transformers", "aesthetic", "simulated")
UPSCALERS = ("spandrel", "diffusers", "transformers", "lanczos", "nearest", "none", "simulated")

SEGMENTERS = ("key", "rembg", "none")

RESIZE_EPOCH = 1
"""Raised by hand when `ResizeUpscaler` makes other pictures of the same picture."""

Resolve = Callable[[Path | str], Path]
_Spec = TypeVar("_Spec", ModelSpec, JudgeSpec, UpscalerSpec, SegmenterSpec)


# --- what a config names, without torch -----------------------------------------------------------------------


def resolve_model(config: ModelConfig, resolve: Resolve) -> ModelSpec:
    """The spec of the configured generator, its settings checked against the model. Never imports torch.

    Raises InputError with every problem: an unknown engine, unfit weights (see `model_folder`), or settings this model
    doesn't take.
    """
    if config.engine == "diffusers":
        from assetmill.engines.model_folder import resolve_pipeline

        spec = resolve_pipeline(config, resolve)
    elif config.engine == "kandinsky":
        from assetmill.engines.kandinsky import resolve_kandinsky

        spec = resolve_kandinsky(config, resolve)
    elif config.engine == "cascade":
        from assetmill.engines.cascade import resolve_cascade

        spec = resolve_cascade(config, resolve)
    elif config.engine == "autoregressive":
        from assetmill.engines.autoregressive import resolve_janus

        spec = resolve_janus(config, resolve)
    elif config.engine == "simulated":
        from assetmill.engines.simulated import resolve_simulated

        spec = resolve_simulated(config)
    else:
        found = _plugin("generators", config.engine, GENERATORS, "model.engine").resolve(config, resolve)
        spec = _checked(found, ModelSpec, "generators", config.engine)
    problems = check_settings(spec, config)
    if problems:
        raise InputError(problems)
    if config.options.get("clip_guidance") and config.guide is not None:
        spec = replace(spec, guide=resolve_judge(config.guide, resolve))
        if spec.guide is not None and spec.guide.engine != "open_clip":
            raise InputError(
                Problem(
                    f"{spec.guide.engine!r} cannot guide sampling: only open_clip judges have a gradient",
                    "set model.guide to an open_clip judge (model.guide.engine, .source)",
                    column="model.guide",
                )
            )
    if reads_long_prompts(spec, config.options):
        spec = replace(spec, token_limit=None)
    return spec


def check_settings(spec: ModelSpec, config: ModelConfig) -> list[Problem]:
    """What in a config's `model` section this model cannot honour; nothing is ever ignored quietly."""
    width, height = config.size or (spec.width, spec.height)
    problems = _check_size(spec, width, height, "model.size")
    if "steps" in spec.fixed and config.steps not in (None, spec.steps):
        problems.append(
            Problem(f"{spec.id} always takes {spec.steps} steps", "remove model.steps", column="model.steps")
        )

    def add(key: str, message: str, way_out: str) -> None:
        problems.append(Problem(f"{spec.id}: {message}", way_out, column=f"model.{key}"))

    if config.operation not in spec.operations:
        add("operation", f"cannot do {config.operation}", way_to(spec, config.operation))
    elif config.strength is not None and config.operation not in DEFAULT_STRENGTH:
        add("strength", f"strength has no meaning for {config.operation}", "remove it, or choose another operation")
    if (config.steps or spec.steps) < 1:
        add("steps", "its usual number of steps is not known", "set model.steps as its card says")
    guidance = spec.guidance if config.guidance is None else config.guidance
    if guidance < 0:
        add("guidance", "its usual guidance is not known", "set model.guidance as its card says")
    problems += _check_guidance(spec, guidance, config.negative, "model.guidance", "model.negative")
    for name, kind in (("adapters", "lora"), ("control", "control"), ("ip_adapter", "ip-adapter")):
        if getattr(config, name) and kind not in {part.kind for part in spec.parts}:
            add(name, f"the engine {spec.engine!r} takes none", "remove it")
    if config.stages and not spec.stages:
        add("stages", f"the engine {spec.engine!r} takes one folder", "remove them")
    for name in config.options:
        if name not in spec.option_names:
            add(
                f"options.{name}",
                f"the option {name!r} is unknown here",
                f"known options: {', '.join(spec.option_names) or 'none'}",
            )
    names = _scheduler_names(spec)
    problems += check_options(config.options)
    if config.scheduler and names is not None and config.scheduler not in names:
        add(
            "scheduler",
            f"the scheduler {config.scheduler!r} does not fit",
            f"use one of {', '.join(names)}" if names else "remove it: this model has none",
        )
    return problems


def check_request(spec: ModelSpec, request: Request) -> list[Problem]:
    """What in one request this model cannot honour, so that a plan can refuse it before anything is loaded."""
    problems = _check_size(spec, request.width, request.height, "size")
    problems += check_operation(spec, request)
    if spec.engine == "kandinsky":
        from assetmill.engines.kandinsky import check_mix

        problems += check_mix(request)
    problems += check_request_options(spec, request)
    problems += _check_guidance(spec, request.guidance, request.negative, "guidance", "negative")
    return problems


def resolve_judge(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
    """The spec of the configured judge, or of several combined. Never imports torch. Raises InputError.

    `key` covers the bytes of the weights, the model's preprocessing and the adapter's epoch. Where weights are given
    by one of open_clip's tags, the tag stands for the bytes: give a file or folder to pin them by their hash.
    """
    from assetmill.engines import judge_specs

    if isinstance(config, JudgeConfig) and config.combine:
        return judge_specs.combine([resolve_judge(part, resolve) for part in config.combine], config.combine)
    if config.engine not in JUDGES:
        found = _plugin("judges", config.engine, JUDGES, "judge.engine").resolve(config, resolve)
        return _checked(found, JudgeSpec, "judges", config.engine)
    return judge_specs.resolve_one(config, resolve)


def resolve_upscaler(config: UpscaleConfig, resolve: Resolve) -> UpscalerSpec:
    """The spec of the configured upscaler. Raises InputError.

    Never imports torch, but for one case: the factor of a weight file that no config states is found by loading it
    once, and remembered by the file's hash.
    """
    if config.engine in ("lanczos", "nearest", "none", "simulated"):
        scale = config.scale or (1 if config.engine == "none" else 4)
        if config.engine == "none" and scale != 1:
            raise InputError(
                Problem("the upscaler `none` keeps the size", "remove upscale.scale", column="upscale.scale")
            )
        key = content_key("upscaler", {"engine": config.engine, "scale": scale, "epoch": RESIZE_EPOCH})
        return UpscalerSpec(key=key, engine=config.engine, scale=scale, licence="apache-2.0", commercial=True)
    if config.engine in ("diffusers", "transformers"):
        from assetmill.engines.upscaler_folders import resolve_upscaler_folder

        return resolve_upscaler_folder(config, resolve)
    if config.engine != "spandrel":
        found = _plugin("upscalers", config.engine, UPSCALERS, "upscale.engine").resolve(config, resolve)
        return _checked(found, UpscalerSpec, "upscalers", config.engine)
    from assetmill.engines.weight_files import resolve_spandrel

    return resolve_spandrel(config, resolve)


def resolve_safety(config: SafetyConfig, resolve: Resolve) -> SafetySpec | None:
    """The spec of the configured safety check, None where there is none. Never imports torch. Raises InputError."""
    if config.source is None:
        return None
    from assetmill.engines.safety import resolve_safety_folder

    return resolve_safety_folder(config, resolve)


def resolve_segmenter(config: CutoutConfig, resolve: Resolve) -> SegmenterSpec | None:
    """The spec of the configured segmentation model, None where cut-outs need none. Raises InputError, EngineError."""
    if config.engine in ("key", "none"):
        return None
    if config.engine == "rembg":
        from assetmill.engines.segment import resolve_rembg

        return resolve_rembg(config, resolve)
    found = _plugin("segmenters", config.engine, SEGMENTERS, "cutout.engine").resolve(config, resolve)
    return _checked(found, SegmenterSpec, "segmenters", config.engine)


# --- loading ----------------------------------------------------------------------------------------------------


def load_generator(spec: ModelSpec, config: ModelConfig) -> Generator:
    """Loads the generator of a spec, after checking that the weights are still those it names.

    Raises OutOfMemory, saying what would help, where the weights alone don't fit the device.
    """
    if spec.gib:
        from assetmill.engines.memory import check_memory

        check_memory(spec, config)
    if spec.engine == "diffusers":
        from assetmill.engines.latent import LatentGenerator
        from assetmill.engines.model_folder import verify_weights

        verify_weights(spec)
        return LatentGenerator(spec, config)
    if spec.engine == "kandinsky":
        from assetmill.engines.kandinsky import KandinskyGenerator

        return KandinskyGenerator(spec, config)
    if spec.engine == "cascade":
        from assetmill.engines.cascade import CascadeGenerator

        return CascadeGenerator(spec, config)
    if spec.engine == "autoregressive":
        from assetmill.engines.autoregressive import JanusGenerator

        return JanusGenerator(spec, config)
    if spec.engine == "simulated":
        from assetmill.engines.simulated import OPTIONS, SimulatedGenerator

        options: dict[str, Any] = {k: v for k, v in config.options.items() if k in OPTIONS}
        return SimulatedGenerator(spec, **options)
    return _plugin("generators", spec.engine, GENERATORS, "model.engine").load(spec, config)


def load_judge(spec: JudgeSpec, config: JudgeConfig | JudgePartConfig) -> Judge:
    """Loads the judge of a spec, after checking that the weights are still those it names."""
    if spec.engine == "combined" and isinstance(config, JudgeConfig):
        from assetmill.engines.combined import CombinedJudge

        judges = [load_judge(p.spec, part) for p, part in zip(spec.parts, config.combine, strict=True)]
        return CombinedJudge(spec, judges)
    if spec.engine == "simulated":
        from assetmill.engines.simulated import SimulatedJudge

        return SimulatedJudge()
    if spec.engine == "open_clip":
        from assetmill.engines.clip import ClipJudge

        return ClipJudge(spec, device=config.device, dtype=config.dtype)
    if spec.engine == "transformers":
        from assetmill.engines.preference import PreferenceJudge

        return PreferenceJudge(spec, device=config.device, dtype=config.dtype)
    if spec.engine == "aesthetic":
        from assetmill.engines.preference import AestheticJudge

        return AestheticJudge(spec, device=config.device, dtype=config.dtype)
    return _plugin("judges", spec.engine, JUDGES, "judge.engine").load(spec, config)


def load_upscaler(spec: UpscalerSpec, config: UpscaleConfig) -> Upscaler:
    """Loads the upscaler of a spec, after checking that the weights are still those it names."""
    where: dict[str, Any] = {
        "tile": config.tile,
        "overlap": config.overlap,
        "device": config.device,
        "dtype": config.dtype,
    }
    if spec.engine == "spandrel":
        from assetmill.engines.upscale import SpandrelUpscaler

        return SpandrelUpscaler(spec, **where)
    if spec.engine == "diffusers":
        from assetmill.engines.upscale_diffusion import DiffusionUpscaler

        return DiffusionUpscaler(spec, options=config.options, **where)
    if spec.engine == "transformers":
        from assetmill.engines.upscale_swin2sr import Swin2SRUpscaler

        return Swin2SRUpscaler(spec, **where)
    if spec.engine in UPSCALERS:
        from assetmill.engines.upscale import ResizeUpscaler

        return ResizeUpscaler(spec)
    return _plugin("upscalers", spec.engine, UPSCALERS, "upscale.engine").load(spec, config)


def load_safety(spec: SafetySpec | None, config: SafetyConfig) -> Safety | None:
    """Loads the separate safety check of a spec; None where the config asks for none."""
    if spec is None:
        return None
    from assetmill.engines.safety import SafetyCheck

    return SafetyCheck(spec, config)


def load_segmenter(spec: SegmenterSpec | None, config: CutoutConfig) -> Segmenter | None:
    """Loads the segmentation model of a spec, after checking its weights; None where cut-outs need none."""
    if spec is None:
        return None
    if spec.engine == "rembg":
        from assetmill.engines.segment import RembgSegmenter

        return RembgSegmenter(spec, config.device)
    return _plugin("segmenters", spec.engine, SEGMENTERS, "cutout.engine").load(spec, config)


# --- inside -------------------------------------------------------------------------------------------------


def _plugin(kind: str, name: str, builtin: Sequence[str], column: str) -> Any:
    points = metadata.entry_points(group=f"assetmill.{kind}")
    for point in points:
        if point.name == name and name not in builtin:
            try:
                plugin = point.load()
            except Exception as error:
                raise EngineError(f"the plug-in {name!r} ({point.value}) cannot be loaded: {error}") from error
            if not (callable(getattr(plugin, "resolve", None)) and callable(getattr(plugin, "load", None))):
                raise EngineError(
                    f"the plug-in {name!r} ({point.value}) lacks `resolve` or `load`; see docs/plugins.md"
                )
            return plugin
    known = [*builtin, *sorted(point.name for point in points if point.name not in builtin)]
    raise InputError(
        Problem(f"the engine {name!r} is unknown", f"use one of {', '.join(known)}", column=column, value=name)
    )


def _checked(spec: Any, wanted: type[_Spec], kind: str, name: str) -> _Spec:
    """A plug-in's spec, when it is one: a wrong key would otherwise stand in the store for good."""
    if not isinstance(spec, wanted):
        raise EngineError(f"{name!r} of assetmill.{kind} gave {type(spec).__name__}, not a {wanted.__name__}")
    key = getattr(spec, "key", None)
    if key is not None and not re.fullmatch(r"[0-9a-f]{64}", key):
        raise EngineError(f"{name!r} of assetmill.{kind} has the key {key[:40]!r}; make it with records.content_key")
    return spec


def _check_size(spec: ModelSpec, width: int, height: int, column: str) -> list[Problem]:
    if "size" in spec.fixed and (width, height) != (spec.width, spec.height):
        own = f"{spec.width}x{spec.height}"
        return [Problem(f"{spec.id} makes {own} only", "remove the size", column=column, value=f"{width}x{height}")]
    multiple = spec.size_multiple
    if width % multiple == 0 and height % multiple == 0:
        return []
    fit = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (width, height))
    return [
        Problem(
            f"{spec.id} makes sizes that are multiples of {multiple}",
            f"say {fit}",
            column=column,
            value=f"{width}x{height}",
        )
    ]


def _check_guidance(
    spec: ModelSpec, guidance: float, negative: str, column: str, negative_column: str
) -> list[Problem]:
    problems = []
    if spec.guidance_kind == "none" and guidance > 0:
        problems.append(Problem(f"{spec.id} takes no guidance", "set it to 0", column=column, value=str(guidance)))
    if negative and (spec.guidance_kind != "classifier-free" or 0 <= guidance <= 1):
        why = "at guidance 1 or below" if spec.guidance_kind == "classifier-free" else "with this model"
        problems.append(
            Problem(
                f"a negative prompt has no effect {why} ({spec.id})",
                "remove it, or raise model.guidance above 1" if "guidance" in why else "remove it",
                column=negative_column,
                value=negative,
            )
        )
    return problems


def _scheduler_names(spec: ModelSpec) -> tuple[str, ...] | None:
    if spec.schedulers is not None or spec.engine != "diffusers":
        return spec.schedulers
    path = Path(spec.folder) / "scheduler" / "scheduler_config.json"
    settings = read_json(path) if path.is_file() else {}
    return scheduler_names(facts.family_named(spec.family), str(settings.get("_class_name", "")), settings)
