"""Taking back: a ban first, then a catalog version without what it covers, then the list of what to take down.

Whatever dies after the ban leaves it: the next run makes nothing that falls under it, and takes out what is still in
the catalog. Doing it again changes nothing and gives the list again. No run has to be waited for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from assetmill.deliver.fill import public_url
from assetmill.operate.lock import AlreadyRunning, hold_lock
from assetmill.operate.query import Found, Question, bans_for, query
from assetmill.operate.showing import outlets_showing
from assetmill.records import InputError, Problem, blob_key
from assetmill.storage.bans import Ban, ban
from assetmill.storage.catalog import Catalog, open_catalog
from assetmill.storage.decisions import read_decisions
from assetmill.storage.index import open_index
from assetmill.storage.store import Store

VERSIONS_LOCK = "versions"
"""Held by whoever makes a catalog version outside a run, and by whoever lets old ones expire."""

PATIENCE = 60.0
"""Seconds that a recall or rollback waits for another one, or for `gc`, to end."""

_HEX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Takedown:
    """One object that shows what was recalled: a published `file`, or an `outlet` (part of an atlas, a feed).

    `versions` are the first and last that name a file; an outlet has none, and belongs to no one asset. `live`: shops
    may show it now, since the version before the recall had it, or it is (or was a moment ago) the newest outlet.
    """

    key: str
    url: str
    kind: str
    asset_id: str
    rank: int
    versions: tuple[int, int]
    live: bool


@dataclass(frozen=True, slots=True)
class Recall:
    """What a recall did. `ban` is None in a dry run; `version` is the newest version after it.

    `assets` are the ids that lost something, `variants` how many were live.
    """

    ban: Ban | None
    version: int
    assets: tuple[str, ...]
    variants: int
    takedown: tuple[Takedown, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def recall(
    store: Store,
    config_name: str,
    kind: str,
    value: str,
    *,
    reason: str = "",
    by: str = "",
    dry_run: bool = False,
    base_url: str = "",
) -> Recall:
    """Takes everything back that has `value` for `kind` (see `storage.bans.KINDS`).

    An adapter may be given as its file, or by the beginning of its hash (8 digits) where that is published; a picture
    by the hash of a candidate, master, cut-out, published file or reference image, or its beginning. Raises InputError,
    and AlreadyRunning when another recall does not end.
    """
    catalog = open_catalog(store, config_name)
    if kind in ("adapter", "blob"):
        value = resolve_hash(catalog, kind, value)
    if kind == "template" and value.endswith(".j2"):
        value = Path(value).stem  # records name templates without folder and ending
    pictures = _pictures_of if kind == "blob" else partial(_approved_under, kind)
    blobs, assets = pictures(store, config_name, value)
    asked = Question({kind: blobs if kind == "blob" else (value,)})
    newest = catalog.latest()
    if dry_run:
        found = query(catalog, asked, all_versions=True)
        return Recall(None, newest, *_summary(store, config_name, found, newest, base_url))
    # The ban needs no lock: it holds from here on, whatever becomes of the rest.
    taken = ban(store, config_name, kind, value, reason=reason, by=by, blobs=blobs, assets=assets)
    with hold_versions(store, config_name, "recall"):
        version = catalog.withdraw(note=f"recalled {kind} {value}" + (f": {reason}" if reason else ""))
    # Looked for only now: somebody may have published a moment before the new version.
    found = query(catalog, asked, all_versions=True)
    before = version - 1 if version > newest else version
    return Recall(taken, version, *_summary(store, config_name, found, before, base_url))


def roll_back(store: Store, config_name: str, to: int, *, reason: str = "", by: str = "") -> int:
    """Publishes an older version again and holds the catalog there; gives the new version's number."""
    with hold_versions(store, config_name, "rollback"):
        return open_catalog(store, config_name).rollback(to, reason=reason, by=by)


