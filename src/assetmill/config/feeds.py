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


SHOPIFY_PICTURE = ("Product image URL", "Image position", "Image alt text", "Variant image URL")
"""Columns of the product CSV that name pictures: they are filled from the catalog."""

SHOPIFY_VARIANT = (
    "SKU", "Barcode", "Option1 name", "Option1 value", "Option1 Linked To", "Option2 name", "Option2 value",
    "Option2 Linked To", "Option3 name", "Option3 value", "Option3 Linked To", "Price", "Compare-at price",
    "Cost per item", "Charge tax", "Tax code", "Unit price total measure", "Unit price total measure unit",
    "Unit price base measure", "Unit price base measure unit", "Inventory tracker", "Inventory quantity",
    "Continue selling when out of stock", "Weight value (grams)", "Weight unit for display", "Requires shipping",
    "Fulfillment service",
)  # fmt: skip
"""Columns that every variant of a product has for itself."""

SHOPIFY_COLUMNS = (
    "Title", "URL handle", "Description", "Vendor", "Product category", "Type", "Tags", "Published on online store",
    "Status", *SHOPIFY_VARIANT, *SHOPIFY_PICTURE, "Gift card", "SEO title", "SEO description",
)  # fmt: skip
"""The columns of Shopify's product template, in its order; metafields and Google Shopping columns may follow."""

_SHOPIFY_OTHER = re.compile(r"Google Shopping / .+|.+ \(product\.metafields\..+\..+\)")
_MERCHANT_FIELD = re.compile(r"[a-z][a-z0-9_]*")
_MERCHANT_PICTURE = ("image_link", "additional_image_link", "structured_title", "structured_description")


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
        if problem := self._field_problem():
            raise ValueError(problem)
        missing = [field for field in self.required if not self.fields.get(field, "").strip()]
        if missing:
            raise ValueError(
                f"a {self.format} feed needs {', '.join(missing)} in `fields`, as patterns: "
                f"{{{missing[0]}: '{{column}}'}}"
                + ("; or set `supplemental: true`" if self.is_merchant and not self.supplemental else "")
            )
        return self

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that must be mapped, and have a value for every asset."""
        if self.format == "shopify":
            return ("Title", "Option1 name", "Option1 value") if self.group is not None else ("Title",)
        if self.is_merchant and not self.supplemental:
            return ("title", "description", "link", "price", "availability")
        return ()

    def _field_problem(self) -> str:
        """What is wrong with the names of `fields`; empty for nothing."""
        for name in self.fields:
            if self.format == "shopify":
                if name in SHOPIFY_PICTURE:
                    return f"{name!r} is filled from the catalog; leave it out of `fields`"
                if name not in SHOPIFY_COLUMNS and not _SHOPIFY_OTHER.fullmatch(name):
                    return f"{name!r} is no column of Shopify's product CSV; they are {', '.join(SHOPIFY_COLUMNS)}"
            elif self.is_merchant:
                if name in _MERCHANT_PICTURE:
                    return f"{name!r} is filled by the feed; leave it out of `fields` (texts: `generated`)"
                if not _MERCHANT_FIELD.fullmatch(name):
                    return f"{name!r} is no attribute of Google's product data: write it like google_product_category"
        return ""


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
