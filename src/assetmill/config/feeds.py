"""Sections of a config: feeds for the systems that read the catalog, and the patterns that fill their fields."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assetmill.config.base import Section

FeedName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Locale = Annotated[str, Field(pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)?$")]

PATTERN_FIELDS = ("id", "rank", "seed", "template")
"""What every pattern may hold, beside `publish.columns`."""

FEED_FIELDS = ("alt", "image", "licence", "model", "digital_source", "width", "height")
"""What a feed's patterns may hold besides; `alt` is the alternative text in its locale, `image` the picture's URL."""

SHOPS = ("shopify", "merchant-tsv", "merchant-xml")
"""Formats that name pictures by public URLs."""


class FeedConfig(Section):
    """One file for one reader, written into the store whenever the catalog changes."""

    format: Literal["jsonl", "csv", "parquet", "shopify", "merchant-tsv", "merchant-xml", "embeddings"] = Field(
        description="`jsonl`, `csv` and `parquet` list every file; `shopify` is a product CSV; `merchant-…` are Google "
        "product data; `embeddings` is Parquet with a vector of every picture."
    )
    channel: FeedName | None = Field(None, description="Whose files are named. Shops: the first one if left out.")
    rendition: FeedName | None = Field(None, description="Which of them. Shops: the first one if left out.")
    locale: Locale = Field("", description="Language of the alternative texts: a key of `publish.alt`.")
    fields: Mapping[str, str] = Field(
        default_factory=dict,
        description="The feed's fields as patterns over the columns of `publish.columns`: `price: '{price} EUR'`.",
    )
    group: str | None = Field(
        None, description="Shopify: assets for which this pattern gives the same are variants of one product."
    )
    supplemental: bool = Field(
        False, description="Merchant: only ids and pictures, for products that another feed describes."
    )
    generated: tuple[Literal["title", "description"], ...] = Field(
        (), description="Merchant: texts a language model wrote; they are declared as such."
    )

    @property
    def is_merchant(self) -> bool:
        return self.format.startswith("merchant")

    @model_validator(mode="after")
    def _check(self) -> FeedConfig:
        if self.group is not None and self.format != "shopify":
            raise ValueError("only shopify has `group`; for Google put item_group_id into `fields`")
        if (self.supplemental or self.generated) and not self.is_merchant:
            raise ValueError("only merchant feeds have `supplemental` and `generated`")
        if self.format == "embeddings" and self.fields:
            raise ValueError("an embeddings file has no `fields`: it is joined to others by asset and rank")
        for field in ("title", "description"):
            if field in self.generated and field not in self.fields:
                raise ValueError(f"`generated` names {field!r}, which `fields` has not")
        missing = [field for field in self._required() if not self.fields.get(field, "").strip()]
        if missing:
            raise ValueError(
                f"a {self.format} feed needs {', '.join(missing)} in `fields`, as patterns: "
                f"{{{missing[0]}: '{{column}}'}}"
                + ("; or set `supplemental: true`" if self.is_merchant and not self.supplemental else "")
            )
        return self

    def _required(self) -> tuple[str, ...]:
        if self.format == "shopify":
            return ("Title", "Option1 name", "Option1 value") if self.group is not None else ("Title",)
        if self.is_merchant and not self.supplemental:
            return ("title", "description", "link", "price", "availability")
        return ()


def pattern_problem(pattern: str, allowed: Collection[str]) -> str:
    """What is wrong with a pattern; empty for nothing."""
    try:
        parts = [(f, spec or "", how) for _, f, spec, how in string.Formatter().parse(pattern) if f is not None]
    except ValueError as error:
        return f"cannot be read ({error}); write it like '{{id}}', and a brace itself as {{{{"
    for field, spec, how in parts:
        if field not in allowed:
            shown = ", ".join("{" + name + "}" for name in sorted(allowed))
            return f"asks for {{{field}}}; use {shown}, or add the column to publish.columns"
        if how or not re.fullmatch(r"(0?[0-9]d?)?" if field in ("rank", "seed") else "", spec):
            return f"formats {{{field}:{spec}}}; only rank and seed have digits: {{rank:02d}}"
    return ""
