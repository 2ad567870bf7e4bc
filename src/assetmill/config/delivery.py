"""Sections of a config: where everything is kept, and what leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from assetmill.config.base import Fraction, Section


class StoreConfig(Section):
    """A folder, or a bucket (`s3://bucket/prefix`). Credentials come from boto3's usual chain, never from here."""

    url: str = "out"
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    options: Mapping[str, str] = Field(
        default_factory=dict,
        description="Extra put_object arguments: ServerSideEncryption, ACL, StorageClass …",
    )


class PublishConfig(Section):
    policy: Literal["auto", "approved"] = Field("auto", description="Publish what ranks well, or what people approved.")
    min_score: float | None = Field(None, description="With `auto`: below this a variant waits for review.")
    columns: tuple[str, ...] = Field((), description="Columns that may leave with the catalog (allow-list).")
    channel: str = Field("master", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    format: Literal["png", "webp"] = "png"
    name: str = Field("{id}_{rank}", description="File name pattern over id, rank, seed, template and `columns`.")
    removed: Literal["keep", "retire"] = Field("keep", description="What becomes of assets that left the sheet.")
    max_removed: Fraction = Field(0.2, description="A run refuses to retire a larger share of the catalog.")
    max_changed: Fraction = Field(1.0, description="A run refuses to change a larger share of the catalog.")
