"""What of a store is still needed: the pictures that records, catalogs, decisions and runs stand on.

Marking errs on the side of keeping. Whatever looks like the hash of a picture in a record that counts is taken for
one, so that a kind of record that this module has never heard of keeps its pictures too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from assetmill.records import CandidateRecord, record_line
from assetmill.storage.catalog import Catalog
from assetmill.storage.decisions import read_decisions
from assetmill.storage.fold import AssetHistory
from assetmill.storage.layout import references_path, runs_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.segments import EXPIRED
from assetmill.storage.store import CorruptObject, MissingObject, Store

_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

ENTRY_COLUMNS = ("blob", "master", "cutout", "object_key", "renditions", "request")
"""Columns of a catalog that name objects of the store."""

_UNSETTLED = ("pending_review", "transient")
"""Outcomes of assets all of whose pictures are still wanted."""


@dataclass(slots=True)
class Marks:
    """Hashes of pictures (32 bytes each) by what becomes of them.

    `live` are needed. `losers` were not chosen: by hash the ids of assets they were made for. `spare` were named once
    and can be made again from what is live: masters of earlier choices, heat maps. `files` are keys of published
    objects that some catalog version names.
    """

    live: set[bytes] = field(default_factory=set)
    losers: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    spare: set[bytes] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def keep(self, texts: Iterable[str]) -> None:
        """Marks every hash in some texts as needed."""
        self.live.update(hashes_in(texts))


def hashes_in(texts: Iterable[str]) -> set[bytes]:
    """Every SHA-256 that stands in some texts."""
    return {bytes.fromhex(hit) for text in texts for hit in _HASH.findall(text)}


def mark_history(marks: Marks, asset_id: str, history: AssetHistory, decided: Collection[str]) -> None:
    """Marks the pictures of one asset. `decided` are those that people approved, adopted or worked from."""
    chosen = set(history.outcome.chosen) if history.outcome is not None else set()
    settled = history.outcome is not None and history.outcome.status not in _UNSETTLED
    kept = {v.blob for key, v in history.variants.items() if key in chosen or not settled} | set(decided)
    for made in history.requests.values():
        marks.live.update(bytes.fromhex(r.blob) for r in made.request.references)
        marks.live.update(bytes.fromhex(a.sha256) for a in made.request.adapters)
    for key, variant in history.variants.items():
        named = hashes_in([record_line(variant)]) - {bytes.fromhex(key)}
        (marks.live if key in chosen or not settled else marks.spare).update(named)
    for key, made_of in history.candidates.items():
        named = _with_heat(history, key, made_of)
        if settled and made_of.blob not in kept:
            blob = bytes.fromhex(made_of.blob)
            marks.losers[blob] = (*marks.losers.get(blob, ()), asset_id)
            marks.spare.update(named - {blob})
        else:
            marks.live.update(named)


def mark_foreign(marks: Marks, history: AssetHistory) -> None:
    """Marks the pictures of an asset of another config: all but those that expired there."""
    for made in history.requests.values():
        marks.keep([record_line(made)])
    for variant in history.variants.values():
        marks.keep([record_line(variant)])
    for key, candidate in history.candidates.items():
        if not has_expired(history, key):
            marks.live.update(_with_heat(history, key, candidate))


def has_expired(history: AssetHistory, request_key: str) -> bool:
    """Whether the picture of a request was let go on purpose."""
    failure = history.failures.get(request_key)
    return failure is not None and failure.kind == EXPIRED


def mark_versions(marks: Marks, catalog: Catalog, versions: Iterable[int]) -> None:
    """Marks the pictures and published files that some versions of a catalog name."""
    for _, rows in catalog.shards(versions, ENTRY_COLUMNS):
        for row in rows.to_pylist():
            marks.keep(row[name] for name in ENTRY_COLUMNS if row[name])
            marks.files.add(row["object_key"])
            for file in json.loads(row["renditions"] or "[]"):
                marks.files.update(filter(None, (file["object_key"], file.get("sidecar"))))


def mark_decisions(store: Store, config_name: str) -> set[str]:
    """Pictures that people approved, adopted or had varied, and images that overrides name; rejected ones are none."""
    found: set[str] = set()
    for decision in read_decisions(store, config_name):
        if decision.blob and decision.kind != "reject":
            found.add(decision.blob)
        found.update(_HASH.findall(json.dumps(dict(decision.override), default=str)))
    return found


def mark_documents(marks: Marks, store: Store, config_name: str, without_runs: Collection[str] = ()) -> None:
    """Marks what runs (but those that are to go) and the table of reference pictures name."""
    prefix = runs_prefix(config_name)
    keys = [
        info.key
        for info in store.list(prefix)
        if info.key.endswith(".json") and info.key.removeprefix(prefix).partition("/")[0] not in without_runs
    ]
    for text in map_ahead(lambda key: _text(store, key), [*keys, references_path(config_name)]):
        marks.keep([text])


def _with_heat(history: AssetHistory, key: str, candidate: CandidateRecord) -> set[bytes]:
    """A candidate's picture and those that its gates speak of."""
    return hashes_in([candidate.blob, *(g.reason for g in history.gates if g.subject == key)])


def _text(store: Store, key: str) -> str:
    try:
        return store.get(key).decode("utf-8", "replace")
    except (MissingObject, CorruptObject):
        return ""


def as_facts(marks: Marks) -> dict[str, Any]:
    """How much is marked, for a log."""
    return {"live": len(marks.live), "losers": len(marks.losers), "spare": len(marks.spare), "files": len(marks.files)}
