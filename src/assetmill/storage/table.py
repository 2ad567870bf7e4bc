"""A versioned table in the store: the one mechanism behind the index and the catalog.

A version is a small JSON manifest, `<prefix>/<n>.json`. It names content-addressed Parquet shards, each holding the
rows of all assets whose key (64 hex digits) begins with the shard's prefix. A shard that outgrows `shard_rows` splits
sixteen ways, so the prefixes form a trie; a commit rewrites the touched shards only and shares the others with its
parent. Version n+1 exists from the moment its manifest does, and that is written put-if-absent: of two writers one
wins, the other gets `Conflict`, rebases and tries again. Whatever is interrupted before that moment leaves unnamed
shards behind and the table as it was.

Columns may be dealt out to several files per shard (`parts`), so that a reader of a few small columns fetches, and
checks the hash of, a few small files.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from assetmill.records import canonical_json
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store, set_aside

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_SCHEMA = 1
SHARD_ROWS = 20_000
_DIGITS = "0123456789abcdef"
_ASSET_KEY = re.compile(r"[0-9a-f]{64}")
_MANIFEST_NAME = re.compile(r"(\d{8,})\.json")


class Conflict(RuntimeError):
    """Somebody else committed the version this commit wanted to be: read the latest, and commit on top of that."""


class MissingVersion(LookupError):
    """The table has no version of that number."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One Parquet file: its key in the store, the hash of its bytes, its size in bytes."""

    file: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of all assets whose key begins with one prefix: a file per part, equal rows at equal places."""

    rows: int
    assets: int
    parts: Mapping[str, ShardFile]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version: its shards by hash prefix. `meta` is the committer's own; version 0 is the empty table."""

    version: int
    parent: int
    created: str
    shards: Mapping[str, Shard]
    meta: Mapping[str, Any]
    _inner: set[str] = field(default_factory=set, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._inner.update(p[:n] for p in self.shards for n in range(len(p)))

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.shards.values())

    @property
    def assets(self) -> int:
        return sum(s.assets for s in self.shards.values())

    def prefix_of(self, asset_key: str) -> str | None:
        """The prefix of the shard that would hold this asset, or None where no shard would."""
        prefix = _leaf(asset_key, self._inner)
        return prefix if prefix in self.shards else None


