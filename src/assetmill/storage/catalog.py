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
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from assetmill.records import InputError, Problem, asset_key
from assetmill.storage.bans import Bans, open_bans
from assetmill.storage.entries import SMALL_FIELDS, CatalogEntry, entries_to_table, entry_from_row, entry_schema
from assetmill.storage.holds import append_hold, read_hold
from assetmill.storage.layout import catalog_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store, StoreUnavailable
from assetmill.storage.table import SHARD_ROWS, Conflict, Manifest, MissingVersion, Shard, VersionedTable
from assetmill.storage.withdrawal import concat_rows, find_covered, rows_without, what_is_left

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Catalog", "CatalogDiff", "CatalogEntry", "CatalogHeld", "Verification", "VersionInfo", "open_catalog"]

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

    @property
    def table(self) -> VersionedTable:
        """The versions of the catalog, for whoever lets old ones go."""
        return self._table

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

    def shards(self, versions: Iterable[int], columns: Sequence[str]) -> Iterator[tuple[tuple[int, ...], pa.Table]]:
        """Columns of some versions, a shard at a time, each shard once with the versions that hold it."""
        shards: dict[str, tuple[Shard, list[int]]] = {}
        for version in versions:
            for shard in self._manifest(version).shards.values():
                name = " ".join(file.sha256 for file in shard.parts.values())
                shards.setdefault(name, (shard, []))[1].append(version)
        return map_ahead(
            lambda held: (tuple(held[1]), self._table.read_shard(held[0], columns)), shards.values(),
            threads=self.threads,
        )  # fmt: skip

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

    def licence_of(self, revision: str) -> str:
        """The licence that a model of this revision was last published with; empty where it never was."""
        versions = [v.version for v in reversed(self.versions()) if not v.problem]
        for _, rows in self.shards(versions, ["revision", "licence"]):
            found = dict(zip(rows["revision"].to_pylist(), rows["licence"].to_pylist(), strict=True))
            if revision in found:
                return found[revision] or ""
        return ""

    def versions(self) -> list[VersionInfo]:
        """All versions that have not expired, oldest first."""
        return list(map_ahead(self._info, self._table.versions(), threads=self.threads))

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
        go. When somebody else publishes meanwhile, the change is made again on top of theirs. What bans cover is left
        out, and taken out where it is in. Raises CatalogHeld after a rollback. Store the pictures first.
        """
        gone = {asset_key(asset_id) for asset_id in remove_assets}
        rows = entries_to_table(upserts)
        self._refuse_if_held()
        if not upserts and not gone:
            self.repair_latest()
            return self.latest()
        meta = {"action": "publish", "run": run, "note": note}

        def write(base: int, bans: Bans) -> int:
            touched = gone | set(rows["asset_key"].to_pylist())
            allowed, stay = rows, rows.slice(0, 0)
            emptied: set[str] = set()
            if bans:
                reasons = bans.reasons(rows)
                for reason in sorted(set(filter(None, reasons))):
                    log.warning("not published: %s", reason)
                allowed = rows.filter([not reason for reason in reasons])
                stay, emptied = self._without_banned(base, bans)
            left = concat_rows(allowed, rows_without(stay, touched))
            emptied |= touched - set(left["asset_key"].to_pylist())
            return self._table.commit(left, emptied, base=base, meta={**meta, "bans": bans.digest})

        return self._commit(write, check=True)

    def withdraw(self, *, run: str = "", note: str = "", always: bool = True) -> int:
        """Publishes a version without what bans cover, whether or not the catalog is held; gives its number.

        A version comes of it even where nothing was covered, so that whoever publishes at this moment has to look at
        the bans again; not where the newest version was made under the same bans, and with `always` off only where
        something was covered.
        """

        def write(base: int, bans: Bans) -> int:
            manifest = self._manifest(base)
            if manifest.meta.get("bans", "") == bans.digest:
                return base
            stay, emptied = self._without_banned(base, bans)
            if not (always or emptied or stay.num_rows):
                return base
            meta = {"action": "recall", "run": run, "note": note, "bans": bans.digest}
            return self._table.commit(stay, emptied, base=base, meta=meta)

        return self._commit(write, check=False)

    def rollback(self, to: int, *, reason: str = "", by: str = "") -> int:
        """Publishes the content of an older version as a new one and returns its number.

        Writes a hold before anything else: publishing refuses until `release`. Works when the newest version is
        damaged. What was recalled since then does not come back. Raises InputError when there is no such version,
        CorruptObject when that one is not whole.
        """
        newest = self.latest()
        if to < 1:
            raise InputError(
                Problem(f"version {to} cannot be rolled back to", "give the number of a version from 1 up")
            )
        for shard in self._manifest(to).shards.values():
            self._table.check_shard(shard)
        append_hold(self.store, self._prefix, {"action": "hold", "to": to, "from": newest, "reason": reason, "by": by})
        meta = {"action": "rollback", "run": "", "note": reason, "to": to}

        def write(base: int, bans: Bans) -> int:
            stay, emptied = self._without_banned(to, bans)
            return self._table.restore(
                to, number=base + 1, meta={**meta, "bans": bans.digest}, upserts=stay, delete_assets=emptied
            )

        return self._commit(write, check=False)

    def held(self) -> dict[str, Any] | None:
        """The hold on the catalog (`to`, `from`, `reason`, `by`, `created`), or None."""
        return read_hold(self.store, self._prefix)

    def release(self, *, reason: str = "", by: str = "") -> bool:
        """Lets the catalog be published again; False when it was not held."""
        try:
            if self.held() is None:
                return False
        except CorruptObject as error:
            log.warning("released, although: %s", error)
        append_hold(self.store, self._prefix, {"action": "release", "reason": reason, "by": by})
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

    def _commit(self, write: Callable[[int, Bans], int], *, check: bool) -> int:
        while True:
            base = self.latest()  # before looking for holds and bans: what comes in between then makes a conflict
            bans = open_bans(self.store, self.config_name)
            if check:
                self._refuse_if_held()
            try:
                version = write(base, bans)
                break
            except Conflict:
                time.sleep(random.uniform(0, 0.02))  # so that many at once do not go on in step
        try:
            self.repair_latest()
        except StoreUnavailable as error:  # published it is; the hint is made right by the next one
            log.warning("version %d is published, but latest.json could not be written: %s", version, error)
        return version

    def _without_banned(self, version: int, bans: Bans) -> tuple[pa.Table, set[str]]:
        """What is left of a version's assets that bans cover in part, and the keys of those they cover whole."""
        manifest = self._manifest(version)
        return what_is_left(self._table, manifest, find_covered(self._table, manifest, bans))

    def _refuse_if_held(self) -> None:
        if hold := self.held():
            raise CatalogHeld(self.config_name, hold)

    # --- checking and exporting ---

    def verify(self, version: int | None = None, progress: Callable[[int], None] | None = None) -> Verification:
        """Reads everything a version names, and hashes it: candidates, masters, cut-outs, files and their sidecars.

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
        names = ["blob", "master", "cutout", "object_key", "renditions"]
        for shard in self._known(version).shards.values():
            try:
                self._table.check_shard(shard)
                table = self._table.read_shard(shard, names)
            except CorruptObject as error:
                corrupt.append(error.key)
                continue
            for *blobs, published, renditions in zip(*(table[n].to_pylist() for n in names), strict=True):
                files = _hashes_of(renditions) or [(published, blobs[1])]
                for key, sha256 in (*((_blob_stem(b or ""), b or "") for b in blobs), *files):
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
                    f"versions go up to {self.latest()}, old ones may have expired: see `assetmill catalog list "
                    "CONFIG`",
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
