"""Bans: what was taken back and may not be made, chosen or published until that is lifted.

A ban and the lifting of bans are records that nothing ever changes, `bans/<config>/<ulid>.json` each. A lift names the
bans it ends, so that the order in which records are read does not matter. A record that cannot be read is an error:
leaving it out would publish what somebody took back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from assetmill.records import InputError, Problem, Request, content_key
from assetmill.storage.layout import bans_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store
from assetmill.storage.ulid import new_ulid

if TYPE_CHECKING:
    import pyarrow as pa

    from assetmill.storage.entries import CatalogEntry

KINDS = ("model", "adapter", "licence", "template", "asset", "reviewer", "blob")
"""By what can be taken back. In values of `model`, `licence` and `template` a `*` stands for any text."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "model": ("engine", "model", "revision", "upscaler"), "adapter": ("request",), "licence": ("licence",),
    "template": ("template",), "asset": ("asset_id",), "reviewer": ("reviewer",), "blob": ("blob", "master", "request"),
}  # fmt: skip
"""Columns of a catalog that bans of a kind look at; `request` holds the hashes of adapters and reference pictures."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Ban:
    """One thing taken back: `value` of a kind (see KINDS), by whom, when (ISO 8601, UTC) and why.

    `blobs` are hashes of pictures it is about. Of a ban of kind `blob` they are the value, and where that is a
    published file or a master, the candidate it was made from; of others the pictures it covers that people had
    approved, which no longer are the choice of their assets. `assets` are the ids of those assets: their choice is
    made again.
    """

    id: str
    kind: str
    value: str
    reason: str = ""
    by: str = ""
    at: str = ""
    blobs: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()

    def __str__(self) -> str:
        why = f", because: {self.reason}" if self.reason else ""
        who = f" by {self.by}" if self.by else ""
        return f"{self.kind} {self.value!r} was recalled{who} on {self.at[:10]}{why} (ban {self.id})"


@dataclass(frozen=True)
class Bans:
    """The bans that hold. False where there are none."""

    bans: tuple[Ban, ...] = ()
    _cache: dict[tuple[str, ...], str] = field(default_factory=dict, compare=False, repr=False)

    def __bool__(self) -> bool:
        return bool(self.bans)

    @cached_property
    def digest(self) -> str:
        """Names the set of bans: what was published under it needs no second look. Empty where there are none."""
        return content_key("bans", {"ids": sorted(b.id for b in self.bans)}) if self.bans else ""

    @cached_property
    def blobs(self) -> frozenset[str]:
        """Hashes of pictures that may not be used."""
        return frozenset(blob for ban in self.bans for blob in ban.blobs)

    @cached_property
    def reviewers(self) -> frozenset[str]:
        """People whose approval does not count."""
        return frozenset(ban.value for ban in self.bans if ban.kind == "reviewer")

    def blobs_of(self, asset_id: str) -> list[str]:
        """Banned pictures of an asset, sorted: part of what decides its choice."""
        return self._blobs_by_asset.get(asset_id, [])

    def reason(
        self,
        *,
        asset_id: str = "",
        template: str = "",
        request: Request | None = None,
        licence: str = "",
        reviewer: str = "",
        blob: str = "",
        upscaler: str = "",
    ) -> str:
        """Why something may not be used, or an empty text. What is not given is not asked about.

        `request` says which model, adapters and reference pictures are used; `blob` may be a candidate or a master.
        """
        if not self.bans:
            return ""
        found = self._any("asset", asset_id) or self._any("template", template) or self._any("licence", licence)
        found = found or self._any("reviewer", reviewer) or self._any("blob", blob) or self._any("model", upscaler)
        if request is None or found:
            return found
        found = self._of_model(request.engine, request.model, request.revision)
        for adapter in request.adapters:
            found = found or self._any("adapter", adapter.sha256) or self._any("blob", adapter.sha256)
        for reference in request.references:
            found = found or self._any("blob", reference.blob)
        return found

    def reason_of(self, entry: CatalogEntry) -> str:
        """Why an entry may not be published, or an empty text."""
        if not self.bans:
            return ""
        row = {name: [getattr(entry, name)] for name in self.row_columns if name != "request"}
        return self._of_rows({**row, "request": [json.dumps(entry.request, default=str)]}, 1)[0]

    def reasons(self, table: pa.Table) -> list[str]:
        """The reason for every row of a catalog's table that holds `row_columns`, or an empty text."""
        return self._of_rows({n: table[n].to_pylist() for n in self.row_columns}, table.num_rows)

    @property
    def row_columns(self) -> list[str]:
        """The columns that `reasons` needs for these bans."""
        return list(dict.fromkeys(name for kind in KINDS if kind in self._kinds for name in _COLUMNS[kind]))

    # --- inside -----------------------------------------------------------------------------------------------

    @cached_property
    def _kinds(self) -> frozenset[str]:
        return frozenset(ban.kind for ban in self.bans)

    @cached_property
    def _exact(self) -> dict[tuple[str, str], Ban]:
        found: dict[tuple[str, str], Ban] = {}
        for ban in reversed(self.bans):
            for value in ban.blobs if ban.kind == "blob" else (ban.value,):
                found[ban.kind, value] = ban
        return found

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str], Ban]]:
        kinds = ("model", "licence", "template")
        return [(b.kind, wildcard(b.value), b) for b in self.bans if b.kind in kinds]

    @cached_property
    def _in_requests(self) -> dict[str, Ban]:
        """Hashes to look for in the JSON of a request: adapters, and pictures that may be its references."""
        return {value: ban for (kind, value), ban in self._exact.items() if kind in ("adapter", "blob")}

    @cached_property
    def _blobs_by_asset(self) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for ban in self.bans:
            for asset_id in ban.assets:
                found.setdefault(asset_id, set()).update(ban.blobs)
        return {asset_id: sorted(blobs) for asset_id, blobs in found.items()}

    def _any(self, kind: str, *values: str) -> str:
        """The reason for the first of some values that a ban of this kind covers."""
        if not any(values):
            return ""
        if kind not in ("model", "licence", "template"):
            ban = next((self._exact[kind, v] for v in values if (kind, v) in self._exact), None)
            return str(ban) if ban else ""
        # Few distinct models, licences and templates, asked about once for every asset.
        known = self._cache.get((kind, *values))
        if known is None:
            of_kind = (ban for of, pattern, ban in self._patterns if of == kind and any(map(pattern.fullmatch, values)))
            ban = next(of_kind, None)
            known = self._cache[kind, *values] = str(ban) if ban else ""
        return known

    def _of_model(self, engine: str, model: str, revision: str) -> str:
        return self._any("model", model, f"{engine}/{model}", revision, f"{model}@{revision}")

    def _of_rows(self, columns: Mapping[str, Sequence[str | None]], num_rows: int) -> list[str]:
        """The reasons for rows, given the values of each column. Asks only about kinds that there are bans of."""
        found = [""] * num_rows

        def ask(names: Sequence[str], question: Callable[..., str]) -> None:
            for n, values in enumerate(zip(*(columns[name] for name in names), strict=True)):
                if not found[n]:
                    found[n] = question(*(value or "" for value in values))

        if "model" in self._kinds:
            ask(("engine", "model", "revision"), self._of_model)
            ask(("upscaler",), partial(self._any, "model"))
        for kind in self._kinds - {"model", "adapter", "blob"}:
            ask(_COLUMNS[kind], partial(self._any, kind))
        if "blob" in self._kinds:
            ask(("blob", "master"), partial(self._any, "blob"))
        if hashes := self._in_requests:
            ask(("request",), lambda text: next((str(ban) for sha256, ban in hashes.items() if sha256 in text), ""))
        return found


