"""One published variant, and how it is written: as a row of the catalog, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from assetmill.records import asset_key

if TYPE_CHECKING:
    import pyarrow as pa

JSON_FIELDS = ("cell", "columns", "request", "versions", "renditions", "alt", "overrides")
"""Fields that are JSON text in a row: their names differ from config to config."""

SMALL_FIELDS = (
    "asset_key", "asset_id", "rank", "variant_key", "blob", "master", "media_type", "object_key", "work_key",
    "select_key", "meta_key",
)  # fmt: skip
"""Columns that a plan and a check read: they lie in a file of their own per shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendition:
    """One published file of a variant.

    `sha256` and `size` (-1 where it is not known) are those of its bytes, which lie under `object_key`. `recipe` names
    all that decided them (master, channel settings, what is embedded): where it is the same, the file need not be made
    again, although signatures differ from time to time. `sidecar` is the key of the JSON file beside it and
    `sidecar_sha256` the hash of that one's bytes; both are empty without.
    """

    channel: str
    name: str
    object_key: str
    sha256: str
    size: int
    media_type: str
    width: int
    height: int
    alpha: bool = False
    recipe: str = ""
    sidecar: str = ""
    sidecar_sha256: str = ""
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One published variant and all that made it.

    `rank` starts at 1 within its asset. `blob` is the hash of the candidate's picture, `master` that of the published
    one (`width` × `height` pixels, `media_type`), which lies under `object_key`. `request` is the payload of the
    Request (`records.request_from_json` reads it) and `versions` those of the libraries that served it: together
    enough to make the picture again. `columns` holds the sheet's columns that may leave (`publish.columns`).
    `work_key`, `select_key` and `meta_key` are those of the asset's outcome. `created` is ISO 8601 in UTC.

    `cutout` is the hash of the master taken off its ground, where a channel wanted it.

    `renditions` are the published files in the order of their channels; `object_key` is that of the first one. `alt` is
    the alternative text by locale (empty key: the sheet's own language). `digital_source` is the IPTC digital source
    type. `reviewer` and `decision` say who approved it, and in which record, where a person did; `overrides` is what
    people asked for beyond the row. Entries of before there were renditions have none: then the file under
    `object_key` is the master, byte for byte (see `files`).
    """

    asset_id: str
    rank: int
    variant_key: str
    request_key: str
    blob: str
    master: str
    media_type: str
    width: int
    height: int
    score: float | None = None
    judge: str = ""
    positive: str = ""
    negative: str = ""
    rank_text: str = ""
    template: str = ""
    cell: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    engine: str = ""
    model: str = ""
    revision: str = ""
    licence: str = ""
    commercial: bool | None = None
    steps: int = 0
    guidance: float = 0.0
    scheduler: str = ""
    operation: str = "text-to-image"
    upscaler: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    object_key: str = ""
    run: str = ""
    created: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    work_key: str = ""
    select_key: str = ""
    meta_key: str = ""
    renditions: tuple[Rendition, ...] = ()
    alt: Mapping[str, str] = field(default_factory=dict)
    digital_source: str = ""
    reviewer: str = ""
    decision: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cutout: str = ""

    @property
    def asset_key(self) -> str:
        return asset_key(self.asset_id)

    @property
    def files(self) -> tuple[Rendition, ...]:
        """The published files, also of entries of before there were renditions."""
        if self.renditions or not self.object_key:
            return self.renditions
        channel = self.object_key.split("/")[1] if self.object_key.startswith("published/") else ""
        return (
            Rendition(
                channel=channel, name="image", object_key=self.object_key, sha256=self.master, size=-1,
                media_type=self.media_type, width=self.width, height=self.height,
            ),
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The entry as plain JSON values, for an export."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


FIELDS = tuple(f.name for f in fields(CatalogEntry))


def entry_schema() -> pa.Schema:
    """The typed columns of the catalog: `asset_key`, then the fields of CatalogEntry."""
    import pyarrow as pa

    types = {
        "rank": pa.int32(), "width": pa.int32(), "height": pa.int32(), "steps": pa.int32(), "seed": pa.int64(),
        "score": pa.float64(), "guidance": pa.float64(), "commercial": pa.bool_(),
    }  # fmt: skip
    return pa.schema([(name, types.get(name, pa.string())) for name in ("asset_key", *FIELDS)])


def entries_to_table(entries: Sequence[CatalogEntry]) -> pa.Table:
    """Entries as rows. ValueError when two have one asset and rank, or a value does not fit its column."""
    import pyarrow as pa

    seen: set[tuple[str, int]] = set()
    for entry in entries:
        if (entry.asset_id, entry.rank) in seen:
            raise ValueError(f"asset {entry.asset_id!r} has two entries of rank {entry.rank}; ranks count from 1 up")
        seen.add((entry.asset_id, entry.rank))
    keys = {entry.asset_id: "" for entry in entries}
    keys = {asset_id: asset_key(asset_id) for asset_id in keys}
    columns: dict[str, list[Any]] = {"asset_key": [keys[entry.asset_id] for entry in entries]}
    for name in FIELDS:
        values = [getattr(entry, name) for entry in entries]
        columns[name] = [_text(value) for value in values] if name in JSON_FIELDS else values
    return pa.table(columns, schema=entry_schema())


def entry_from_row(row: Mapping[str, Any]) -> CatalogEntry:
    """The entry of a whole row; columns that an older row lacks take their default."""
    values = {name: row[name] for name in FIELDS if row.get(name) is not None}
    for name in JSON_FIELDS:
        if name in values:
            values[name] = json.loads(values[name])
    return entry_from_json(values)


def entry_from_json(values: Mapping[str, Any]) -> CatalogEntry:
    """The entry that `CatalogEntry.as_json` gave; fields that a newer version wrote are left out."""
    values = {name: value for name, value in values.items() if name in FIELDS}
    known = {f.name for f in fields(Rendition)}
    renditions = [{k: v for k, v in r.items() if k in known} for r in values.get("renditions", ())]
    values["renditions"] = tuple(Rendition(**r) for r in renditions)
    return CatalogEntry(**values)


def _text(value: Any) -> str:
    # In the order given: people read columns in the order of their sheet.
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Mappings and sequences of any kind as those that JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return asdict(value) if isinstance(value, Rendition) else value
