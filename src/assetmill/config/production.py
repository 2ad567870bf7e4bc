"""One production: all sections of a config together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from assetmill.config.base import Section
from assetmill.config.curation import CutConfig, GatesConfig, SelectConfig
from assetmill.config.cutouts import CutoutConfig
from assetmill.config.delivery import PublishConfig, StoreConfig
from assetmill.config.engines import JudgeConfig, ModelConfig, UpscaleConfig
from assetmill.config.experiments import ExperimentConfig
from assetmill.config.intake import PromptsConfig, ReferencesConfig, SheetConfig
from assetmill.config.licences import LicencesConfig
from assetmill.config.operation import NotifyConfig, RunConfig, ScheduleConfig
from assetmill.config.ranker import RankerConfig
from assetmill.config.rehearsal import RehearsalConfig
from assetmill.config.retention import RetentionConfig
from assetmill.config.review import ReviewConfig


class Config(Section):
    """One production: a sheet, its templates, the models and where the pictures go."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="Names the catalog within its store.")
    seed: int = Field(0, ge=0, lt=2**32)
    candidates: int = Field(4, ge=1, le=1024, description="Images per prompt to choose from.")
    sheet: SheetConfig
    prompts: PromptsConfig
    model: ModelConfig = ModelConfig()
    models: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")], ModelConfig] = Field(
        default_factory=dict,
        description="Further models by name, for rows whose `model` column names one; keys as those of `model`.",
    )
    references: ReferencesConfig = ReferencesConfig()
    judge: JudgeConfig = JudgeConfig()
    gates: GatesConfig = GatesConfig()
    select: SelectConfig = SelectConfig()
    cut: CutConfig = CutConfig()
    adaptive: bool = Field(
        False, description="Share the seeds of a chunk: more for assets that are still poor, fewer for good ones."
    )
    upscale: UpscaleConfig = UpscaleConfig()
    cutout: CutoutConfig = CutoutConfig()
    store: StoreConfig = StoreConfig()
    publish: PublishConfig = PublishConfig()
    review: ReviewConfig = ReviewConfig()
    ranker: RankerConfig = RankerConfig()
    experiment: ExperimentConfig | None = Field(
        None, description="Other templates or settings to try on some assets; nothing of it is published by itself."
    )
    licences: LicencesConfig = LicencesConfig()
    retention: RetentionConfig = RetentionConfig()
    rehearsal: RehearsalConfig = RehearsalConfig()
    run: RunConfig = RunConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    notify: NotifyConfig = NotifyConfig()
    base: Path = Field(Path(), exclude=True, description="Folder that relative paths resolve against.")

    @model_validator(mode="before")
    @classmethod
    def _guide_by_the_judge(cls, data: Any) -> Any:
        """Names the run's judge as the guide of every model that asks for guidance and names none."""
        if not isinstance(data, Mapping):
            return data

        def guided(model: Any) -> Any:
            options = model.get("options") if isinstance(model, Mapping) else None
            wanted = isinstance(options, Mapping) and options.get("clip_guidance") and not model.get("guide")
            return {**model, "guide": data.get("judge") or {}} if wanted else model

        named = data.get("models")
        models = {name: guided(model) for name, model in named.items()} if isinstance(named, Mapping) else named
        return {
            **data,
            **({"model": guided(data["model"])} if "model" in data else {}),
            **({"models": models} if "models" in data else {}),
        }

    @model_validator(mode="after")
    def _check_rounds(self) -> Config:
        if self.adaptive and self.cut.at:
            raise ValueError(
                "adaptive and cut do not go together: adaptive rounds begin too few candidates at a time for cutting; "
                "turn one of them off"
            )
        return self

    @model_validator(mode="after")
    def _check_devices(self) -> Config:
        if self.run.execution == "local":
            return self
        parts: dict[str, Any] = {
            "model": self.model,
            **{f"models.{name}": model for name, model in self.models.items()},
        }
        parts |= {"judge": self.judge, "upscale": self.upscale}
        parts |= {f"judge.combine[{n}]": part for n, part in enumerate(self.judge.combine)}
        fixed = [f"{name}.device" for name, part in parts.items() if part.device.startswith("cuda:")]
        if fixed:
            raise ValueError(
                f"{', '.join(fixed)} names one GPU, but run.execution is {self.run.execution}: each worker sees "
                "its own GPU only; leave it at auto"
            )
        return self

    @model_validator(mode="after")
    def _check_arms(self) -> Config:
        for arm in self.experiment.arms if self.experiment is not None else ():
            wanted = len(self.prompts.templates)
            if arm.templates is not None and len(arm.templates) != wanted:
                raise ValueError(
                    f"experiment.arms: {arm.name!r} has {len(arm.templates)} templates in the place of {wanted}; "
                    "name one for each of prompts.templates (its own where it stays)"
                )
            if arm.model is not None and arm.model not in self.models:
                known = ", ".join(self.models) or "none yet"
                raise ValueError(
                    f"experiment.arms: {arm.name!r} names the model {arm.model!r}, and `models` has {known}"
                )
        return self

    def resolve(self, path: Path | str) -> Path:
        """A path of this config as an absolute one."""
        return (self.base / Path(path).expanduser()).resolve()

    @property
    def store_url(self) -> str:
        """The store's URL with a folder made absolute."""
        url = self.store.url
        return url if "://" in url else str(self.resolve(url))
