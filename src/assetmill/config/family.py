"""Section of a config: choosing for a family of assets together."""

from __future__ import annotations

from pydantic import Field

from assetmill.config.base import Section


class FamilyConfig(Section):
    """Choosing one picture for each asset of a family, so that they go together."""

    column: str = Field(min_length=1, description="Assets with the same text in this column are a family.")
    coherence: float = Field(
        0.25,
        ge=0,
        le=100,
        description="Weight of likeness in embedding; at 1 a standard deviation of it counts as one of score.",
    )
    palette: float = Field(
        0.25,
        ge=0,
        le=100,
        description="Weight of likeness in colours; at 1 a standard deviation of it counts as one of score.",
    )
    duplicates: float = Field(
        4.0,
        ge=0,
        le=100,
        description="What two pictures that count as one (`select.near_duplicate`) cost, in standard deviations of "
        "score.",
    )
    most: int = Field(
        64,
        ge=2,
        le=256,
        description="Assets in the largest family; a larger one stops the plan.",
    )
