"""Feeds in the store: written from a committed catalog version, so that no reader ever sees half of one.

    feeds/<config>/<name>/<name>-<hash8>.<ext>   a feed, named by its bytes
    feeds/<config>/<name>/<name>.<ext>           the newest, at the address that a shop fetches
    feeds/<config>/<name>/latest.json            which it is, of which version, with how many rows

All three appear whole or not at all, in this order. A feed that is current is left alone; one that is missing is
written again by the next publishing, or by `assetmill catalog feed`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from assetmill.config import Config
from assetmill.deliver.feeds.items import Feed, Written, in_order
from assetmill.deliver.fill import public_url
from assetmill.records import InputError, Problem, blob_key, content_key
from assetmill.storage.catalog import Catalog
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.layout import feed_path
from assetmill.storage.store import CorruptObject, MissingObject, Store

if TYPE_CHECKING:
    import numpy as np

EPOCH = 1
"""Raised by hand when feeds should be written again although neither catalog nor settings changed."""

FRESH = "no-cache"
"""Cache-Control of what is replaced: readers ask whether it changed."""


@dataclass(frozen=True, slots=True)
class FeedWritten:
    """One feed: where it lies, its address for readers (`url`, empty without `publish.base_url`), what it left out."""

    name: str
    format: str
    version: int
    key: str
    address: str
    url: str
    num_rows: int
    num_left_out: int
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_feeds(
    store: Store, config: Config, catalog: Catalog, version: int | None = None, names: Sequence[str] = ()
) -> list[FeedWritten]:
    """Writes the feeds of a config, or those named, of a catalog version; those that are current are left alone.

    Raises InputError for an unknown name, StoreUnavailable, and EngineError where embeddings need a judge that cannot
    be loaded.
    """
    version = version or catalog.latest()
    return [_write(store, config, catalog, version, name) for name in names or config.publish.feeds]


def write_feed_file(
    store: Store, config: Config, catalog: Catalog, name: str, file: Path, version: int | None = None
) -> Written:
    """Writes one feed into a file, which appears whole or not at all."""
    feed = feed_of(config, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part:
        path = Path(part.name)
        try:
            written = _fill(store, config, feed, catalog.iter_entries(version), part)
            part.flush()
            path.replace(file)
        finally:
            path.unlink(missing_ok=True)
    return written


def feed_of(config: Config, name: str) -> Feed:
    """A feed by its name, with what it needs of the config. InputError when there is none."""
    publish = config.publish
    if name not in publish.feeds:
        known = ", ".join(publish.feeds) or "none"
        raise InputError(Problem(f"there is no feed {name!r}", f"publish.feeds has {known}", column="publish.feeds"))
    return Feed(
        name, publish.feeds[name], config.name, publish.base_url or "", tuple(publish.columns), tuple(publish.alt)
    )


# --- inside -------------------------------------------------------------------------------------------------


def _write(store: Store, config: Config, catalog: Catalog, version: int, name: str) -> FeedWritten:
    from assetmill.deliver.feeds.formats import FORMATS

    feed = feed_of(config, name)
    form = FORMATS[feed.spec.format]
    key = content_key(
        "feed",
        {
            "epoch": EPOCH, "version": version, "spec": feed.spec.model_dump(mode="json"), "title": feed.title,
            "base_url": feed.base_url, "columns": list(feed.columns), "locales": list(feed.locales),
            "judge": config.judge.model_dump(mode="json") if form.write is None else None,
        },
    )  # fmt: skip
    hint = feed_path(config.name, name, "latest.json")
    address = feed_path(config.name, name, f"{name}.{form.extension}")
    former = _read_hint(store, hint)
    if former.get("of") == key and all(store.stat(k) is not None for k in (former["key"], address)):
        return _written(config, former, name)
    with tempfile.TemporaryFile() as part:
        written = _fill(store, config, feed, catalog.iter_entries(version), part)
        part.seek(0)
        data = part.read()
    facts: dict[str, Any] = {
        "schema": 1, "config": config.name, "feed": name, "format": feed.spec.format, "version": version, "of": key,
        "key": feed_path(config.name, name, f"{name}-{blob_key(data)[:8]}.{form.extension}"), "address": address,
        "sha256": blob_key(data), "size": len(data), "rows": written.num_rows, "left_out": written.num_left_out,
        "problems": [str(p) for p in written.problems],
    }  # fmt: skip
    store.put_if_absent(facts["key"], data, media_type=form.media_type, cache_control=config.publish.cache_control)
    if _read_hint(store, hint).get("version", 0) <= version:  # else another publisher was faster with a newer one
        store.replace(address, data, media_type=form.media_type, cache_control=FRESH)
        store.replace(
            hint, json.dumps(facts, ensure_ascii=False, indent=1).encode("utf-8", "replace"),
            media_type="application/json", cache_control=FRESH,
        )  # fmt: skip
    return _written(config, facts, name)


def _fill(store: Store, config: Config, feed: Feed, entries: Iterable[CatalogEntry], out: IO[bytes]) -> Written:
    from assetmill.deliver.feeds.formats import FORMATS

    write = FORMATS[feed.spec.format].write
    return _embed(store, config, in_order(entries), out) if write is None else write(in_order(entries), feed, out)


def _embed(store: Store, config: Config, entries: Iterable[CatalogEntry], out: IO[bytes]) -> Written:
    """The embeddings of masters: those the store keeps, and by the judge those it does not."""
    from assetmill.deliver.feeds.embeddings import write_embeddings
    from assetmill.operate.match import Embeddings, load_embedder, read_master

    _, judge = load_embedder(config)
    memory = Embeddings(store, judge)

    def vectors(batch: Sequence[CatalogEntry]) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
        return memory.of_pictures({e.master: lambda e=e: read_master(store, e) for e in batch})  # type: ignore[misc]

    return write_embeddings(entries, vectors, judge.key, out)


def _read_hint(store: Store, key: str) -> dict[str, Any]:
    """What `latest.json` says; nothing where it is missing or damaged: then the feed is written again."""
    try:
        facts = json.loads(store.get(key))
        return facts if isinstance(facts, dict) and facts.get("schema") == 1 else {}
    except (MissingObject, CorruptObject, ValueError):
        return {}


def _written(config: Config, facts: Mapping[str, Any], name: str) -> FeedWritten:
    return FeedWritten(
        name, facts["format"], facts["version"], facts["key"], facts["address"],
        public_url(config.publish.base_url or "", facts["address"]), facts["rows"], facts["left_out"],
        tuple(facts["problems"]),
    )  # fmt: skip