class VersionedTable:
    """A table of rows that belong to assets, kept under one prefix of a store.

    `schema` must have a string column `asset_key`; `key` are the columns that order the rows of a shard. `parts` deals
    the columns out to files, each part's name to its columns; every column in one part, `asset_key` in the first.
    `way_out` says in the messages of CorruptObject what else can be done. Reads are safe from several threads.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        schema: pa.Schema,
        key: Sequence[str] = ("asset_key",),
        *,
        parts: Mapping[str, Sequence[str]] | None = None,
        shard_rows: int = SHARD_ROWS,
        way_out: str = "an older version may still be whole",
        cache_bytes: int = 64 << 20,
        threads: int = 4,
    ) -> None:
        self.store = store
        self.prefix = prefix.rstrip("/")
        self.schema = schema
        self.key = tuple(key)
        self.parts = {name: tuple(columns) for name, columns in (parts or {"rows": schema.names}).items()}
        dealt = [c for columns in self.parts.values() for c in columns]
        if sorted(dealt) != sorted(schema.names) or "asset_key" not in next(iter(self.parts.values())):
            raise ValueError("parts must deal out every column once, asset_key in the first part")
        self.shard_rows = shard_rows
        self.way_out = way_out
        self.threads = threads
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cache_lock = Lock()

    # --- versions ---

    def latest(self) -> int:
        """The number of the newest version; 0 for a table that was never written."""
        return max(self.versions(), default=0)

    def versions(self) -> list[int]:
        """The numbers of all versions there are, ascending; old ones may have expired."""
        # Numbers have eight digits: "/0" keeps the shards, which lie beside them, out of the listing.
        names = (info.key.removeprefix(self.prefix + "/") for info in self.store.list(f"{self.prefix}/0"))
        return sorted(int(match[1]) for match in map(_MANIFEST_NAME.fullmatch, names) if match)

    def manifest(self, version: int | None = None) -> Manifest:
        """The manifest of a version (the newest if None). Raises MissingVersion, or CorruptObject if it was damaged."""
        version = self.latest() if version is None else version
        if version == 0:
            return Manifest(0, 0, "", {}, {})
        path = self.manifest_path(version)
        try:
            data = self.store.get(path)
        except MissingObject as error:
            raise MissingVersion(f"{self.prefix} has no version {version}") from error
        try:
            values = json.loads(data)
            digest = values.pop("sha256")
            if digest != _digest(values):
                raise ValueError("its content does not have the hash it carries")
            if values["schema"] > MANIFEST_SCHEMA:
                raise ValueError(
                    f"schema {values['schema']} is newer than this version's {MANIFEST_SCHEMA}: update assetmill"
                )
            shards = {
                prefix: Shard(s["rows"], s["assets"], {n: ShardFile(**f) for n, f in s["parts"].items()})
                for prefix, s in values["shards"].items()
            }
            return Manifest(values["version"], values["parent"], values["created"], shards, values["meta"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptObject(path, f"{error} ({self.way_out})") from error

    def manifest_path(self, version: int) -> str:
        return f"{self.prefix}/{version:08d}.json"

    # --- reading ---

    def read(
        self,
        version: int | Manifest | None = None,
        columns: Sequence[str] | None = None,
        shards_for: Collection[str] | None = None,
    ) -> pa.Table:
        """The rows of a version, in order of asset key; with `shards_for` only those of the given asset keys."""
        import pyarrow as pa

        names = list(columns or self.schema.names)
        empty = pa.schema([self.schema.field(n) for n in names]).empty_table()
        return pa.concat_tables([empty, *self.iter_shards(version, names, shards_for)])

    def iter_shards(
        self,
        version: int | Manifest | None = None,
        columns: Sequence[str] | None = None,
        shards_for: Collection[str] | None = None,
    ) -> Iterator[pa.Table]:
        """The same rows as `read`, a shard at a time: one shard in memory, the next ones on their way."""
        manifest = version if isinstance(version, Manifest) else self.manifest(version)
        names = list(columns or self.schema.names)
        wanted: dict[str, list[str]] | None = None
        if shards_for is not None:
            wanted = {}
            for asset_key in shards_for:
                prefix = manifest.prefix_of(asset_key)
                if prefix is not None:
                    wanted.setdefault(prefix, []).append(asset_key)

        def load(prefix: str) -> pa.Table:
            return self.read_shard(manifest.shards[prefix], names, None if wanted is None else wanted[prefix])

        return map_ahead(load, sorted(manifest.shards if wanted is None else wanted), threads=self.threads)

    def read_shard(self, shard: Shard, columns: Sequence[str], only: Collection[str] | None = None) -> pa.Table:
        """The chosen columns of one shard, its bytes checked; with `only` just the rows of these asset keys."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names = list(columns) if only is None or "asset_key" in columns else [*columns, "asset_key"]
        found: dict[str, Any] = {}
        for part, held in self.parts.items():
            if needed := [n for n in names if n in held]:
                file = shard.parts[part]
                table = self._read_parquet(file, needed, cache=only is not None)
                found |= {n: table.column(n) for n in table.column_names}
        arrays = []
        for name in names:
            kind = self.schema.field(name).type
            # A column that the shard's writer did not know yet reads as null.
            column = found[name] if name in found else pa.nulls(shard.rows, kind)
            arrays.append(column if column.type == kind else column.cast(kind))
        table = pa.table(arrays, schema=pa.schema([self.schema.field(n) for n in names]))
        if only is not None:
            table = table.filter(pc.is_in(table["asset_key"], value_set=pa.array(list(only), pa.string())))
        return table.select(list(columns))

    def check_shard(self, shard: Shard) -> None:
        """Reads and hashes every file of a shard; raises CorruptObject."""
        for file in shard.parts.values():
            self._read_bytes(file, cache=False)

    def _read_parquet(self, file: ShardFile, columns: Sequence[str], *, cache: bool) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        source = pq.ParquetFile(pa.BufferReader(self._read_bytes(file, cache=cache)))
        there = set(source.schema_arrow.names)
        return source.read(columns=[c for c in columns if c in there], use_threads=False)

    def _read_bytes(self, file: ShardFile, *, cache: bool) -> bytes:
        with self._cache_lock:
            if file.sha256 in self._cache:
                self._cache.move_to_end(file.sha256)
                return self._cache[file.sha256]
        try:
            data = self.store.get(file.file)
        except MissingObject as error:
            raise CorruptObject(file.file, f"it is missing ({self.way_out})") from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise CorruptObject(
                file.file, f"it holds {len(data)} bytes, not the {file.size} it is named for ({self.way_out})"
            )
        if cache and len(data) <= self._cache_bytes:
            with self._cache_lock:
                self._cache[file.sha256] = data
                while sum(map(len, self._cache.values())) > self._cache_bytes:
                    self._cache.popitem(last=False)
        return data

    # --- writing ---

    def commit(
        self,
        upserts: pa.Table | Iterable[pa.Table] | None,
        delete_assets: Collection[str] = (),
        *,
        base: int,
        meta: Mapping[str, Any],
        number: int | None = None,
    ) -> int:
        """Writes version `base + 1` (or `number`) and returns its number.

        All rows of every asset key that occurs in `upserts` are replaced by the given rows; those of `delete_assets`
        go. `upserts` may be an iterable of tables, so that more can be written than memory holds: an asset's rows must
        be in one of them, and ascending asset keys save rewriting shards. `number` skips over versions that cannot be
        read any more. Raises Conflict when that version exists.
        """
        new = base + 1 if number is None else number
        if self.store.stat(self.manifest_path(new)) is not None:
            raise Conflict(f"{self.prefix} has a version {new} already")
        shards = self._changed(self.manifest(base), upserts, delete_assets)
        return self._commit_manifest(new, base, shards, meta)

    def restore(
        self,
        version: int,
        *,
        number: int,
        meta: Mapping[str, Any],
        upserts: pa.Table | None = None,
        delete_assets: Collection[str] = (),
    ) -> int:
        """Writes version `number` with the shards of an older one, which must all be there, changed as by `commit`.

        Raises Conflict.
        """
        old = self.manifest(version)
        for shard in old.shards.values():
            self.check_shard(shard)
        return self._commit_manifest(number, number - 1, self._changed(old, upserts, delete_assets), meta)

    def _changed(
        self, base: Manifest, upserts: pa.Table | Iterable[pa.Table] | None, delete_assets: Collection[str]
    ) -> Mapping[str, Shard]:
        """The shards of a version with the rows of some assets replaced; stored, but named by no manifest yet."""
        import pyarrow as pa

        tables = [] if upserts is None else [upserts] if isinstance(upserts, pa.Table) else upserts
        with ThreadPoolExecutor(self.threads, thread_name_prefix="store") as pool:
            draft = _Draft(self, base, pool)
            if delete_assets:
                draft.replace(self.schema.empty_table(), delete_assets)
            for table in tables:
                draft.replace(table.select(self.schema.names).cast(self.schema))
            return draft.finish()

    def _commit_manifest(self, new: int, parent: int, shards: Mapping[str, Shard], meta: Mapping[str, Any]) -> int:
        values: dict[str, Any] = {
            "schema": MANIFEST_SCHEMA,
            "version": new,
            "parent": parent,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            # No two commits have equal bytes: a store that lost an answer can tell our manifest from another's.
            "token": uuid.uuid4().hex,
            "shards": {
                prefix: {
                    "rows": s.rows,
                    "assets": s.assets,
                    "parts": {n: {"file": f.file, "sha256": f.sha256, "size": f.size} for n, f in s.parts.items()},
                }
                for prefix, s in sorted(shards.items())
            },
            "meta": dict(meta),
        }
        values["sha256"] = _digest(values)
        data = json.dumps(values, indent=1).encode()
        if not self.store.put_if_absent(self.manifest_path(new), data, media_type="application/json"):
            raise Conflict(f"{self.prefix} has a version {new} already")
        return new

    def write_shard(self, rows: pa.Table) -> Shard:
        """Stores one shard's rows (already in order) and returns where; equal rows give equal files."""
        import pyarrow.compute as pc

        files = {}
        for part, columns in self.parts.items():
            data = _parquet_bytes(rows.select(list(columns)))
            sha256 = hashlib.sha256(data).hexdigest()
            path = f"{self.prefix}/shards/{sha256}.parquet"
            put_content(self.store, path, data, "application/vnd.apache.parquet")
            files[part] = ShardFile(path, sha256, len(data))
        return Shard(rows.num_rows, pc.count_distinct(rows["asset_key"]).as_py(), files)


