"""The formats of feeds: how each is written, and what its file is called and declared as."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO

from assetmill.deliver.feeds.items import Feed, Written
from assetmill.deliver.feeds.merchant import write_merchant_tsv, write_merchant_xml
from assetmill.deliver.feeds.plain import write_csv, write_jsonl, write_parquet
from assetmill.deliver.feeds.shopify import write_shopify
from assetmill.storage.entries import CatalogEntry

Writer = Callable[[Iterable[CatalogEntry], Feed, IO[bytes]], Written]
"""Writes entries, by id and rank, and says what it left out."""


@dataclass(frozen=True, slots=True)
class Format:
    extension: str
    media_type: str
    write: Writer | None
    """None for embeddings, which need a judge beside the entries."""


FORMATS: Mapping[str, Format] = {
    "jsonl": Format("jsonl", "application/jsonl", write_jsonl),
    "csv": Format("csv", "text/csv; charset=utf-8", write_csv),
    "parquet": Format("parquet", "application/vnd.apache.parquet", write_parquet),
    "shopify": Format("csv", "text/csv; charset=utf-8", write_shopify),
    "merchant-tsv": Format("tsv", "text/tab-separated-values; charset=utf-8", write_merchant_tsv),
    "merchant-xml": Format("xml", "application/rss+xml; charset=utf-8", write_merchant_xml),
    "embeddings": Format("parquet", "application/vnd.apache.parquet", None),
}
