"""The catalog: what is published, by version.

    catalogs/<config>/versions/<n>.json + shards    a versioned table (`storage.table`)
    catalogs/<config>/hold/<n>.json                 holds and releases, in order: the last one counts
    catalogs/<config>/latest.json                   a hint for readers outside, repaired when it is wrong

Pictures are stored before the version that names them: whoever dies in between leaves the old catalog. Two publishers
at once both land, one rebased on the other, because a commit replaces whole assets only. A rollback writes a hold
first, and publishing refuses until that is released, so that the next night does not undo it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from assetmill.records import InputError, Problem, asset_key
from assetmill.storage.entries import SMALL_FIELDS, CatalogEntry, entries_to_table, entry_from_row, entry_schema
from assetmill.storage.layout import catalog_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store, StoreUnavailable
from assetmill.storage.table import SHARD_ROWS, Conflict, Manifest, MissingVersion, VersionedTable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Catalog", "CatalogDiff", "CatalogEntry", "CatalogHeld", "Verification", "VersionInfo", "open_catalog"]

_HOLD_NAME = re.compile(r"\d{8,}\.json")

log = logging.getLogger(__name__)


class CatalogHeld(RuntimeError):
    """A rollback put a hold on the catalog: nothing is published until it is released. `hold` is its record."""

    def __init__(self, config_name: str, hold: Mapping[str, Any]) -> None:
        self.hold = dict(hold)
        reason = f", because: {hold['reason']}" if hold.get("reason") else ""
        super().__init__(
            f"the catalog of {config_name!r} is held since {hold['created']} (rolled back to version {hold['to']}"
            f"{reason}); look at what was published, then release it with `assetmill catalog release CONFIG`"
        )


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version: how many `variants` of how many `assets`, and who made it why (`action`: publish or rollback).

    `problem` says why a damaged version cannot be read; its other fields are then empty.
    """

    version: int
    parent: int
    created: str
    assets: int
    variants: int
    action: str
    run: str
    note: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CatalogDiff:
    """Ids of assets that one version has and another has not, or shows otherwise. Sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of all bytes found: how many pictures were looked at, and the keys of bad objects."""

    objects: int
    missing: list[str]
    corrupt: list[str]

    @property
    def passed(self) -> bool:
        return not (self.missing or self.corrupt)


def open_catalog(store: Store, config_name: str) -> Catalog:
    """The catalog of one config. Every call sees the store as it then is, unless given a version."""
    return Catalog(store, config_name)


