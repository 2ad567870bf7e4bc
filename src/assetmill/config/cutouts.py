"""Sections of a config: how objects are taken off their ground, and which cut-outs are acceptable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from assetmill.config.base import Fraction, Section


class CutoutGatesConfig(Section):
    """When a cut-out is refused, so that the next-ranked candidate takes its place."""

    ground: Fraction = Field(
        0.7, description="`key` only: least share of the picture's border that one soft ground explains."
    )
    min_coverage: Fraction = Field(0.02, description="Least share of the picture that is opaque.")
    max_coverage: Fraction = Field(0.95, description="Largest share of the picture that is opaque.")
    max_border: Fraction = Field(
        0.01, description="Largest share of the picture's edge that the object touches: it is cropped there."
    )
    max_holes: int = Field(6, ge=0, description="Most holes; smaller ones than 1 in 5,000 pixels don't count.")
    max_hole_area: Fraction = Field(0.4, description="Largest share of the filled outline that holes take.")
    max_fringe: Fraction = Field(
        0.2, description="How much of the ground's colour may be left in the edge's, on average: 0 none, 1 all."
    )

    @model_validator(mode="after")
    def _check(self) -> CutoutGatesConfig:
        if self.min_coverage >= self.max_coverage:
            raise ValueError(
                f"min_coverage {self.min_coverage:g} leaves nothing below max_coverage {self.max_coverage:g}; lower it"
            )
        return self


class CutoutConfig(Section):
    """Cut-outs for channels that want transparency or another ground; made once per chosen picture."""

    engine: str = Field(
        "key", description="`key` (flat grounds, no model), `rembg` (a segmentation model), `none`, or a plug-in."
    )
    tolerance: float = Field(
        2.0, gt=0, le=20, description="`key`: OKLab distance × 100 (about 2 is just seen) still taken for the ground."
    )
    holes: bool = Field(True, description="`key`: enclosed parts of the ground with a sharp rim are cut out too.")
    model: str = Field("birefnet-general", description="`rembg`: name of its kind of model, as rembg has it.")
    source: Path | None = Field(None, description="`rembg`: the model's .onnx file.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="`rembg`: what the file's SHA-256 must be."
    )
    download: bool = Field(
        False, description="`rembg`: without `source`, let rembg fetch the model by name and keep it in its own folder."
    )
    device: str = Field("auto", description="`rembg`: auto, cpu, cuda …")
    gates: CutoutGatesConfig = CutoutGatesConfig()