def wildcard(value: str) -> re.Pattern[str]:
    """A pattern that matches a text whole, whatever its case; `*` stands for any text and nothing else is special."""
    return re.compile(".*".join(map(re.escape, value.split("*"))), re.IGNORECASE | re.DOTALL)


def open_bans(store: Store, config_name: str) -> Bans:
    """The bans of a config that hold now, oldest first. Raises CorruptObject when a record cannot be read."""
    return Bans(tuple(ban for ban, lift in read_bans(store, config_name) if lift is None))


def read_bans(store: Store, config_name: str) -> list[tuple[Ban, Mapping[str, Any] | None]]:
    """Every ban there ever was, oldest first, with the record that lifted it or None. Raises CorruptObject."""
    keys = [info.key for info in store.list(bans_prefix(config_name)) if info.key.endswith(".json")]
    bans: list[Ban] = []
    lifts: dict[str, Mapping[str, Any]] = {}
    for record in map_ahead(lambda key: _read(store, key), keys):
        if isinstance(record, Ban):
            bans.append(record)
        else:
            lifts |= {ban_id: lifts.get(ban_id, record) for ban_id in record["lifts"]}
    return [(ban, lifts.get(ban.id)) for ban in bans]


def ban(
    store: Store,
    config_name: str,
    kind: str,
    value: str,
    *,
    reason: str = "",
    by: str = "",
    blobs: Collection[str] = (),
    assets: Collection[str] = (),
) -> Ban:
    """Writes a ban and returns it; one that holds already, of the same value, is returned as it is. Raises InputError.

    `blobs` and `assets` are those of Ban. It holds from now on, for everything that reads bans from now on.
    """
    if kind not in KINDS:
        raise InputError(Problem(f"nothing can be recalled by {kind!r}", f"use one of {', '.join(KINDS)}"))
    if not value.strip() or (kind in ("model", "licence", "template") and not value.strip("* ")):
        raise InputError(
            Problem(f"a recall by {kind} needs a value", "name what is to be taken back, not all", value=value)
        )
    if kind == "blob" and not _SHA256.fullmatch(value):
        raise InputError(Problem("a picture is named by 64 hex digits", "give the SHA-256 of its bytes", value=value))
    hashes = tuple(sorted({value, *blobs} if kind == "blob" else {*blobs}))
    for old in open_bans(store, config_name).bans:
        if (old.kind, old.value) == (kind, value) and {*hashes} <= {*old.blobs} and {*assets} <= {*old.assets}:
            return old
    new = Ban(new_ulid(), kind, value, reason, by, _now(), hashes, tuple(sorted(assets)))
    _write(store, config_name, new.id, {"record": "ban", **asdict(new)})
    return new