class Catalog:
    """Reads, publishes, checks and rolls back one config's published variants."""

    def __init__(self, store: Store, config_name: str, *, shard_rows: int = SHARD_ROWS, threads: int = 8) -> None:
        self.store = store
        self.config_name = config_name
        self.threads = threads
        self._prefix = catalog_prefix(config_name).rstrip("/")
        schema = entry_schema()
        self._table = VersionedTable(
            store,
            f"{self._prefix}/versions",
            schema,
            ("asset_key", "rank"),
            parts={"small": SMALL_FIELDS, "rest": [n for n in schema.names if n not in SMALL_FIELDS]},
            shard_rows=shard_rows,
            way_out="or go back to a whole version with `assetmill catalog rollback CONFIG`",
        )

    # --- reading ---

    def latest(self) -> int:
        """The number of the newest version; 0 when nothing was ever published."""
        return self._table.latest()

    def entries(self, version: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a version by asset key and rank: `asset_key`, then CatalogEntry's fields (`entry_schema`)."""
        return self._table.read(self._known(version), columns)

    def iter_entries(self, version: int | None = None) -> Iterator[CatalogEntry]:
        """The entries of a version, a shard in memory at a time."""
        for table in self._table.iter_shards(self._known(version)):
            for row in table.to_pylist():
                yield entry_from_row(row)

    def fingerprints(self, version: int | None = None) -> dict[str, tuple[str, str, str]]:
        """The `work_key`, `select_key` and `meta_key` of every published asset, by asset key."""
        found: dict[str, tuple[str, str, str]] = {}
        same: dict[str, str] = {}  # most assets share their select_key: one copy of each text
        names = ["asset_key", "work_key", "select_key", "meta_key"]
        for table in self._table.iter_shards(self._known(version), names):
            for key, work, select, meta in zip(*(table[n].to_pylist() for n in names), strict=True):
                found.setdefault(key, (work, same.setdefault(select, select), meta))
        return found

    def show(self, asset_id: str, version: int | None = None) -> list[CatalogEntry]:
        """The entries of one asset, by rank; empty when it is not published."""
        return self.entries_of([asset_id], version)

    def entries_of(self, asset_ids: Iterable[str], version: int | None = None) -> list[CatalogEntry]:
        """The entries of some assets, reading only their shards."""
        table = self._table.read(self._known(version), shards_for={asset_key(i) for i in asset_ids})
        return [entry_from_row(row) for row in table.to_pylist()]

    def versions(self) -> list[VersionInfo]:
        """All versions, oldest first."""
        return list(map_ahead(self._info, range(1, self.latest() + 1), threads=self.threads))

    def diff(self, old: int, new: int) -> CatalogDiff:
        """What changed between two versions; reads only shards they do not share.

        An entry counts as changed when anything but its `run` and `created` differs.
        """
        before, after = self._manifest(old), self._manifest(new)
        shared = {p for p in before.shards if before.shards[p] == after.shards.get(p)}
        first, second = self._digests(before, shared), self._digests(after, shared)
        return CatalogDiff(
            added=tuple(sorted(second.keys() - first.keys())),
            changed=tuple(sorted(k for k in first.keys() & second.keys() if first[k] != second[k])),
            removed=tuple(sorted(first.keys() - second.keys())),
        )

    # --- publishing ---

    def commit(
        self,
        upserts: Sequence[CatalogEntry],
        remove_assets: Collection[str] = (),
        *,
        run: str,
        note: str = "",
    ) -> int:
        """Publishes a new version and returns its number; that of the newest one when there is nothing to do.

        All entries of every asset in `upserts` are replaced by those given; the assets of the ids in `remove_assets`
        go. When somebody else publishes meanwhile, the change is made again on top of theirs. Raises CatalogHeld
        after a rollback. Store the pictures first.
        """
        gone = {asset_key(asset_id) for asset_id in remove_assets}
        rows = entries_to_table(upserts)
        self._refuse_if_held()
        if not upserts and not gone:
            self.repair_latest()
            return self.latest()
        meta = {"action": "publish", "run": run, "note": note}
        return self._commit(lambda base: self._table.commit(rows, gone, base=base, meta=meta), check=True)

    def rollback(self, to: int, *, reason: str = "", by: str = "") -> int:
        """Publishes the content of an older version as a new one and returns its number.

        Writes a hold before anything else: publishing refuses until `release`. Works when the newest version is
        damaged. Raises InputError when there is no such version, CorruptObject when that one is not whole.
        """
        newest = self.latest()
        if to < 1:
            raise InputError(
                Problem(f"version {to} cannot be rolled back to", "give the number of a version from 1 up")
            )
        for shard in self._manifest(to).shards.values():
            self._table.check_shard(shard)
        self._append_hold({"action": "hold", "to": to, "from": newest, "reason": reason, "by": by})
        meta = {"action": "rollback", "run": "", "note": reason, "to": to}
        return self._commit(lambda base: self._table.restore(to, number=base + 1, meta=meta), check=False)

    def held(self) -> dict[str, Any] | None:
        """The hold on the catalog (`to`, `from`, `reason`, `by`, `created`), or None."""
        key = self._last_hold()
        if key is None:
            return None
        try:
            record: dict[str, Any] = json.loads(self.store.get(key))
            if record["action"] == "release":
                return None
            if record["action"] == "hold" and {"to", "created"} <= record.keys():
                return record
            raise ValueError("it is neither a hold nor a release")
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # MissingObject is a KeyError
            raise CorruptObject(
                key,
                f"whether the catalog is held cannot be read ({error!r}); `assetmill catalog release CONFIG` ends it",
            ) from error

    def release(self, *, reason: str = "", by: str = "") -> bool:
        """Lets the catalog be published again; False when it was not held."""
        try:
            if self.held() is None:
                return False
        except CorruptObject as error:
            log.warning("released, although: %s", error)
        self._append_hold({"action": "release", "reason": reason, "by": by})
        return True

    def repair_latest(self) -> bool:
        """Writes `latest.json` where it is missing, damaged or behind; says whether it had to."""
        path, repaired = f"{self._prefix}/latest.json", False
        while version := self.latest():
            hint = {"schema": 1, "config": self.config_name, "version": version,
                    "manifest": self._table.manifest_path(version)}  # fmt: skip
            data = json.dumps(hint, indent=1).encode()
            try:
                if self.store.get(path) == data:
                    break
            except (MissingObject, CorruptObject):
                pass
            self.store.replace(path, data, media_type="application/json")
            repaired = True  # and look again: another publisher may have been faster
        return repaired

    def _commit(self, write: Callable[[int], int], *, check: bool) -> int:
        while True:
            base = self.latest()  # before looking for a hold: a rollback in between then makes a conflict
            if check:
                self._refuse_if_held()
            try:
                version = write(base)
                break
            except Conflict:
                time.sleep(random.uniform(0, 0.02))  # so that many at once do not go on in step
        try:
            self.repair_latest()
        except StoreUnavailable as error:  # published it is; the hint is made right by the next one
            log.warning("version %d is published, but latest.json could not be written: %s", version, error)
        return version

    def _refuse_if_held(self) -> None:
        if hold := self.held():
            raise CatalogHeld(self.config_name, hold)

    # --- checking and exporting ---

    def verify(self, version: int | None = None, progress: Callable[[int], None] | None = None) -> Verification:
        """Reads everything a version names, and hashes it: candidates, masters, published files and their sidecars.

        Shards are checked too: a damaged one is listed, and the rest goes on without what it named. `progress` is told
        the number of objects looked at.
        """
        missing: list[str] = []
        corrupt: list[str] = []
        done = 0
        for (key, _), bad in map_ahead(self._check, self._named(version, corrupt), threads=self.threads):
            done += 1
            if bad:
                (missing if bad == "missing" else corrupt).append(key)
            if progress:
                progress(done)
        return Verification(done, sorted(missing), sorted(corrupt))

    def export_jsonl(self, path: Path | str, version: int | None = None) -> int:
        """Writes a version as JSON lines, an entry each, and returns how many. The file appears whole or not at all."""

        def write(file: IO[bytes]) -> int:
            count = 0
            for entry in self.iter_entries(version):
                file.write(json.dumps(entry.as_json(), ensure_ascii=False).encode() + b"\n")
                count += 1
            return count

        return _write_whole(Path(path), write)

    def export_parquet(self, path: Path | str, version: int | None = None) -> int:
        """Writes a version as one Parquet file (`entry_schema`) and returns its number of rows, as `export_jsonl`."""
        import pyarrow.parquet as pq

        manifest = self._known(version)

        def write(file: IO[bytes]) -> int:
            with pq.ParquetWriter(file, entry_schema(), compression="zstd") as writer:
                for table in self._table.iter_shards(manifest):
                    writer.write_table(table)
            return manifest.rows

        return _write_whole(Path(path), write)

    def _named(self, version: int | None, corrupt: list[str]) -> Iterator[tuple[str, str]]:
        """Keys of the objects a version names, each once, with the hash they must have."""
        seen: set[bytes] = set()
        names = ["blob", "master", "object_key", "renditions"]
        for shard in self._known(version).shards.values():
            try:
                self._table.check_shard(shard)
                table = self._table.read_shard(shard, names)
            except CorruptObject as error:
                corrupt.append(error.key)
                continue
            for blob, master, published, renditions in zip(*(table[n].to_pylist() for n in names), strict=True):
                files = _hashes_of(renditions) or [(published, master)]
                for key, sha256 in ((_blob_stem(blob), blob), (_blob_stem(master), master), *files):
                    # A hash per object is what a million of them may cost in memory, not a key.
                    digest = hashlib.sha256(f"{key} {sha256}".encode()).digest()
                    if key and digest not in seen:
                        seen.add(digest)
                        yield key, sha256

    def _check(self, named: tuple[str, str]) -> tuple[tuple[str, str], str]:
        key, sha256 = named
        try:
            if key.startswith("blobs/"):  # an entry does not say what its candidate's extension was
                found = next(iter(self.store.list(key)), None)
                if found is None:
                    return named, "missing"
                key = found.key
            data = self.store.get(key)
        except MissingObject:
            return (key, sha256), "missing"
        except CorruptObject:
            return (key, sha256), "corrupt"
        return (key, sha256), "" if hashlib.sha256(data).hexdigest() == sha256 else "corrupt"

    # --- helpers ---

    def _manifest(self, version: int) -> Manifest:
        try:
            return self._table.manifest(version)
        except MissingVersion as error:
            raise InputError(
                Problem(
                    f"the catalog of {self.config_name!r} has no version {version}",
                    f"versions go from 1 to {self.latest()}: see `assetmill catalog list CONFIG`",
                )
            ) from error

    def _known(self, version: int | None) -> Manifest:
        return self._manifest(self.latest() if version is None else version)

    def _info(self, version: int) -> VersionInfo:
        try:
            manifest = self._table.manifest(version)
        except (CorruptObject, MissingVersion) as error:
            return VersionInfo(version, 0, "", 0, 0, "", "", "", problem=str(error))
        meta = manifest.meta
        return VersionInfo(
            version, manifest.parent, manifest.created, manifest.assets, manifest.rows,
            meta["action"], meta["run"], meta["note"],
        )  # fmt: skip

    def _digests(self, manifest: Manifest, without: Collection[str]) -> dict[str, bytes]:
        """A hash of what each asset shows, for the assets outside the shards `without`."""
        found: dict[str, bytes] = {}
        for prefix, shard in sorted(manifest.shards.items()):
            if prefix in without:
                continue
            for row in self._table.read_shard(shard, self._table.schema.names).to_pylist():
                row["run"] = row["created"] = ""
                text = json.dumps(row, sort_keys=True).encode()
                found[row["asset_id"]] = hashlib.sha256(found.get(row["asset_id"], b"") + text).digest()
        return found

    def _last_hold(self) -> str | None:
        """The key of the newest hold or release."""
        last = None
        for info in self.store.list(f"{self._prefix}/hold/"):
            if _HOLD_NAME.fullmatch(info.key.rpartition("/")[2]):
                last = info.key
        return last

    def _append_hold(self, record: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        data = json.dumps({"schema": 1, **record, "created": now, "token": os.urandom(8).hex()}, indent=1).encode()
        last = self._last_hold()
        number = int(Path(last).stem) + 1 if last else 1
        while not self.store.put_if_absent(
            f"{self._prefix}/hold/{number:08d}.json", data, media_type="application/json"
        ):
            number += 1


def _hashes_of(renditions: str | None) -> list[tuple[str, str]]:
    """Keys and hashes of the files in a row's `renditions`; none in rows of before there were any."""
    found: list[tuple[str, str]] = []
    for file in json.loads(renditions or "[]"):
        found.append((file["object_key"], file["sha256"]))
        if file.get("sidecar"):
            found.append((file["sidecar"], file.get("sidecar_sha256", "")))
    return found


def _blob_stem(sha256: str) -> str:
    """The key of a blob up to its extension; empty for no blob."""
    return f"blobs/{sha256[:2]}/{sha256}." if sha256 else ""


def _write_whole(path: Path, write: Callable[[IO[bytes]], int]) -> int:
    """Lets `write` fill a temporary file beside the path and moves it there when that went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            count = write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
