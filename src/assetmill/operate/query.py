"""Finding what is published, or ever was, by what it was made with.

Only the columns that a question is about are read, so that 50,000 variants are searched in about a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from assetmill.deliver.fill import public_url
from assetmill.records import InputError, Problem
from assetmill.storage.bans import KINDS, Ban, Bans, wildcard
from assetmill.storage.catalog import Catalog

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = ("asset_id", "rank", "template", "model", "revision", "licence", "reviewer", "score", "object_key",
          "renditions", "master")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A variant that was asked for, and its files. `versions` are the first and last catalog version that show it.

    `live` says whether the newest version does. `urls` stand beside `files`, empty without a public address; `hashes`
    are the SHA-256 of its master and of its pictures' files.
    """

    asset_id: str
    rank: int
    template: str
    model: str
    revision: str
    licence: str
    reviewer: str
    score: float | None
    versions: tuple[int, int]
    live: bool
    files: tuple[str, ...]
    urls: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Question:
    """What to look for: values by kind (`storage.bans.KINDS`) and by column of the sheet that may leave.

    An entry is found when it has one of the values of every kind and column asked for. `*` stands for any text in
    models, licences, templates and columns.
    """

    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


def query(catalog: Catalog, question: Question, *, all_versions: bool = False, base_url: str = "") -> list[Found]:
    """The variants of the newest version, or of every version there is, that answer a question, by asset and rank.

    Raises InputError for a kind that nothing can be found by, or a column that never left.
    """
    unknown = sorted(set(question.kinds) - set(KINDS))
    if unknown:
        raise InputError(Problem(f"nothing is found by {unknown[0]!r}", f"use one of {', '.join(KINDS)}"))
    asked = [bans_for(kind, values) for kind, values in question.kinds.items() if values]
    columns = {name: [wildcard(v) for v in values] for name, values in question.columns.items() if values}
    newest = catalog.latest()
    versions = [v.version for v in catalog.versions() if not v.problem] if all_versions else [newest]
    found: dict[tuple[str, int, tuple[str, ...]], Found] = {}
    seen_columns: set[str] = set()
    for shown_in, rows in _tables(catalog, versions, asked, bool(columns)):
        wanted = [True] * rows.num_rows
        for bans in asked:
            wanted = [w and bool(r) for w, r in zip(wanted, bans.reasons(rows), strict=True)]
        if columns:
            texts = [json.loads(text or "{}") for text in rows["columns"].to_pylist()]
            seen_columns.update(*texts)
            wanted = [w and _has(text, columns) for w, text in zip(wanted, texts, strict=True)]
        for row in rows.select(list(_SHOWN)).filter(wanted).to_pylist():
            one = _found(row, shown_in, newest, base_url)
            key = (one.asset_id, one.rank, one.files)
            found[key] = _joined(found[key], one) if key in found else one
    missing = sorted(set(columns) - seen_columns)
    if missing and seen_columns:
        way_out = f"columns that may leave are {', '.join(sorted(seen_columns))}: see publish.columns"
        raise InputError(Problem(f"no entry has a column {missing[0]!r}", way_out, column=missing[0]))
    return sorted(found.values(), key=lambda f: (f.asset_id, f.rank, f.versions))


def bans_for(kind: str, values: Sequence[str]) -> Bans:
    """What bans on these values would cover, without a ban."""
    return Bans(tuple(Ban(v, kind, v, blobs=(v,) if kind == "blob" else ()) for v in values))


def _tables(
    catalog: Catalog, versions: Sequence[int], asked: Sequence[Bans], columns: bool
) -> Iterator[tuple[tuple[int, ...], pa.Table]]:
    """Every shard of some versions once, with the versions that hold it."""
    names = dict.fromkeys([*_SHOWN, *(n for bans in asked for n in bans.row_columns)])
    return catalog.shards(versions, [*names, *(["columns"] if columns else [])])


def _has(text: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> bool:
    return all(
        any(pattern.fullmatch(str(text.get(name) or "")) for pattern in patterns) for name, patterns in columns.items()
    )


def _found(row: Mapping[str, Any], versions: Sequence[int], newest: int, base_url: str) -> Found:
    renditions = json.loads(row["renditions"] or "[]")
    files = files_of(row["object_key"] or "", renditions)
    plain = ("asset_id", "template", "model", "revision", "licence", "reviewer")
    return Found(
        **{name: row[name] or "" for name in plain}, rank=row["rank"], score=row["score"],
        versions=(min(versions), max(versions)), live=newest in versions, files=files,
        urls=tuple(public_url(base_url, key) for key in files if base_url),
        hashes=tuple(filter(None, [row["master"], *(r.get("sha256") for r in renditions)])),
    )  # fmt: skip


def files_of(object_key: str, renditions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys of a variant's published files and sidecars, each once."""
    keys = [object_key, *(r[name] for r in renditions for name in ("object_key", "sidecar") if r.get(name))]
    return tuple(dict.fromkeys(filter(None, keys)))


def _joined(one: Found, other: Found) -> Found:
    values = asdict(one)
    values["versions"] = (min(one.versions[0], other.versions[0]), max(one.versions[1], other.versions[1]))
    return Found(**{**values, "live": one.live or other.live})