def put_content(store: Store, path: str, data: bytes, media_type: str) -> None:
    """Stores bytes under a key that holds their hash. What lies there with other bytes is damaged and set aside."""
    while not store.put_if_absent(path, data, media_type=media_type):
        try:
            if store.get(path) == data:
                return
        except (MissingObject, CorruptObject):
            pass
        set_aside(store, path)


class _Draft:
    """The shards of a version in the making: those stored, and those changed that are still in memory."""

    def __init__(self, table: VersionedTable, base: Manifest, pool: ThreadPoolExecutor) -> None:
        self.table = table
        self.pool = pool
        self.stored: dict[str, Shard] = dict(base.shards)
        self.open: dict[str, pa.Table] = {}
        self.inner = set(base._inner)
        self.writing: dict[str, Future[Shard]] = {}
        self.pending: deque[Future[Shard]] = deque()

    def replace(self, rows: pa.Table, gone: Collection[str] = ()) -> None:
        """Puts rows in the place of all rows of their assets, and takes away those of the assets that are gone."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = rows.sort_by([(name, "ascending") for name in dict.fromkeys(("asset_key", *self.table.key))])
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["asset_key"]).to_pylist()}
        for asset_key in gone:
            counts.setdefault(asset_key, 0)
        leaves: dict[str, list[str]] = {}
        for asset_key in sorted(counts):
            if not _ASSET_KEY.fullmatch(asset_key):
                raise ValueError(f"asset key {asset_key!r} is not 64 hex digits; use records.asset_key(id)")
            leaves.setdefault(_leaf(asset_key, self.inner), []).append(asset_key)
        # Sorted rows: what belongs to one leaf lies together, and leaves follow one another.
        # So what an earlier leaf needs has been given, and only the last one stays open for the next batch.
        start = 0
        for prefix, asset_keys in leaves.items():
            for other in [p for p in self.open if not p.startswith(prefix)]:
                self._flush(other)
            length = sum(counts[k] for k in asset_keys)
            fresh, start = rows.slice(start, length), start + length
            old = self._take(prefix)
            kept = old.filter(pc.invert(pc.is_in(old["asset_key"], value_set=pa.array(asset_keys, pa.string()))))
            self._put(prefix, pa.concat_tables([kept, fresh]))

    def finish(self) -> dict[str, Shard]:
        """Writes what is open and returns all shards of the version."""
        for prefix in list(self.open):
            self._flush(prefix)
        self.stored.update((prefix, future.result()) for prefix, future in self.writing.items())
        return self.stored

    def _take(self, prefix: str) -> pa.Table:
        if prefix in self.open:
            return self.open.pop(prefix)
        if prefix in self.writing:
            self.stored[prefix] = self.writing.pop(prefix).result()
        if prefix in self.stored:
            return self.table.read_shard(self.stored.pop(prefix), self.table.schema.names)
        return self.table.schema.empty_table()

    def _put(self, prefix: str, rows: pa.Table) -> None:
        import pyarrow.compute as pc

        if rows.num_rows <= self.table.shard_rows or len(prefix) == 64:
            if rows.num_rows:
                self.open[prefix] = rows
            return
        self.inner.add(prefix)
        digits = pc.utf8_slice_codeunits(rows["asset_key"], len(prefix), len(prefix) + 1)
        for digit in _DIGITS:
            self._put(prefix + digit, rows.filter(pc.equal(digits, digit)))

    def _flush(self, prefix: str) -> None:
        rows = self.open.pop(prefix)
        rows = rows.sort_by([(name, "ascending") for name in dict.fromkeys(("asset_key", *self.table.key))])
        self.writing[prefix] = future = self.pool.submit(self.table.write_shard, rows.combine_chunks())
        self.pending.append(future)
        while len(self.pending) > 2:  # a shard's rows can be 40 MiB, and stay in memory until they are stored
            self.pending.popleft().result()


def _leaf(asset_key: str, inner: Collection[str]) -> str:
    """The prefix of the shard an asset belongs to, given the prefixes that were split."""
    length = 0
    while asset_key[:length] in inner:
        length += 1
    return asset_key[:length]


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(values).encode("utf-8", "surrogatepass")).hexdigest()


def _parquet_bytes(rows: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Dictionaries pay for texts that repeat; on random keys they only cost.
    repeating = [f.name for f in rows.schema if not pa.types.is_fixed_size_binary(f.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", use_dictionary=repeating, write_statistics=False)
    return sink.getvalue().to_pybytes()
