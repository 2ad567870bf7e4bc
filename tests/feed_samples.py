"""Catalog entries as feeds are written from, without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from assetmill.config import FeedConfig
from assetmill.deliver.feeds.items import Feed
from assetmill.storage.entries import CatalogEntry, Rendition

BASE = "https://cdn.example.com/assets"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file(asset: str, rank: int, channel: str = "shop", name: str = "square", **facts: Any) -> Rendition:
    key = f"published/{channel}/{asset}/{asset}_{rank}-{name}.webp"
    plain = {"sha256": sha(key), "size": 5000, "media_type": "image/webp", "width": 800, "height": 800}
    return Rendition(channel=channel, name=name, object_key=key, **{**plain, **facts})


def entry(asset: str, rank: int = 1, **facts: Any) -> CatalogEntry:
    """An entry with one file; `columns` and everything else may be given."""
    plain: dict[str, Any] = {
        "variant_key": sha(f"v{asset}{rank}"), "request_key": sha("r"), "blob": sha(f"b{asset}{rank}"),
        "master": sha(f"m{asset}{rank}"), "media_type": "image/png", "width": 1024, "height": 1024, "score": 0.25,
        "positive": "a secret prompt", "template": "main.j2", "seed": 7, "model": "tiny", "licence": "apache-2.0",
        "commercial": True, "digital_source": GENERATED, "renditions": (file(asset, rank),),
        "alt": {"": f"picture of {asset}", "de": f"Bild von {asset}"},
        "columns": {"name": f"Mug {asset}", "price": "9.90", "style": "mugs", "colour": asset},
    }  # fmt: skip
    return CatalogEntry(asset_id=asset, rank=rank, **{**plain, **facts})


def feed(form: str, **spec: Any) -> Feed:
    config = FeedConfig.model_validate({"format": form, **spec})
    return Feed("shop", config, "Toys", BASE, ("name", "price", "style", "colour"), ("", "de"))


def many(count: int) -> Iterator[CatalogEntry]:
    for n in range(count):
        yield entry(
            f"A{n:05d}", request={"positive": "x" * 500}, columns={"name": "n" * 50, "price": "1", "style": "s"}
        )