def lift(store: Store, config_name: str, ids: Sequence[str], *, reason: str = "", by: str = "") -> list[Ban]:
    """Lifts bans by their ids (or beginnings of them) and returns them. Raises InputError for one that doesn't hold."""
    held = open_bans(store, config_name).bans
    chosen: dict[str, Ban] = {}
    for text in ids:
        found = [b for b in held if b.id.startswith(text.upper())] if text else []
        if len(found) != 1:
            what = "no ban" if not found else f"{len(found)} bans"
            way_out = "see `assetmill catalog bans CONFIG`"
            raise InputError(Problem(f"{what} that holds now has an id that begins with {text!r}", way_out))
        chosen[found[0].id] = found[0]
    if chosen:
        record = {"record": "lift", "id": new_ulid(), "lifts": sorted(chosen), "reason": reason, "by": by, "at": _now()}
        _write(store, config_name, str(record["id"]), record)
    return list(chosen.values())


def _write(store: Store, config_name: str, ulid: str, record: Mapping[str, Any]) -> None:
    data = (json.dumps({"schema": 1, **record}, ensure_ascii=False, indent=1) + "\n").encode()
    store.put_if_absent(f"{bans_prefix(config_name)}{ulid}.json", data, media_type="application/json")


def _read(store: Store, key: str) -> Ban | Mapping[str, Any]:
    try:
        record = json.loads(store.get(key))
        if record["schema"] != 1:
            raise ValueError(f"schema {record['schema']} is newer than this version's 1: update assetmill")
        if record["record"] == "lift":
            return {**record, "lifts": [str(ban_id) for ban_id in record["lifts"]]}
        if record["record"] != "ban" or record["kind"] not in KINDS:
            raise ValueError("it is neither a ban nor a lift")
        values = {f.name: record[f.name] for f in fields(Ban) if f.name in record}
        return Ban(**{**values, "blobs": tuple(values["blobs"]), "assets": tuple(values["assets"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # MissingObject is a KeyError
        what = "it is gone" if isinstance(error, MissingObject) else repr(error)
        raise CorruptObject(
            key, f"whether something was recalled cannot be read ({what}); recall it again, then delete this record"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
