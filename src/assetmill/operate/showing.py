"""Which atlases and feeds show a published file: what else is to be taken down, beside the file itself."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from assetmill.storage.layout import atlases_prefix, feeds_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store

_FILE = re.compile(r"published/[^\s\"'<>,;|]+")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Outlet:
    """An object that shows it. `live`: `latest.json` names it, or it is the address that readers fetch."""

    key: str
    live: bool


def outlets_showing(store: Store, config_name: str, files: Collection[str], hashes: Collection[str]) -> list[Outlet]:
    """Sheets and data of atlases, and feeds, old ones too, that show files (keys) or pictures (SHA-256). By key."""
    found = [*_atlases(store, config_name, set(hashes)), *_feeds(store, config_name, set(files), set(hashes))]
    return sorted(found, key=lambda outlet: outlet.key)


def current_outlets(store: Store, prefix: str) -> set[str]:
    """Keys under a prefix that a `latest.json` names, and those documents themselves."""
    named: set[str] = set()
    for info in store.list(prefix):
        if info.key.endswith("/latest.json"):
            named.add(info.key)
            named.update(_strings(_json(store, info.key)))
    return named


def _atlases(store: Store, config_name: str, hashes: set[str]) -> Iterator[Outlet]:
    """A layout names its sprites by hash; its data files begin as it does, and name the sheets."""
    prefix = atlases_prefix(config_name)
    keys = [info.key for info in store.list(prefix)]
    live = current_outlets(store, prefix)
    shown: set[str] = set()
    for layout in (key for key in keys if key.endswith(".layout.json")):
        places = _json(store, layout).get("places", {})
        sheets = {p["sheet"] for p in places.values() if p["frame"]["sha"] in hashes}
        if not sheets:
            continue
        stem = layout.removesuffix(".layout.json")
        folder, _, name = stem.rpartition("/")
        channel = name.rpartition("-")[0]
        data = [key for key in keys if key.startswith(stem) and key != layout]
        shown.update(data)
        for image in {text for key in data for text in _strings(_json(store, key)) if text.endswith(".png")}:
            number = re.fullmatch(rf"{re.escape(channel)}-(\d+)-[0-9a-f]{{8}}\.png", image)
            if number and int(number[1]) in sheets:
                shown.add(f"{folder}/{image}")
    yield from (Outlet(key, key in live) for key in shown)


def _feeds(store: Store, config_name: str, files: set[str], hashes: set[str]) -> Iterator[Outlet]:
    prefix = feeds_prefix(config_name)
    live = current_outlets(store, prefix)
    keys = [info.key for info in store.list(prefix) if not info.key.endswith("/latest.json")]
    for key, shows in zip(keys, map_ahead(lambda k: _shows(store, k, files, hashes), keys, threads=4), strict=True):
        if shows:
            yield Outlet(key, key in live)


def _shows(store: Store, key: str, files: set[str], hashes: set[str]) -> bool:
    try:
        data = store.get(key)
    except (MissingObject, CorruptObject):
        return False
    if not key.endswith(".parquet"):
        return _mentions(data.decode("utf-8", "replace"), files, hashes)
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pq.ParquetFile(pa.BufferReader(data))
    texts = [f.name for f in source.schema_arrow if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    for group in range(source.num_row_groups):
        for column in source.read_row_group(group, texts).columns:
            if any(text and _mentions(text, files, hashes) for text in column.to_pylist()):
                return True
    return False


def _mentions(text: str, files: set[str], hashes: set[str]) -> bool:
    return any(unquote(hit) in files or hit in files for hit in _FILE.findall(text)) or any(
        hit in hashes for hit in _HASH.findall(text)
    )


def _json(store: Store, key: str) -> Any:
    try:
        return json.loads(store.get(key))
    except (MissingObject, CorruptObject, ValueError):
        return {}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
