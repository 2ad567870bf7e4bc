"""Letting go of what nothing needs any more, by `retention`: losers' pictures, old versions, run folders, orphans.

Records never expire. Before a picture that was not chosen is deleted a record says so: it counts as made, is not made
again and cannot be chosen. What is needed is found by marking (`operate.marks`), and only what is known not to be
needed goes, oldest kinds of trouble last:

    catalog versions ▶ their shards ▶ runs ▶ published files ▶ records of expiry ▶ pictures ▶ the rest

Whatever dies in between leaves things that nothing names, which the next call finds. While it deletes it holds the
locks of all configs in the store: a picture may belong to several.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from assetmill.config import Config
from assetmill.operate.lock import hold_lock
from assetmill.operate.marks import (
    Marks,
    as_facts,
    has_expired,
    mark_decisions,
    mark_documents,
    mark_foreign,
    mark_history,
    mark_versions,
)
from assetmill.operate.naming import folder_of
from assetmill.operate.recall import hold_versions
from assetmill.operate.runs import run_time
from assetmill.operate.showing import current_outlets
from assetmill.records import FailureRecord, Record, content_key
from assetmill.storage.catalog import Catalog, open_catalog
from assetmill.storage.expiry import outdated, read_manifests, unnamed_files
from assetmill.storage.index import Index, open_index, write_segment
from assetmill.storage.layout import atlases_prefix, feeds_prefix, runs_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.segments import EXPIRED
from assetmill.storage.store import ObjectInfo, Store
from assetmill.storage.ulid import new_ulid

RUNS_KEPT = 20
"""Newest runs whose folders stay: plans take their rates from them."""

INDEX_VERSIONS = 3
"""Newest versions of the index that stay; it can be rebuilt from the segments."""

_DAY = 86_400.0
_BATCH = 256
_KNOWN = frozenset(
    ("aside", "atlases", "bans", "blobs", "catalogs", "decisions", "embeddings", "feeds", "index", "locks", "published",
     "rankers", "records", "references", "runs", "thumbnails")
)  # fmt: skip
"""What lies in a store as far as this module knows. Documents anywhere else keep the pictures they name."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Sweep:
    """Objects of one kind that may go, and why. `keys` are in the order in which they go; `size` in bytes."""

    kind: str
    why: str
    keys: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, info: ObjectInfo) -> None:
        self.keys.append(info.key)
        self.size += info.size


@dataclass(frozen=True, slots=True)
class Collected:
    """What may go, or went. `problems` name damage that keeps whole kinds from being looked at."""

    deleted: bool
    sweeps: tuple[Sweep, ...]
    problems: tuple[str, ...] = ()

    @property
    def objects(self) -> int:
        return sum(len(s.keys) for s in self.sweeps)

    @property
    def size(self) -> int:
        return sum(s.size for s in self.sweeps)

    def as_json(self) -> dict[str, Any]:
        return {"deleted": self.deleted, "objects": self.objects, "bytes": self.size, "problems": list(self.problems),
                "sweeps": [asdict(s) for s in self.sweeps]}  # fmt: skip


def collect(store: Store, config: Config, *, delete: bool = False, now: float | None = None) -> Collected:
    """Finds what `retention` lets go of one config, and with `delete` lets it go.

    Raises AlreadyRunning when a run of any config in the store is under way and something is to be deleted.
    """
    if not delete:
        return _Collection(store, config, time.time() if now is None else now).find()
    with _all_locks(store, config.name):
        # Looked for under the locks: what was needed a moment ago may not be what is needed now.
        collection = _Collection(store, config, time.time() if now is None else now)
        found = collection.find()
        collection.let_go(found.sweeps)
        return Collected(True, found.sweeps, found.problems)


@contextmanager
def _all_locks(store: Store, config_name: str) -> Iterator[None]:
    with ExitStack() as locks:
        for name in sorted({config_name, *configs_in(store)}):
            locks.enter_context(hold_lock(store, name, owner={"command": "gc"}))
            locks.enter_context(hold_versions(store, name, "gc"))
        yield


def configs_in(store: Store) -> list[str]:
    """Names of all configs that have records or a catalog in a store."""
    found: set[str] = set()
    for top in ("catalogs/", "records/", "runs/", "decisions/"):
        found.update(info.key.removeprefix(top).partition("/")[0] for info in store.list(top))
    return sorted(found)


