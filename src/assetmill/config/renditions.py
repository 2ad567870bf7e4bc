"""One file of every variant in a channel: what may be asked for, and which wishes go together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from assetmill.config.base import Fraction, Section, Size

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Edge = Annotated[int, Field(ge=8, le=16384)]

LOSSLESS = ("png", "webp-lossless")
"""Formats that keep every pixel as it is."""


class RenditionConfig(Section):
    """One file of every variant in a channel."""

    name: Name = Field("image", description="Part of the file's name; unique within its channel.")
    size: Size | None = Field(
        None, description="Canvas in pixels, `512` or `512x768`. Left out, it follows the picture and is never larger."
    )
    aspect: str | None = Field(
        None,
        pattern=r"^[1-9]\d{0,3}:[1-9]\d{0,3}$",
        description="Shape of a canvas that follows the picture, as `4:5`.",
    )
    max_edge: Edge | None = Field(None, description="Longest edge, in pixels, of a canvas that follows the picture.")
    min_edge: Edge | None = Field(
        None, description="A canvas that follows the picture and has a shorter edge than this is refused."
    )
    fit: Literal["fit", "cover", "pad"] = Field(
        "fit",
        description="`fit`: all of it, the file as large as the picture needs. `pad`: all of it on the whole canvas. "
        "`cover`: the canvas filled, the rest cut off round the focal point.",
    )
    frame: Literal["subject", "picture"] = Field(
        "subject",
        description="What of a cut-out is fitted into the canvas: its opaque part, or the whole picture with the room "
        "round it. Without a cut-out it is the picture.",
    )
    focal: Literal["alpha", "centre"] | tuple[Fraction, Fraction] = Field(
        "alpha", description="What `cover` keeps: the middle of what is opaque, the centre, or [x, y] in 0..1."
    )
    ground: str = Field(
        "keep", description="`keep`, `transparent` (cut out), or a colour that is laid under: `white`, `#f4f1ea`."
    )
    bars: str | None = Field(
        None,
        description="With `ground: keep`, what `pad` and `margin` add: a colour, or `border`, which continues the "
        "picture's own edge.",
    )
    margin: float = Field(0.0, ge=0, lt=50, description="Percent of the canvas' shorter edge kept free on each side.")
    min_fill: float = Field(
        50.0,
        ge=0,
        le=100,
        description="Percent of the room between the margins, in its tighter direction, that the picture has to fill "
        "without being enlarged; else it is refused.",
    )
    resample: Literal["lanczos", "nearest"] = Field(
        "lanczos", description="`nearest` is for pixel art: by whole factors and exact divisors only."
    )
    hard_alpha: bool = Field(False, description="Every pixel wholly opaque or wholly transparent, divided at half.")
    extrude: int = Field(
        0,
        ge=0,
        le=16,
        description="Outer pixels of the canvas that repeat those inside; a margin is inside too.",
    )
    bleed: bool = Field(
        False, description="Colours go on under what is transparent, so that filtering in a game draws no fringe."
    )
    palette: Path | None = Field(
        None, description="Picture or .hex, .gpl, .pal file whose colours are the only ones used."
    )
    format: Literal["png", "jpeg", "webp", "webp-lossless", "avif"] = "png"
    quality: int = Field(88, ge=1, le=100, description="Of JPEG, WebP and AVIF; where `max_bytes` is set, the highest.")
    min_quality: int = Field(40, ge=1, le=100, description="Below that a file is refused rather than made smaller.")
    min_colours: int | None = Field(
        None,
        ge=2,
        le=256,
        description="PNG over `max_bytes` is reduced to as few colours as this; if left out it stays lossless, and is "
        "refused where it is too large.",
    )
    max_bytes: int | None = Field(None, ge=256, description="Largest file, metadata and signature included.")

    @field_validator("ground", "bars")
    @classmethod
    def _check_colour(cls, value: str | None, info: object) -> str | None:
        words = ("keep", "transparent") if getattr(info, "field_name", "") == "ground" else ("border",)
        if value is not None and value not in words:
            check_colour(value, words)
        return value

    @property
    def cut_out(self) -> bool:
        """Whether it is composed from the cut-out, and not from the plain master."""
        return self.ground != "keep"

    @property
    def follows(self) -> bool:
        """Whether the canvas follows the picture."""
        return self.size is None


def check_colour(value: str, words: tuple[str, ...]) -> None:
    """ValueError where a text names no opaque colour."""
    from PIL import ImageColor

    try:
        opaque = len(ImageColor.getrgb(value)) == 3
    except ValueError:
        opaque = False
    if not opaque:
        raise ValueError(f"{value!r} is no opaque colour; write {', '.join(words)}, a name as `white`, or `#f4f1ea`")


def conflicts(spec: RenditionConfig) -> Iterator[str]:
    """What in a rendition does not go together, each with the way out."""
    given = spec.model_fields_set
    plain, lossy = not spec.cut_out, spec.format in ("jpeg", "webp", "avif")
    # the canvas
    if spec.size and spec.aspect:
        yield "size and aspect both shape the canvas: leave one out"
    if spec.size and (spec.max_edge or spec.min_edge):
        yield "max_edge and min_edge bound a canvas that follows the picture: leave them out, or size"
    if spec.max_edge and spec.min_edge and spec.max_edge < spec.min_edge:
        yield f"max_edge {spec.max_edge} is below min_edge {spec.min_edge}"
    if spec.fit != "fit" and not (spec.size or spec.aspect):
        yield f"fit: {spec.fit} needs a canvas: give size or aspect"
    if spec.fit == "fit" and spec.aspect:
        yield "an aspect needs fit: pad (room is added) or cover (the rest is cut off)"
    if spec.size and min(spec.size) - 2 * (spec.extrude + spec.margin / 100 * min(spec.size)) < 1:
        yield "margin and extrude leave no room in the canvas"
    # what is fitted into it
    if spec.fit == "cover" and spec.margin:
        yield "cover fills the canvas: leave margin out, or use pad"
    if spec.fit != "cover" and "focal" in given:
        yield "focal says what cover keeps: leave it out, or use fit: cover"
    if "frame" in given and (plain or spec.fit == "cover"):
        yield "frame is about a cut-out that is fitted in: give ground: transparent or a colour, and fit: fit or pad"
    if plain and (spec.fit == "pad" or spec.margin) and not spec.bars:
        yield (
            "pad and margin add room round the picture: give bars (a colour, or border), or have it cut out with "
            "ground: transparent or a colour"
        )
    if spec.bars and not (plain and (spec.fit == "pad" or spec.margin)):
        yield "bars are what pad and margin add to a picture with ground: keep; leave them out"
    # transparency
    if spec.ground == "transparent" and spec.format == "jpeg":
        yield "JPEG has no transparency: give a ground colour, or format: webp, avif or png"
    if spec.bleed and spec.ground != "transparent":
        yield "bleed continues colours under what is transparent: it needs ground: transparent"
    if spec.hard_alpha and plain:
        yield "hard_alpha needs a cut-out: give ground: transparent or a colour"
    # colours and bytes
    if spec.palette and lossy:
        yield f"{spec.format} adds colours that are not in the palette: use {' or '.join(LOSSLESS)}"
    if not lossy and given & {"quality", "min_quality"}:
        yield f"{spec.format} is lossless and has no quality: leave it out, or use jpeg, webp or avif"
    if lossy and spec.min_quality > spec.quality and "min_quality" in given:
        yield f"min_quality {spec.min_quality} is above quality {spec.quality}"
    if spec.min_colours and (spec.format != "png" or not spec.max_bytes):
        yield "min_colours says how far max_bytes may reduce a PNG: it needs both"
