"""Section of a config: review by people."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from assetmill.config.base import Section


class ReviewConfig(Section):
    """What the review page and the `decisions` commands offer."""

    reasons: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        (
            "not what was asked for",
            "wrong colour",
            "deformed",
            "cropped",
            "text or watermark",
            "wrong style",
            "dull",
        ),
        max_length=9,
        description="Reasons to reject that are offered, by number; others may be typed.",
    )

    @field_validator("reasons")
    @classmethod
    def _check_reasons(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({reason for reason in value if value.count(reason) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))} stands in it twice; each reason has one number")
        return value
