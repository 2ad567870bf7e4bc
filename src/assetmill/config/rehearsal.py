"""Sections of a config: golden rows that are made again when what makes pictures has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from assetmill.config.base import Fraction, Section

Measured = Literal["score", "yield", "approvals", "similarity"]


class RehearsalConfig(Section):
    """What is rehearsed before a changed model, library or setting makes a night's pictures. Off without rows."""

    assets: tuple[str, ...] = Field((), description="Ids of the golden rows; a sample if left out.")
    sample: int = Field(0, ge=0, le=1000, description="Number of golden rows to take from the sheet; 0: no rehearsal.")
    limits: Mapping[Measured, Annotated[float, Field(ge=0)]] = Field(
        {"score": 0.02, "yield": 0.1},
        description="How far each may fall: `score` (mean, in the judge's unit), `yield` (share that passes gates), "
        "`approvals` (share of approved pictures that has a near one among the new choice), `similarity` (mean cosine "
        "to the old pictures). What is left out is reported and limits nothing.",
    )
    strict: bool = Field(
        False, description="Hold limits against the lower end of the interval: drift must be ruled out, not unproven."
    )
    near: Fraction = Field(0.9, description="Cosine from which a new picture counts as near to an approved one.")
    accept: Literal["auto", "person"] = Field(
        "auto", description="Who accepts what is within the limits; `person`: only `assetmill rehearse --accept` does."
    )

    @property
    def is_on(self) -> bool:
        """Whether there are golden rows."""
        return bool(self.assets or self.sample)