@contextmanager
def hold_versions(store: Store, config_name: str, command: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Keeps catalog versions from expiring meanwhile; waits for whoever holds them. Raises AlreadyRunning."""
    start = time.monotonic()
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(hold_lock(store, config_name, owner={"command": command}, purpose=VERSIONS_LOCK))
                break
            except AlreadyRunning:
                if time.monotonic() - start > patience:
                    raise
                time.sleep(0.5)
        yield


def resolve_hash(catalog: Catalog, kind: str, value: str) -> str:
    """The SHA-256 that a person means by a file, a whole hash or its beginning. Raises InputError."""
    if re.fullmatch(r"[0-9a-f]{64}", value):
        return value
    if not _HEX.fullmatch(value):
        path = Path(value).expanduser()
        if path.is_file():
            return blob_key(path.read_bytes())
        what = "adapter" if kind == "adapter" else "picture"
        raise InputError(
            Problem(f"no {what} is named so", "give its file, its SHA-256, or the first 8 digits of it", value=value)
        )
    names = ["request"] if kind == "adapter" else ["blob", "master", "cutout", "request", "renditions"]
    known: set[str] = set()
    pattern = re.compile(rf"(?<![0-9a-f]){value}[0-9a-f]{{{64 - len(value)}}}(?![0-9a-f])")
    for _, rows in catalog.shards([v.version for v in catalog.versions() if not v.problem], names):
        for name in names:
            known.update(hit for text in rows[name].to_pylist() if text for hit in pattern.findall(text))
    if len(known) != 1:
        found = f"{len(known)} hashes that were published begin" if known else "no hash that was published begins"
        raise InputError(Problem(f"{found} with {value}", "give all 64 digits"))
    return known.pop()


def _pictures_of(store: Store, config_name: str, sha256: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The candidates (and their assets) that a picture is or was made from; itself, where it is none of ours."""
    blobs = {sha256}
    assets: set[str] = set()
    published = query_files(open_catalog(store, config_name), sha256)
    blobs |= {blob for _, blob in published}
    assets |= {asset_id for asset_id, _ in published}
    for asset_id, history in open_index(store, config_name).mentioning(sorted(blobs)).items():
        own = {c.blob for c in history.candidates.values() if c.blob in blobs}
        own |= {v.blob for v in history.variants.values() if {v.blob, v.master} & blobs}
        if own:
            blobs |= own
            assets.add(asset_id)
    return tuple(sorted(blobs)), tuple(sorted(assets))


def _approved_under(kind: str, store: Store, config_name: str, value: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pictures that people approved and a ban would cover, and their assets.

    An approved picture stays when prompt and model of its row change: what it was made with says its own request.
    """
    states = read_decisions(store, config_name).states()
    approved = {asset_id: review.approved for asset_id, review in states.items() if review.approved}
    if not approved:
        return (), ()
    bans = bans_for(kind, [value])
    licences = _licences(open_catalog(store, config_name)) if kind == "licence" else {}
    found: dict[str, set[str]] = {}
    for asset_id, history in open_index(store, config_name).history(sorted(approved)).items():
        for made in history.candidates.values():
            asked = history.requests.get(made.request_key)
            if made.blob not in approved[asset_id] or asked is None:
                continue
            licence = licences.get(asked.request.revision, "")
            if bans.reason(asset_id=asset_id, template=asked.template, request=asked.request, licence=licence):
                found.setdefault(asset_id, set()).add(made.blob)
    return tuple(sorted({b for blobs in found.values() for b in blobs})), tuple(sorted(found))


def _licences(catalog: Catalog) -> dict[str, str]:
    """Licences of models by revision, as the catalog has them."""
    rows = catalog.entries(columns=["revision", "licence"])
    return dict(zip(rows["revision"].to_pylist(), rows["licence"].to_pylist(), strict=True))


def query_files(catalog: Catalog, sha256: str) -> set[tuple[str, str]]:
    """Asset ids and candidates of entries, of any version, one of whose pictures or files has this hash."""
    found: set[tuple[str, str]] = set()
    names = ["asset_id", "blob", "master", "cutout", "renditions"]
    for _, rows in catalog.shards([v.version for v in catalog.versions() if not v.problem], names):
        for asset_id, *texts in zip(*(rows[n].to_pylist() for n in names), strict=True):
            if any(sha256 in (text or "") for text in texts):
                found.add((asset_id, texts[0]))
    return found


def _summary(
    store: Store, config_name: str, found: Sequence[Found], before: int, base_url: str
) -> tuple[tuple[str, ...], int, tuple[Takedown, ...]]:
    """Assets and variants that were live in the version `before`, and all that shows what was found."""
    files: dict[str, Takedown] = {}
    for one in found:
        for key in one.files:
            old = files.get(key)
            versions = one.versions
            if old is not None:
                versions = (min(old.versions[0], versions[0]), max(old.versions[1], versions[1]))
            live = one.versions[1] >= before or (old is not None and old.live)
            files[key] = Takedown(key, public_url(base_url, key), "file", one.asset_id, one.rank, versions, live)
    hashes = {sha256 for one in found for sha256 in one.hashes}
    for outlet in outlets_showing(store, config_name, files.keys(), hashes):
        files[outlet.key] = Takedown(outlet.key, public_url(base_url, outlet.key), "outlet", "", 0, (0, 0), outlet.live)
    live_ones = [f for f in found if f.versions[1] >= before]
    assets = tuple(sorted({f.asset_id for f in live_ones}))
    return assets, len(live_ones), tuple(sorted(files.values(), key=lambda t: (not t.live, t.kind, t.key)))