class _Collection:
    """One look at a store, and what follows from it."""

    def __init__(self, store: Store, config: Config, now: float) -> None:
        self.store, self.name, self.keep, self.now = store, config.name, config.retention, now
        self.index: Index = open_index(store, config.name)
        self.catalog: Catalog = open_catalog(store, config.name)
        self.marks = Marks()
        self.folders: set[str] = set()
        self.problems: list[str] = []

    # --- looking ---

    def find(self) -> Collected:
        """Everything that may go. Nothing is written."""
        versions = self._versions()
        runs = self._runs()
        self._mark(self._kept_versions, self._old_runs)
        sweeps = [*versions, runs, *self._objects(), self._index_versions()]
        return Collected(False, tuple(s for s in sweeps if s.keys), tuple(self.problems))

    def _is_old(self, modified: float, days: float | None) -> bool:
        return days is not None and self.now - modified >= max(days * _DAY, self.keep.grace_hours * 3600)

    def _versions(self) -> list[Sweep]:
        table = self.catalog.table
        manifests, damaged = read_manifests(table)
        held = self.catalog.held() or {}
        old = outdated(
            manifests, newest=self.keep.versions, days=self.keep.version_days,
            now=self.now - self.keep.grace_hours * 3600, keep={held.get("to", 0), held.get("from", 0)},
        )  # fmt: skip
        self._kept_versions = sorted(set(manifests) - set(old))
        named = Sweep("versions", f"catalog versions replaced over {self.keep.version_days:g} days ago" if old else "")
        for version in old:
            info = self.store.stat(table.manifest_path(version))
            if info is not None:
                named.add(info)
        shards = Sweep("shards", "parts of the catalog that no version names")
        if damaged:
            self.problems += damaged  # nobody knows what these name
        else:
            for info in unnamed_files(table, [manifests[v] for v in self._kept_versions]):
                if self._is_old(info.modified, 0):
                    shards.add(info)
        return [named, shards]

    def _index_versions(self) -> Sweep:
        table = self.index.table
        manifests, damaged = read_manifests(table)
        sweep = Sweep("index", f"all but the newest {INDEX_VERSIONS} versions of the index")
        if damaged:
            self.problems += damaged
            return sweep
        grace = self.now - self.keep.grace_hours * 3600
        old = outdated(manifests, newest=INDEX_VERSIONS, days=0, now=grace)
        for version in old:
            info = self.store.stat(table.manifest_path(version))
            if info is not None:
                sweep.add(info)
        for info in unnamed_files(table, [m for v, m in manifests.items() if v not in old]):
            if self._is_old(info.modified, 0):
                sweep.add(info)
        return sweep

    def _runs(self) -> Sweep:
        self._old_runs: set[str] = set()
        sweep = Sweep("runs", f"folders of runs older than {self.keep.runs:g} days" if self.keep.runs else "old runs")
        prefix = runs_prefix(self.name)
        folders: dict[str, list[ObjectInfo]] = {}
        for info in self.store.list(prefix):
            run_id = info.key.removeprefix(prefix).partition("/")[0]
            if run_id != "begun":
                folders.setdefault(run_id, []).append(info)
        for run_id in sorted(folders)[:-RUNS_KEPT]:
            if self._is_old(run_time(run_id), self.keep.runs):
                self._old_runs.add(run_id)
                # The report last: a folder without one looks like a run that died.
                for info in sorted(folders[run_id], key=lambda i: i.key.endswith("/report.json")):
                    sweep.add(info)
        return sweep

    def _mark(self, versions: Collection[int], old_runs: Collection[str]) -> None:
        decided = mark_decisions(self.store, self.name)
        self.marks.keep(decided)
        for asset_id, history in self.index.histories():
            self.folders.add(folder_of(asset_id))
            mark_history(self.marks, asset_id, history, decided)
        mark_versions(self.marks, self.catalog, versions)
        mark_documents(self.marks, self.store, self.name, old_runs)
        for other in configs_in(self.store):
            if other == self.name:
                continue
            index, catalog = open_index(self.store, other), open_catalog(self.store, other)
            for _, history in index.histories():
                mark_foreign(self.marks, history)
            manifests, damaged = read_manifests(catalog.table)
            mark_versions(self.marks, catalog, manifests)
            mark_documents(self.marks, self.store, other)
            self.marks.keep(mark_decisions(self.store, other))
            self.problems += [*index.problems, *damaged]
        self.problems += self.index.problems
        log.info("marked: %s", as_facts(self.marks))

    def _objects(self) -> list[Sweep]:
        """Pictures, published files and the rest, in one listing of the store."""
        losers = Sweep("losers", "pictures that were not chosen")
        spare = Sweep("spare", "masters of earlier choices, heat maps")
        orphans = Sweep("orphans", "pictures that no record names")
        published = Sweep("published", "published files that no catalog version names")
        aside = Sweep("aside", "damaged objects that were set aside")
        embeddings = Sweep("embeddings", "embeddings of pictures")
        outlets = Sweep("outlets", "sheets, data and feeds that were replaced")
        current = {k for prefix in (atlases_prefix(self.name), feeds_prefix(self.name))
                   for k in current_outlets(self.store, prefix)}  # fmt: skip
        thumbnails = Sweep("thumbnails", "small copies of pictures that are not needed")
        blobs: list[ObjectInfo] = []
        for info in self.store.list(""):
            top, _, rest = info.key.partition("/")
            if top in ("blobs", "thumbnails"):
                blobs.append(info)
            elif top == "published":
                folder = rest.split("/")[1] if rest.count("/") > 1 else ""
                unnamed = folder in self.folders and info.key not in self.marks.files
                if unnamed and self._is_old(info.modified, self.keep.orphans):
                    published.add(info)
            elif info.key.startswith((atlases_prefix(self.name), feeds_prefix(self.name))):
                if info.key not in current and self._is_old(info.modified, self.keep.version_days):
                    outlets.add(info)
            elif top == "aside" and self._is_old(info.modified, self.keep.aside):
                aside.add(info)
            elif top == "embeddings" and self._is_old(info.modified, self.keep.embeddings):
                embeddings.add(info)
            elif top not in _KNOWN and info.key.endswith((".json", ".jsonl")):
                self.marks.keep([self.store.get(info.key).decode("utf-8", "replace")])
        if self.problems:
            # A damaged segment, say, may name pictures that then look like nobody's.
            return [aside, embeddings]
        for info in blobs:
            blob = bytes.fromhex(info.key.rpartition("/")[2].partition(".")[0])
            if blob in self.marks.live:
                continue
            kind = losers if blob in self.marks.losers else spare if blob in self.marks.spare else orphans
            if self._is_old(info.modified, self.keep.orphans if kind is orphans else self.keep.losers):
                (thumbnails if info.key.startswith("thumbnails/") else kind).add(info)
        return [published, outlets, losers, spare, orphans, thumbnails, aside, embeddings]

    # --- letting go ---

    def let_go(self, sweeps: Sequence[Sweep]) -> None:
        """Deletes what was found, in order; losers only after a record says that they expired."""
        for sweep in sweeps:
            if sweep.kind == "losers":
                self._record_expiry(sweep.keys)
                # Somebody may have approved one of them since we looked.
                decided = mark_decisions(self.store, self.name)
                sweep.keys = [k for k in sweep.keys if k.rpartition("/")[2].partition(".")[0] not in decided]
            for _ in map_ahead(self.store.delete, sweep.keys):
                pass

    def _record_expiry(self, keys: Sequence[str]) -> None:
        blobs = {key.rpartition("/")[2].partition(".")[0] for key in keys}
        assets = sorted({a for blob in blobs for a in self.marks.losers[bytes.fromhex(blob)]})
        batch = content_key("expired", {"id": new_ulid()})
        for start in range(0, len(assets), _BATCH):
            records: list[Record] = []
            for history in self.index.history(assets[start : start + _BATCH]).values():
                for key, candidate in history.candidates.items():
                    if candidate.blob in blobs and not has_expired(history, key):
                        records += [history.requests[key], FailureRecord(key, EXPIRED, "not chosen; see retention")]
            if records:
                write_segment(self.store, self.name, batch, start // _BATCH, records)
