"""Section of a config: the house ranker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from assetmill.config.base import Section


class RankerConfig(Section):
    """What is learned from people's decisions, and whether the choice heeds it."""

    use: Literal["promoted", "off"] = Field(
        "promoted",
        description="Whether the ranker that was promoted takes part in the choice; nothing is until one is.",
    )
    group: str = Field(
        "", description="Column (brand, category) whose values may have tastes of their own; one for all if empty."
    )
    min_assets: int = Field(
        20,
        ge=5,
        description="Decided assets that it takes to train a ranker, and for a group to get a taste of its own.",
    )
    weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="How much a standard deviation of taste counts against one of the judge's score; learned from the "
        "decisions if left out. Takes effect with the next training.",
    )
