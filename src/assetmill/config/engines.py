"""Sections of a config: the models that make, judge and enlarge pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assetmill.config.base import Fraction, Section, Size
from assetmill.records import Scalar


class AdapterConfig(Section):
    path: Path
    weight: float = 1.0
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Pinned hash of the file.")


class StageConfig(Section):
    """A further folder or hub id of a model that comes in several."""

    source: str = Field(description="Folder or hub id.")
    revision: str | None = Field(None, description="Pinned commit of a hub id, or fingerprint of a folder.")


class _JudgeSource(Section):
    engine: str = Field("open_clip", description="open_clip, transformers, aesthetic, simulated, or a plug-in's name.")
    source: str = Field("starter", description="`starter`, a folder, or an open_clip model name.")
    pretrained: str | None = Field(None, description="open_clip tag or weight file for a model name.")
    head: Path | None = Field(None, description="Weight file of the head, for the engine `aesthetic`.")
    options: Mapping[str, Scalar] = Field(default_factory=dict, description="Settings only this engine knows.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="`auto` is always float32.")


class JudgePartConfig(_JudgeSource):
    """One of several judges whose scores are added."""

    weight: float = Field(1.0, description="Share in the sum; negative to prefer low scores.")
    centre: float | None = Field(None, description="Score that counts as 0; the engine's own if left out.")
    spread: float | None = Field(None, gt=0, description="Score above `centre` that counts as 1; as `centre`.")


class JudgeConfig(_JudgeSource):
    """Which model scores pictures against the rank text."""

    combine: tuple[JudgePartConfig, ...] = Field(
        (), description="Several judges in place of one: the weighted mean of their scores, each on a fixed scale."
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> JudgeConfig:
        if self.combine and self.model_fields_set - {"combine"}:
            names = ", ".join(sorted(self.model_fields_set - {"combine"}))
            raise ValueError(f"`combine` names all judges: put {names} into its parts")
        return self


class ModelConfig(Section):
    """Which generator makes the pictures, and its settings."""

    engine: str = Field(
        "diffusers",
        description="diffusers, kandinsky, cascade, autoregressive, simulated, or a plug-in's name.",
    )
    source: str = Field("starter", description="`starter`, a folder, or a hub id.")
    revision: str | None = Field(None, description="Pinned commit of a hub id (40 hex digits).")
    stages: Mapping[str, StageConfig] = Field(
        default_factory=dict,
        description="Further folders of a model that comes in several: `prior` (kandinsky), `second` (cascade).",
    )
    operation: str = "text-to-image"
    size: Size | None = Field(None, description="Pixels, `512` or `512x768`; the model's own if left out.")
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0.0, le=100.0)
    scheduler: str | None = Field(None, description="diffusers scheduler class; the model's own if left out.")
    negative: str = Field("", description="Negative prompt where neither row nor template gives one.")
    strength: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    adapters: tuple[AdapterConfig, ...] = ()
    control: Mapping[str, Path] = Field(
        default_factory=dict, description="ControlNet folders by the kind of map they take: {edge: path, depth: path}."
    )
    ip_adapter: Path | None = Field(
        None, description="IP-Adapter file (.safetensors, `image_encoder` beside it), for the operation `variation`."
    )
    image: str | None = Field(
        None, description="Reference image of rows that name none: a path, a picture of the store, or a URL."
    )
    image_to: str | None = Field(None, description="The other end of `interpolation`, as `image`.")
    mask: str | None = Field(None, description="Image for `inpaint`, white where pixels may change, as `image`.")
    keep: str | None = Field(
        None, description="Image for `keep-product`, white where the product is; the alpha of `image` if left out."
    )
    weight: float | None = Field(
        None,
        ge=0.0,
        le=2.0,
        description="How strongly reference image or control map act (1 if left out); in `interpolation` the share of "
        "the other end (0.5 if left out).",
    )
    caption_to: str = Field("", description="The other end of `interpolation` between two captions.")
    options: Mapping[str, Scalar] = Field(default_factory=dict, description="Settings only this engine knows.")
    guide: JudgeConfig | None = Field(
        None, description="The open_clip judge behind `options.clip_guidance`; `judge` if left out."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch: int | None = Field(None, ge=1, le=4096, description="Images per forward; found if left out.")
    compile: bool = Field(False, description="torch.compile the denoiser's blocks.")
    channels_last: bool = Field(False, description="Memory format of the denoiser and the VAE.")
    fuse: bool = Field(False, description="Fuse the query, key and value projections of attention.")
    preview: Path | None = Field(
        None, description="Tiny VAE that shows half-made pictures: `starter`, or a folder; else the model's own."
    )
    offload: bool = Field(False, description="Keep parts that don't work on the CPU (needs less GPU memory).")
    offline: bool = Field(True, description="Never ask a hub at run time; pull models beforehand.")
    timeout: float = Field(600.0, gt=0, description="Seconds after which one batch counts as hung.")


class SafetyConfig(Section):
    """A check for pictures that must not be published, beside the generator's own."""

    source: str | None = Field(None, description="Folder of a safety checker or image classifier; no check without.")
    reject: tuple[str, ...] = Field((), description="Labels of a classifier that reject a picture: at least one.")
    threshold: Fraction = Field(0.5, description="Probability of such a label from which a picture is rejected.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")


class UpscaleConfig(Section):
    engine: str = Field("spandrel", description="spandrel, diffusers, transformers, lanczos, nearest, none, a plug-in.")
    source: str = Field("starter", description="`starter`, a weight file (safetensors), or an upscaler's folder.")
    scale: int | None = Field(None, ge=1, le=16, description="Factor; the model's own if left out.")
    tile: int = Field(256, ge=32, description="Edge of a tile in pixels; larger images are tiled with overlap.")
    overlap: int = Field(16, ge=0)
    options: Mapping[str, Scalar] = Field(default_factory=dict, description="Settings only this engine knows.")
    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
