"""Sections of a config: what is kept, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from assetmill.config.base import Section

Days = Annotated[float, Field(ge=0)]


class RetentionConfig(Section):
    """What `assetmill gc` may delete. Records never expire; without that command nothing does."""

    losers: Days | None = Field(
        30, description="Days for which pictures that were not chosen are kept, and masters no longer used."
    )
    versions: int = Field(20, ge=1, description="Newest catalog versions that are kept, however old.")
    version_days: Days | None = Field(90, description="Days for which replaced catalog versions are kept beyond that.")
    runs: Days | None = Field(90, description="Days for which folders of runs are kept; the newest 20 always are.")
    orphans: Days | None = Field(
        7, description="Days for which files and pictures are kept that no record and no catalog version names."
    )
    aside: Days | None = Field(30, description="Days for which damaged objects that were set aside are kept.")
    embeddings: Days | None = Field(
        None, description="Days for which embeddings are kept: those of pictures that are gone cannot be made again."
    )
    grace_hours: float = Field(
        24, ge=0, description="Nothing younger than this is deleted, whatever the other keys say."
    )
