"""Sections of a config: which pictures are acceptable, and which are chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from assetmill.config.base import Fraction, Section
from assetmill.config.engines import SafetyConfig
from assetmill.config.family import FamilyConfig


class GatesConfig(Section):
    """Acceptance checks on candidates. Thresholds on 8-bit values; a dim scene is not a black one."""

    black_max: float = Field(8.0, ge=0, le=255, description="Rejected when no pixel is brighter.")
    flat_std: float = Field(0.8, ge=0, le=128, description="Rejected when the standard deviation is lower.")
    max_rejected: Fraction = Field(0.2, description="The run stops above this share of black, flat or NaN images.")
    seam: float = Field(
        3.0,
        gt=0,
        description="Seamless pictures are rejected when opposite edges differ by more than so many times what 95 % of "
        "neighbouring columns (or rows) inside stay below.",
    )
    product_mean: float = Field(
        24.0,
        ge=0,
        le=255,
        description="`keep-product`: rejected when the model changed the product by more, the mean over its pixels.",
    )
    product_ssim: float = Field(
        0.6, ge=-1, le=1, description="`keep-product`: rejected when the product as the model made it has a lower SSIM."
    )
    regenerate: float = Field(1.0, ge=0, le=16, description="Budget of extra seeds, as a multiple of `candidates`.")
    plugins: tuple[str, ...] = Field((), description="Further gates, by entry-point name.")
    safety: SafetyConfig = SafetyConfig()


class SelectConfig(Section):
    keep: int = Field(1, ge=1, le=64, description="Variants kept.")
    per: Literal["asset", "cell"] = Field("asset", description="Keep that many per asset, or per cell of its axes.")
    near_duplicate: float | None = Field(
        0.97, gt=0, le=1, description="Cosine similarity from which two pictures count as one; null to allow."
    )
    diversity: float = Field(0.0, ge=0, le=1, description="Weight of difference against score (MMR).")
    min_score: float | None = Field(None, description="Candidates below are never chosen.")
    family: FamilyConfig | None = Field(None, description="Choose for families of assets together; off if left out.")


class CutConfig(Section):
    """Dropping the worst candidates of an asset before they are finished. Off where `at` is empty."""

    at: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(
        (), description="Shares of the steps after which half-made pictures are scored, in rising order: [0.25, 0.5]."
    )
    keep: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        (), description="Share of the candidates that goes on after each of them, in falling order: [0.5, 0.25]."
    )

    @model_validator(mode="after")
    def _check(self) -> CutConfig:
        if len(self.at) != len(self.keep):
            raise ValueError(f"`at` names {len(self.at)} cuts and `keep` {len(self.keep)}; give one share for each cut")
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("the shares of `at` must rise")
        if list(self.keep) != sorted(self.keep, reverse=True):
            raise ValueError("the shares of `keep` are of the candidates begun: they cannot rise")
        return self
