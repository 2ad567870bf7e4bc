"""Sections of a config: where everything is kept, and what leaves."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from assetmill.config.base import Fraction, Section
from assetmill.config.feeds import FEED_FIELDS, PATTERN_FIELDS, SHOPS, FeedConfig, FeedName, Locale, pattern_problem
from assetmill.config.packs import join_renditions
from assetmill.config.provenance import CredentialsConfig, ProvenanceConfig
from assetmill.config.renditions import Name, RenditionConfig


class StoreConfig(Section):
    """A folder, or a bucket (`s3://bucket/prefix`). Credentials come from boto3's usual chain, never from here."""

    url: str = "out"
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    multipart_bytes: int = Field(
        64 * 2**20,
        ge=5 * 2**20,
        le=5 * 2**30,
        description="In a bucket, larger objects go up in parts of this size, each checked and tried again by itself.",
    )
    options: Mapping[str, str] = Field(
        default_factory=dict,
        description="Extra put_object arguments: ServerSideEncryption, ACL, StorageClass …",
    )


class AtlasConfig(Section):
    """Packed sheets of a channel's pictures."""

    rendition: Name | None = Field(None, description="Which rendition is packed; the channel's first if left out.")
    size: int = Field(2048, ge=64, le=16384, description="Largest edge of a sheet, in pixels.")
    padding: int = Field(2, ge=0, le=64, description="Pixels between sprites.")
    extrude: int = Field(1, ge=0, le=16, description="Pixels by which a sprite's edges are repeated.")
    trim: bool = Field(True, description="Leave transparent borders out, as TexturePacker does.")
    power_of_two: bool = Field(True, description="Edges of sheets are powers of two.")
    layout: Literal["hash", "array", "phaser", "godot"] = Field(
        "hash",
        description="Form of the sheet's data: TexturePacker JSON as hash or array (a file per sheet), one Phaser 3 "
        "multi-atlas, or one .tpsheet as TexturePacker's Godot importer reads it.",
    )
    sprite: str = Field("{id}_{rank}", description="Sprites' names, over id, rank, seed, template and `columns`.")
    pivot: tuple[Fraction, Fraction] = Field((0.5, 0.5), description="Pivot of every sprite, of its untrimmed size.")
    max_waste: Fraction = Field(
        0.4, description="Sprites keep their places from night to night until packing afresh would save such a share."
    )


class ChannelConfig(Section):
    """One place pictures go to, and the files it wants of each."""

    pack: Literal["shop", "social", "game", "pixel-game"] | None = Field(
        None,
        description="Shipped list of renditions. Those below are added; one that has a name of the pack's changes the "
        "keys it gives.",
    )
    renditions: tuple[RenditionConfig, ...] = ()
    palette: Path | None = Field(None, description="Palette of all its renditions that name none.")
    name: str | None = Field(None, description="File name pattern; that of `publish` if left out.")
    embed: Literal["full", "disclosure"] = Field(
        "disclosure", description="`full`: prompts and settings in every file. `disclosure`: only that a model made it."
    )
    sidecar: bool = Field(False, description="A JSON file beside every picture, with as much as `embed` allows.")
    sign: bool = Field(False, description="Sign content credentials (C2PA) with `publish.credentials`.")
    atlas: AtlasConfig | None = None

    @model_validator(mode="after")
    def _check_renditions(self) -> ChannelConfig:
        specs = join_renditions(self.pack, self.renditions, self.palette)
        names = [spec.name for spec in specs]
        if self.atlas and self.atlas.rendition not in (None, *names):
            raise ValueError(f"atlas.rendition {self.atlas.rendition!r} is none of its renditions: {', '.join(names)}")
        return self


