"""Feeds for programs: JSON lines, CSV that is safe in spreadsheets, Parquet. A row for every file.

Columns: the asset and its file, its address, alternative texts (`alt` in the feed's locale, `alt.<locale>` for all),
what made it, the sheet's columns that may leave, and the feed's own `fields`, which replace a column of their name.
No prompts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from assetmill.deliver.export import escape_formula
from assetmill.deliver.feeds.items import Feed, Item, Written, items_of
from assetmill.storage.entries import CatalogEntry

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1024
"""Rows of a Parquet row group, and what is in memory at a time."""


def write_jsonl(entries: Iterable[CatalogEntry], feed: Feed, out: IO[bytes]) -> Written:
    """A JSON object a line, UTF-8; the sheet's columns lie together under `columns`."""
    count = 0
    for item in _items(entries, feed):
        row = {**_row(item, feed), "columns": dict(item.entry.columns), **_fields(item, feed)}
        out.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n")
        count += 1
    return Written(count)


def write_csv(entries: Iterable[CatalogEntry], feed: Feed, out: IO[bytes]) -> Written:
    """A CSV after RFC 4180 in UTF-8 with its mark; cells that a spreadsheet would run begin with an apostrophe."""
    text = io.TextIOWrapper(out, "utf-8-sig", errors="replace", newline="", write_through=True)
    writer = csv.writer(text)
    names = list(_types(feed))
    writer.writerow([escape_formula(name) for name in names])
    count = 0
    for item in _items(entries, feed):
        row = _flat(item, feed)
        writer.writerow([_cell(row[name]) for name in names])
        count += 1
    text.flush()
    text.detach()
    return Written(count)


def write_parquet(entries: Iterable[CatalogEntry], feed: Feed, out: IO[bytes]) -> Written:
    """A Parquet file with typed columns; the sheet's columns are texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(list(_types(feed).items()))
    rows = (_flat(item, feed) for item in _items(entries, feed))
    count = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        while batch := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return Written(count)


def _items(entries: Iterable[CatalogEntry], feed: Feed) -> Iterator[Item]:
    for entry in entries:
        yield from items_of(entry, feed)


def _row(item: Item, feed: Feed) -> dict[str, Any]:
    entry, file = item.entry, item.file
    return {
        "asset_id": entry.asset_id,
        "rank": entry.rank,
        "channel": file.channel,
        "rendition": file.name,
        "url": item.url or None,
        "object_key": file.object_key,
        "sha256": file.sha256,
        "size": file.size if file.size >= 0 else None,
        "width": file.width,
        "height": file.height,
        "media_type": file.media_type,
        "alt": item.alt or None,
        **{f"alt.{locale}": entry.alt.get(locale) for locale in feed.locales if locale},
        "score": entry.score,
        "template": entry.template,
        "seed": entry.seed,
        "model": entry.model,
        "revision": entry.revision,
        "licence": entry.licence,
        "commercial": entry.commercial,
        "digital_source": entry.digital_source or None,
    }


def _types(feed: Feed) -> dict[str, pa.DataType]:
    """The columns of a flat feed with their types."""
    import pyarrow as pa

    whole, text = pa.int64(), pa.string()
    types = {
        "asset_id": text, "rank": pa.int32(), "channel": text, "rendition": text, "url": text, "object_key": text,
        "sha256": text, "size": whole, "width": pa.int32(), "height": pa.int32(), "media_type": text, "alt": text,
        **{f"alt.{locale}": text for locale in feed.locales if locale},
        "score": pa.float64(), "template": text, "seed": whole, "model": text, "revision": text, "licence": text,
        "commercial": pa.bool_(), "digital_source": text,
    }  # fmt: skip
    columns = {_column(name, types): text for name in feed.columns}
    return {**types, **columns, **dict.fromkeys(feed.spec.fields, text)}


def _flat(item: Item, feed: Feed) -> dict[str, Any]:
    row = _row(item, feed)
    columns = {_column(name, row): _text(item.entry.columns.get(name)) for name in feed.columns}
    return {**row, **columns, **_fields(item, feed)}


def _fields(item: Item, feed: Feed) -> dict[str, str]:
    return {name: item.field(pattern) for name, pattern in feed.spec.fields.items()}


def _column(name: str, taken: Mapping[str, Any]) -> str:
    """The name of a sheet's column in a flat feed."""
    return f"column.{name}" if name in taken else name


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape_formula(value) if isinstance(value, str) else repr(value)  # a negative number is no formula
