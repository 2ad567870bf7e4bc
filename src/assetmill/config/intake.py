"""Sections of a config: sheets, prompts, reference images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, IPvAnyNetwork, model_validator

from assetmill.config.base import Fraction, Section

Setting = Literal[
    "seed", "size", "negative", "candidates", "priority", "model", "operation", "strength", "steps", "guidance",
    "scheduler", "image", "image_to", "mask", "keep", "control", "control_kind", "weight", "lora", "caption_to",
]  # fmt: skip
"""What a row of the sheet may say for itself."""


class SheetConfig(Section):
    """Where the assets come from."""

    path: Path = Field(description="CSV, TSV, XLSX, ODS or Parquet file.")
    id: str = Field(description="Column (after mapping) that names an asset.")
    table: str | None = Field(None, description="Worksheet of a workbook; the first one if left out.")
    header: bool = Field(True, description="False for a file without a header row; then give `names`.")
    names: tuple[str, ...] | None = Field(None, description="Column names of a file without a header row.")
    columns: Mapping[str, str] = Field(
        default_factory=dict, description="Mapping of the name templates use to the header in the file."
    )
    overrides: Mapping[Setting, str] = Field(
        default_factory=dict,
        description="Columns whose text, where not empty, overrides a setting for that row.",
    )
    fold: bool = Field(False, description="Fold rows that share an id into one asset (Shopify exports).")
    encoding: str | None = Field(None, description="Text encoding; found from UTF-8, UTF-16 and cp1252 if left out.")
    delimiter: str | None = Field(None, description="Column delimiter; found if left out.")
    max_bad_rows: Fraction = Field(0.01, description="Share of bad rows above which nothing starts.")
    max_bytes: int = Field(512 * 2**20, gt=0, description="Largest file that is opened.")
    max_cells: int = Field(20_000_000, gt=0, description="Largest number of cells.")
    max_ratio: float = Field(200.0, gt=1, description="Largest ratio of unpacked to packed size in a workbook.")

    @model_validator(mode="after")
    def _names_without_header(self) -> SheetConfig:
        if not self.header and not self.names:
            raise ValueError("a sheet without a header row needs `names`, one per column")
        return self


class PromptsConfig(Section):
    """How assets become prompts."""

    templates: tuple[Path, ...] = Field(min_length=1, description="Jinja2 templates with YAML front matter (.j2).")
    wildcards: Path | None = Field(None, description="Folder of word lists, one entry a line, used as __name__.")
    deny: tuple[str, ...] = Field((), description="Terms no rendered prompt may hold (brands, persons).")
    deny_file: Path | None = Field(None, description="File of such terms, one a line, # for remarks.")
    locales: Mapping[str, Mapping[str, str]] = Field(
        default_factory=dict,
        description="Per locale, the columns that replace others: {de: {title: title_de}}. Adds the axis `locale`.",
    )
    token_limit: int | None = Field(
        None, gt=0, description="Tokens the text encoder reads; the model's own if left out."
    )


class ReferencesConfig(Section):
    """Where the sheet's images and adapters may come from."""

    folders: tuple[Path, ...] = Field(
        (), description="Folders that the sheet's paths may lead into, beside that of the config."
    )
    hosts: tuple[str, ...] = Field(
        (), description="The only hosts whose URLs are fetched, all public ones if empty; `*.example.com` for below."
    )
    networks: tuple[IPvAnyNetwork, ...] = Field(
        (), description="Private networks that may be asked as well, as `10.1.2.0/24`: an image server of your own."
    )
    refresh_hours: float | None = Field(
        20.0, ge=0, description="Age from which a URL is asked again whether its picture changed; null: never."
    )
    max_bytes: int = Field(32 * 2**20, gt=0, description="Largest file that is read or fetched.")
    max_pixels: int = Field(50_000_000, gt=0, description="Largest picture that is decoded, width × height.")
    timeout: float = Field(30.0, gt=0, le=600, description="Seconds that one fetch may take, redirects included.")