class PublishConfig(Section):
    policy: Literal["auto", "approved"] = Field("auto", description="Publish what ranks well, or what people approved.")
    min_score: float | None = Field(None, description="With `auto`: below this a variant waits for review.")
    columns: tuple[str, ...] = Field((), description="Columns that may leave with the catalog (allow-list).")
    channel: Name = Field("master", description="Name of the only channel where `channels` has none.")
    channels: Mapping[Name, ChannelConfig] = Field(
        default_factory=dict, description="Channels by name. Without any, masters go out as they are."
    )
    provenance: ProvenanceConfig = ProvenanceConfig()
    credentials: CredentialsConfig | None = Field(
        None, description="Certificate and key of the channels that `sign`; none if left out."
    )
    format: Literal["png", "webp"] = Field("png", description="Format masters are kept in; both are lossless.")
    name: str = Field("{id}_{rank}", description="File name pattern over id, rank, seed, template and `columns`.")
    removed: Literal["keep", "retire"] = Field("keep", description="What becomes of assets that left the sheet.")
    max_removed: Fraction = Field(0.2, description="A run refuses to retire a larger share of the catalog.")
    max_changed: Fraction = Field(1.0, description="A run refuses to change a larger share of the catalog.")
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="Public address of the store's root, for the URLs of feeds: https://cdn.example.com/assets.",
    )
    cache_control: str = Field(
        "public, max-age=31536000, immutable",
        description="Cache-Control header of published files in a bucket; their names change with their bytes.",
    )
    alt: Mapping[Locale, str] = Field(
        default_factory=dict,
        description="Alternative text by locale, as patterns over id, rank, seed, template and `columns`; the empty "
        "locale is the sheet's own language.",
    )
    feeds: Mapping[FeedName, FeedConfig] = Field(
        default_factory=dict, description="Files for other systems by name, written when the catalog changes."
    )

    @model_validator(mode="after")
    def _check_provenance(self) -> PublishConfig:
        signed = [name for name, channel in self.channels.items() if channel.sign]
        if signed and self.credentials is None:
            raise ValueError(
                f"channel {signed[0]!r} has `sign: true`, and there are no publish.credentials: name a certificate "
                "and a key there, or leave `sign` out"
            )
        try:
            parts = [(f, spec, cast) for _, f, spec, cast in string.Formatter().parse(self.provenance.title) if f]
        except ValueError as error:
            raise ValueError(f"provenance.title is not a pattern: {error}; write it like {{name}}") from error
        for name, spec, cast in parts:
            if name not in ("id", *self.columns):
                raise ValueError(f"provenance.title uses {{{name}}}: use {{id}}, or add the column to publish.columns")
            if spec or cast:
                raise ValueError(f"provenance.title uses {{{name}}} with a format; write the name alone")
        return self

    @model_validator(mode="after")
    def _check_patterns(self) -> PublishConfig:
        plain = {*PATTERN_FIELDS, *self.columns}
        patterns = [(f"alt.{locale or repr('')}", pattern, plain) for locale, pattern in self.alt.items()]
        for name, channel in self.channels.items():
            if channel.atlas is not None:
                patterns.append((f"channels.{name}.atlas.sprite", channel.atlas.sprite, plain))
        for name, feed in self.feeds.items():
            known = {*plain, *FEED_FIELDS}
            patterns += [(f"feeds.{name}.fields.{f}", pattern, known) for f, pattern in feed.fields.items()]
            patterns += [(f"feeds.{name}.group", feed.group, plain)] if feed.group is not None else []
        for key, pattern, allowed in patterns:
            if problem := pattern_problem(pattern, allowed):
                raise ValueError(f"{key} {problem}")
        return self

    @model_validator(mode="after")
    def _check_feeds(self) -> PublishConfig:
        for name, feed in self.feeds.items():
            if feed.format in SHOPS and self.base_url is None:
                raise ValueError(f"feeds.{name} names pictures by their URLs: set publish.base_url")
            if feed.locale and feed.locale not in self.alt:
                raise ValueError(f"feeds.{name}.locale is {feed.locale!r}, which publish.alt has no text for")
            known = tuple(self.channels) or (self.channel,)
            if feed.channel is not None and feed.channel not in known:
                raise ValueError(f"feeds.{name}.channel is {feed.channel!r}; channels are {', '.join(known)}")
        return self

    def _renditions_of(self, channel: str) -> tuple[str, ...]:
        """The names of a channel's renditions."""
        settings = self.channels.get(channel)
        if settings is None:
            return ("image",)
        return tuple(spec.name for spec in join_renditions(settings.pack, settings.renditions, settings.palette))

    @model_validator(mode="after")
    def _check_renditions(self) -> PublishConfig:
        """Whether the renditions that feeds name are there."""
        for name, feed in self.feeds.items():
            channels = (feed.channel,) if feed.channel else tuple(self.channels) or (self.channel,)
            known = dict.fromkeys(rendition for channel in channels for rendition in self._renditions_of(channel))
            if feed.rendition is not None and feed.rendition not in known:
                raise ValueError(f"feeds.{name}.rendition is {feed.rendition!r}; renditions are {', '.join(known)}")
        return self
