"""Letting old versions of a versioned table go: which may, and which of its files no version names any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from itertools import pairwise

from assetmill.storage.store import CorruptObject, ObjectInfo
from assetmill.storage.table import Manifest, MissingVersion, VersionedTable


def read_manifests(table: VersionedTable) -> tuple[dict[int, Manifest], list[str]]:
    """All versions that can be read, by number, and what is wrong with the others."""
    found: dict[int, Manifest] = {}
    problems: list[str] = []
    for version in table.versions():
        try:
            found[version] = table.manifest(version)
        except CorruptObject as error:
            problems.append(str(error))
        except MissingVersion:
            pass  # it expired a moment ago
    return found, problems


def outdated(
    manifests: dict[int, Manifest], *, newest: int, days: float | None, now: float, keep: Collection[int] = ()
) -> list[int]:
    """Versions that may go: not among the `newest`, not in `keep`, and replaced more than `days` ago (None: never)."""
    if days is None:
        return []
    numbers = sorted(manifests)
    old = []
    for version, successor in pairwise(numbers[: len(numbers) - newest + 1]):
        replaced = datetime.fromisoformat(manifests[successor].created).timestamp()
        if version not in keep and now - replaced >= days * 86_400:
            old.append(version)
    return old


def unnamed_files(table: VersionedTable, manifests: Iterable[Manifest]) -> Iterator[ObjectInfo]:
    """Shards of a table, and the lists beside them, that none of these versions names."""
    named: set[str] = set()
    for manifest in manifests:
        named.update(file.file for shard in manifest.shards.values() for file in shard.parts.values())
        named.update(v["file"] for v in manifest.meta.values() if isinstance(v, dict) and "file" in v)
    for folder in ("shards", "segments"):
        for info in table.store.list(f"{table.prefix}/{folder}/"):
            if info.key not in named:
                yield info
