"""Section of a config: experiments with templates and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from assetmill.config.base import Section

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]

ENGINE_SETTINGS = ("model", "steps", "guidance", "scheduler", "strength")
"""What an arm may say of the engine; names as in the sheet's overrides."""


class ArmConfig(Section):
    """One thing to try: what differs from the config as it stands."""

    name: Name = Field(description="Names it in reports, and its pictures: `game-asset@shorter`.")
    templates: tuple[Path, ...] | None = Field(
        None,
        min_length=1,
        description="Templates in the place of `prompts.templates`, one for each, with the same axes.",
    )
    model: str | None = Field(None, min_length=1, description="One of `models`.")
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0.0, le=100.0)
    scheduler: str | None = None
    strength: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    negative: str | None = Field(None, description="Negative prompt in the place of the template's and the model's.")

    @model_validator(mode="after")
    def _check_differs(self) -> ArmConfig:
        if all(getattr(self, name) is None for name in ("templates", "negative", *ENGINE_SETTINGS)):
            raise ValueError(f"the arm {self.name!r} changes nothing; give it templates or a setting to try")
        return self


class ExperimentConfig(Section):
    """Arms that are tried on the same assets with the same seeds as the config as it stands."""

    name: Name = Field(description="Names the experiment, and decides which assets are drawn for it.")
    arms: tuple[ArmConfig, ...] = Field(min_length=1, max_length=8)
    assets: Annotated[int, Field(ge=2)] | Literal["all"] = Field(
        24, description="How many assets take part, drawn by their ids; or all."
    )

    @field_validator("arms")
    @classmethod
    def _check_names(cls, value: tuple[ArmConfig, ...]) -> tuple[ArmConfig, ...]:
        names = [arm.name for arm in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two arms are called {', '.join(map(repr, twice))}; give each a name of its own")
        return value
