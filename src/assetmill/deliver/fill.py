"""Patterns filled from catalog entries: alternative texts, sprites' names, the fields of feeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from assetmill.storage.entries import CatalogEntry


def values_of(entry: CatalogEntry) -> dict[str, Any]:
    """What a pattern may say of an entry: the columns that may leave, and id, rank, seed and template."""
    own = {"id": entry.asset_id, "rank": entry.rank, "seed": entry.seed, "template": entry.template}
    return {**{name: "" if value is None else value for name, value in entry.columns.items()}, **own}


def fill(pattern: str, values: Mapping[str, Any]) -> str:
    """A checked pattern with its values, outer spaces dropped."""
    return pattern.format_map(values).strip()


def alt_texts(patterns: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """Alternative texts by locale. Runs of spaces, as an empty column leaves them, become one; empty texts none."""
    texts = {locale: " ".join(pattern.format_map(values).split()) for locale, pattern in patterns.items()}
    return {locale: text for locale, text in texts.items() if text}


def public_url(base_url: str, key: str) -> str:
    """The address of a stored object under the public address of its store's root; empty without one."""
    return f"{base_url.rstrip('/')}/{quote(key, safe='/-._~')}" if base_url else ""
