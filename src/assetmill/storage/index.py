"""The index: what exists. A versioned table folded from the segments, and the tail of segments not yet in it.

Nothing here is the truth: the segments are. `compact` folds them into a new version and lists, beside the shards, which
ones are in it; a reader takes the newest version it can read and adds the tail. A damaged segment is set aside and
reported, a damaged index is rebuilt from the segments; neither stops a run.

Rows are `(asset_key, kind, key)`, see `storage.fold`. Their small columns lie in files of their own, so that a plan
over hundreds of thousands of requests reads some tens of megabytes and one object per shard.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

from assetmill.records import OutcomeRecord, asset_key, parse_record
from assetmill.storage.fold import (
    CUT,
    OK,
    POISON,
    REJECTED,
    TRANSIENT,
    AssetHistory,
    Rows,
    add_segment,
    history_of,
    next_status,
    row_from_text,
)
from assetmill.storage.layout import index_prefix, segments_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.segments import LOST, Fact, Segment, facts_of, read_segment, write_segment
from assetmill.storage.spill import Spill
from assetmill.storage.store import CorruptObject, MissingObject, Store
from assetmill.storage.table import SHARD_ROWS, Conflict, Manifest, MissingVersion, VersionedTable, put_content

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CUT", "LOST", "OK", "POISON", "REJECTED", "TRANSIENT",
    "AssetHistory", "Index", "open_index", "write_segment",
]  # fmt: skip

T = TypeVar("T")

_ASSETS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class _TailSegment:
    """What the tail keeps of a segment in memory: what it says of requests and assets, but not its lines.

    `keys` are the raw keys of its requests, 32 bytes each without a gap, and `signals` what is said of them: 40 bytes
    a request, since equal signals are one tuple.
    """

    key: str
    order: tuple[str, str]
    size: int
    keys: bytes
    signals: tuple[tuple[str, ...], ...]
    outcomes: tuple[tuple[str, OutcomeRecord], ...]
    asset_keys: tuple[str, ...]

    def requests(self) -> Iterator[tuple[bytes, tuple[str, ...]]]:
        return zip(_split(self.keys), self.signals, strict=True)


def open_index(store: Store, config_name: str) -> Index:
    """The index of one config as it is now. Records written later are seen by an index opened later."""
    return Index(store, config_name)


class Index:
    """A snapshot of what a config's store holds.

    `problems` names what was damaged and set aside; it is complete once `statuses` or `outcomes` were asked for.
    """

    def __init__(self, store: Store, config_name: str, *, shard_rows: int = SHARD_ROWS, threads: int = 4) -> None:
        self.store = store
        self.threads = threads
        self.problems: list[str] = []
        self._table = VersionedTable(
            store,
            index_prefix(config_name),
            _schema(),
            ("asset_key", "kind", "key"),
            parts={"status": ("asset_key", "kind", "key", "status", "outcome"), "lines": ("lines",)},
            shard_rows=shard_rows,
            way_out="the index is rebuilt from the segments",
            threads=threads,
        )
        self._segments = segments_prefix(config_name).rstrip("/") + "/"
        self._lock = RLock()
        self._refresh()

    # --- what is there ---

    @property
    def table(self) -> VersionedTable:
        """The versions of the index, for whoever lets old ones go."""
        return self._table

    @property
    def version(self) -> int:
        """The version that this snapshot stands on; 0 for none."""
        return self._manifest.version

    @property
    def num_tail(self) -> int:
        """How many segments are not yet in that version."""
        return len(self._pending)

    def statuses(self) -> dict[bytes, int]:
        """What became of every request: raw key (32 bytes) to OK, REJECTED, POISON, TRANSIENT or CUT.

        A plain dict, because a plan looks up each of its requests once: 0.1 µs each, about 130 bytes per request.
        It is kept and shared: don't change it.
        """
        return self._scan()[0]

    def outcomes(self) -> dict[str, OutcomeRecord]:
        """The latest outcome of every asset, by asset key. Kept and shared: don't change it."""
        return self._scan()[1]

    def history(self, asset_ids: Collection[str]) -> dict[str, AssetHistory]:
        """All that counts of these assets; an empty history for those never heard of.

        Reads the shards that hold them: ask for many at once, or in order of their asset keys.
        """
        names = {asset_key(asset_id): asset_id for asset_id in asset_ids}
        rows = self._rows(names)
        return {asset_id: history_of(rows.get(key, {}).values()) for key, asset_id in names.items()}

    def histories(self) -> Iterator[tuple[str, AssetHistory]]:
        """Every asset's id and history, some hundred in memory at a time."""
        with self._lock:
            names: set[str] = set()
            for table in self._table.iter_shards(self._manifest, ["asset_key"]):
                names.update(table["asset_key"].to_pylist())
            names.update(name for segment in self._tail() for name in segment.asset_keys)
        ordered = sorted(names)
        for start in range(0, len(ordered), _ASSETS_AT_ONCE):
            for rows in self._rows(ordered[start : start + _ASSETS_AT_ONCE]).values():
                history = history_of(rows.values())
                said = [*history.requests.values(), *history.variants.values(), history.outcome]
                asset_id = next((record.asset_id for record in said if record is not None), None)
                if asset_id is not None:
                    yield asset_id, history

    def find(self, request_keys: Collection[str]) -> dict[str, AssetHistory]:
        """The records of single requests, by request key (hex), whichever asset they were made for."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = {bytes.fromhex(key) for key in request_keys}
        values = pa.array(sorted(wanted), pa.binary(32))

        def search() -> set[str]:
            homes: set[str] = set()
            for table in self._table.iter_shards(self._manifest, ["asset_key", "key"]):
                homes.update(table.filter(pc.is_in(table["key"], value_set=values))["asset_key"].to_pylist())
            return homes

        with self._lock:
            homes = self._guarded(search)
            for segment in self._tail():
                if not wanted.isdisjoint(_split(segment.keys)):
                    homes.update(segment.asset_keys)
            found: dict[str, AssetHistory] = {}
            for of_asset in self._rows(homes).values():
                for (kind, key), row in of_asset.items():
                    if kind == "request" and bytes.fromhex(key) in wanted and (row.status or key not in found):
                        found[key] = history_of([row])
            return found

    def mentioning(self, texts: Collection[str]) -> dict[str, AssetHistory]:
        """The histories, by asset id, of assets whose records hold one of some texts (hashes of pictures, say).

        Reads every record there is: some seconds for a million.
        """
        import pyarrow.compute as pc

        def search() -> set[str]:
            homes: set[str] = set()
            for table in self._table.iter_shards(self._manifest, ["asset_key", "lines"]):
                for text in texts:
                    said = pc.fill_null(pc.match_substring(table["lines"], text), False)
                    homes.update(table.filter(said)["asset_key"].to_pylist())
            return homes

        with self._lock:
            homes = self._guarded(search)
            for segment in self._tail():
                read = self._read_segment(segment.key)
                if not isinstance(read, str) and any(text in line for line in read.lines for text in texts):
                    homes.update(segment.asset_keys)
            found = {}
            for rows in self._rows(homes).values():
                history = history_of(rows.values())
                ids = {r.asset_id for r in history.requests.values()} | {v.asset_id for v in history.variants.values()}
                found.update(dict.fromkeys(ids, history))
            return found

    def iter_lines(self) -> Iterator[tuple[str, list[str]]]:
        """Every asset's key and the lines of its records, unparsed: for readers that want a few fields of all of them.

        Reads a shard at a time, assets of the tail last. Parsing is most of what `history` costs.
        """
        late = {name for segment in self._tail() for name in segment.asset_keys}
        seen: set[str] = set()
        try:
            for table in self._table.iter_shards(self._manifest, ["asset_key", "outcome", "lines"]):
                names, outcomes, lines = (table[c].to_pylist() for c in ("asset_key", "outcome", "lines"))
                for name, rows in groupby(zip(names, outcomes, lines, strict=True), key=itemgetter(0)):
                    if name not in late:
                        text = b"\n".join(outcome or held for _, outcome, held in rows)
                        seen.add(name)
                        yield name, text.decode("utf-8", "surrogatepass").split("\n")
        except CorruptObject as error:
            self._rebuild(error)  # now everything is in the tail
        rest = sorted({name for segment in self._tail() for name in segment.asset_keys} - seen)
        for start in range(0, len(rest), _ASSETS_AT_ONCE):
            for name, of_asset in self._rows(rest[start : start + _ASSETS_AT_ONCE]).items():
                yield name, [line for row in of_asset.values() for line in row.slots.values()]

    # --- folding ---

    def compact(self, min_segments: int = 64) -> int | None:
        """Folds the tail into a new version and returns its number; None when it is shorter than `min_segments`.

        Works in bounded memory (about 300 MiB, and 30 KiB for each segment of the tail): facts are dealt out to
        temporary files by asset key.
        If somebody else compacts at the same time, one of the two wins and the other starts over on top.
        """
        with self._lock:
            while len(tail := self._tail()) >= max(1, min_segments):
                with tempfile.TemporaryDirectory(prefix="assetmill-compact-") as folder:
                    spill = Spill(Path(folder), sum(segment.size for segment in tail))
                    folded = []
                    reads = map_ahead(self._read_segment, [s.key for s in tail], threads=self.threads)
                    for number, read in enumerate(reads):
                        if not isinstance(read, str):  # damaged since the tail was read: stays in the tail
                            spill.add(number, facts_of(read))
                            folded.append(read.key)
                    try:
                        meta = {"segments": self._write_list(self._included | {self._name(key) for key in folded})}
                        version = self._table.commit(
                            self._fold(spill), base=self.version, number=self._newest + 1, meta=meta
                        )
                    except Conflict:
                        version = None
                    except CorruptObject as error:
                        self._rebuild(error)
                        continue
                self._refresh()
                if version is not None:
                    return version
            return None

    def _fold(self, spill: Spill) -> Iterator[pa.Table]:
        for facts in spill.partitions():
            by_asset: dict[str, list[tuple[int, Fact]]] = {}
            for number, fact in facts:
                by_asset.setdefault(fact.asset_key, []).append((number, fact))
            names = sorted(by_asset)
            for start in range(0, len(names), _ASSETS_AT_ONCE):
                some = names[start : start + _ASSETS_AT_ONCE]
                rows = self._base_rows(some)
                for name in some:
                    for _, group in groupby(by_asset[name], key=lambda pair: pair[0]):
                        add_segment(rows.setdefault(name, {}), (fact for _, fact in group))
                yield _to_table(rows)

    # --- reading ---

    def _refresh(self) -> None:
        """Takes a new snapshot: the newest version that can be read, and the segments that are not in it."""
        self.problems = []
        self._newest = self._table.latest()
        for version in range(self._newest, -1, -1):
            try:
                self._manifest: Manifest = self._table.manifest(version)
                self._included = self._read_list(self._manifest)
                break
            except MissingVersion:
                pass  # it expired, or does so at this moment
            except CorruptObject as error:
                self.problems.append(str(error))
        self._list_pending()

    def _rebuild(self, error: CorruptObject) -> None:
        """Does without the index: all segments become the tail, and the next compaction starts from nothing."""
        self.problems.append(str(error))
        self._manifest = self._table.manifest(0)
        self._included = set()
        self._list_pending()

    def _list_pending(self) -> None:
        self._pending = [
            info
            for info in self.store.list(self._segments)
            if info.key.endswith(".jsonl") and self._name(info.key) not in self._included
        ]
        self._read_tail: list[_TailSegment] | None = None
        self._tail_of: dict[str, list[int]] = {}
        self._scanned: tuple[dict[bytes, int], dict[str, OutcomeRecord]] | None = None

    def _guarded(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except CorruptObject as error:
            self._rebuild(error)
            return read()

    def _name(self, key: str) -> str:
        return key.removeprefix(self._segments)

    def _read_segment(self, key: str) -> Segment | str:
        """The segment, all its records known to this version, or what is wrong with it."""
        try:
            return read_segment(self.store, key)
        except CorruptObject as error:
            return str(error)

    def _summarise(self, key: str) -> _TailSegment | str:
        segment = self._read_segment(key)
        if isinstance(segment, str):
            return segment
        signals: dict[str, tuple[str, list[str]]] = {}
        outcomes = {}
        homes: dict[str, None] = {}
        try:
            for fact in facts_of(segment):
                homes[fact.asset_key] = None
                if fact.kind == "outcome":
                    outcomes[fact.asset_key] = _outcome(fact.line)
                elif fact.kind == "request":
                    # Of a request that two assets share, one copy of its signals is enough.
                    home, said = signals.setdefault(fact.key, (fact.asset_key, []))
                    if fact.signal and home == fact.asset_key:
                        said.append(fact.signal)
        except (ValueError, KeyError, TypeError) as error:
            return f"{key} is set aside: {error!r}; a version of assetmill that can read it will take it in"
        return _TailSegment(
            key,
            segment.order,
            sum(map(len, segment.lines)),
            bytes.fromhex("".join(signals)),
            tuple(_one(tuple(said)) for _, said in signals.values()),
            tuple(outcomes.items()),
            tuple(homes),
        )

    def _tail(self) -> list[_TailSegment]:
        """The tail's segments in the order they were written."""
        with self._lock:
            if self._read_tail is None:
                tail = []
                for read in map_ahead(self._summarise, [i.key for i in self._pending], threads=self.threads):
                    if isinstance(read, str):
                        self.problems.append(read)
                    else:
                        tail.append(read)
                tail.sort(key=lambda segment: segment.order)
                for number, segment in enumerate(tail):
                    for name in segment.asset_keys:
                        self._tail_of.setdefault(name, []).append(number)
                self._read_tail = tail
            return self._read_tail

    def _scan(self) -> tuple[dict[bytes, int], dict[str, OutcomeRecord]]:
        with self._lock:
            if self._scanned is None:
                statuses, outcomes = self._guarded(self._scan_base)
                for segment in self._tail():
                    outcomes.update(segment.outcomes)
                    for key, said in segment.requests():
                        if status := next_status(statuses.get(key, 0), said):
                            statuses[key] = status
                self._scanned = statuses, outcomes
            return self._scanned

    def _scan_base(self) -> tuple[dict[bytes, int], dict[str, OutcomeRecord]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        statuses: dict[bytes, int] = {}
        outcomes: dict[str, OutcomeRecord] = {}
        columns = ["asset_key", "key", "status", "outcome"]
        for table in self._table.iter_shards(self._manifest, columns):
            done = table.filter(pc.not_equal(table["status"], 0))
            for key, status in zip(_split(_raw(done["key"])), done["status"].to_numpy().tolist(), strict=True):
                # Two assets may share a request; then what was made counts, not what failed.
                if status <= REJECTED or key not in statuses:
                    statuses[key] = status
            said = table.filter(pc.is_valid(table["outcome"]))
            for name, line in zip(said["asset_key"].to_pylist(), said["outcome"].to_pylist(), strict=True):
                outcomes[name] = _outcome(line.decode("utf-8", "surrogatepass"))
        pa.default_memory_pool().release_unused()  # some 70 MiB that a plan has better uses for
        return statuses, outcomes

    def _base_rows(self, asset_keys: Collection[str]) -> dict[str, Rows]:
        """The stored rows of these assets."""
        found: dict[str, Rows] = {}
        for table in self._table.iter_shards(self._manifest, None, asset_keys):
            for row in table.to_pylist():
                text = row["outcome"] if row["kind"] == "outcome" else row["lines"]
                of_asset = found.setdefault(row["asset_key"], {})
                of_asset[row["kind"], row["key"].hex()] = row_from_text(row["status"], text)
        return found

    def _rows(self, asset_keys: Collection[str]) -> dict[str, Rows]:
        """The rows of these assets, the tail's records added."""
        with self._lock:
            found = self._guarded(lambda: self._base_rows(asset_keys))
            tail = self._tail()
            wanted = set(asset_keys)
            for number in sorted({n for name in wanted for n in self._tail_of.get(name, ())}):
                segment = self._read_segment(tail[number].key)
                if isinstance(segment, str):
                    self.problems.append(segment)
                    continue
                facts: dict[str, list[Fact]] = {}
                for fact in facts_of(segment):
                    if fact.asset_key in wanted:
                        facts.setdefault(fact.asset_key, []).append(fact)
                for name, some in facts.items():
                    add_segment(found.setdefault(name, {}), some)
            return found

    # --- which segments are in ---

    def _write_list(self, names: Collection[str]) -> dict[str, str | int]:
        data = gzip.compress("".join(f"{name}\n" for name in sorted(names)).encode(), 6, mtime=0)
        sha256 = hashlib.sha256(data).hexdigest()
        file = f"{self._table.prefix}/segments/{sha256}.txt.gz"
        put_content(self.store, file, data, "application/gzip")
        return {"file": file, "sha256": sha256, "count": len(names)}

    def _read_list(self, manifest: Manifest) -> set[str]:
        if manifest.version == 0:
            return set()
        entry = manifest.meta["segments"]
        try:
            data = self.store.get(entry["file"])
        except MissingObject as error:
            raise CorruptObject(entry["file"], f"it is missing ({self._table.way_out})") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise CorruptObject(entry["file"], f"its hash is not its name ({self._table.way_out})")
        return set(gzip.decompress(data).decode().splitlines())


@functools.cache
def _one(signals: tuple[str, ...]) -> tuple[str, ...]:
    """The same few tuples over and over: one copy of each is kept."""
    return signals


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("asset_key", pa.string()),
            ("kind", pa.string()),
            ("key", pa.binary(32)),
            ("status", pa.int8()),
            ("outcome", pa.binary()),  # lines are bytes: a lone surrogate in a text is no valid Arrow string
            ("lines", pa.binary()),
        ]
    )


def _to_table(rows: dict[str, Rows]) -> pa.Table:
    import pyarrow as pa

    flat = [(name, kind, key, row) for name, of in rows.items() for (kind, key), row in of.items()]
    columns = {
        "asset_key": [name for name, _, _, _ in flat],
        "kind": [kind for _, kind, _, _ in flat],
        "key": [bytes.fromhex(key) for _, _, key, _ in flat],
        "status": [row.status for _, _, _, row in flat],
        "outcome": [row.text() if kind == "outcome" else None for _, kind, _, row in flat],
        "lines": [None if kind == "outcome" else row.text() for _, kind, _, row in flat],
    }
    return pa.table(columns, schema=_schema())


def _outcome(line: str) -> OutcomeRecord:
    record = parse_record(line)
    assert isinstance(record, OutcomeRecord)
    return record


def _split(keys: bytes) -> list[bytes]:
    return [keys[start : start + 32] for start in range(0, len(keys), 32)]


def _raw(column: pa.ChunkedArray) -> bytes:
    """The bytes of a binary(32) column, one value after the other."""
    array = column.combine_chunks()
    data = array.buffers()[1]
    return b"" if data is None else data.to_pybytes()[array.offset * 32 : (array.offset + len(array)) * 32]
