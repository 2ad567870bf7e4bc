"""What feeds have in common: which file of an entry they name, in which order, and what they leave out and why."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assetmill.deliver.export import escape_formula
from assetmill.deliver.fill import fill, public_url, values_of
from assetmill.records import Problem
from assetmill.storage.entries import CatalogEntry, Rendition, entry_from_json

if TYPE_CHECKING:
    from assetmill.config import FeedConfig


@dataclass(frozen=True, slots=True)
class Feed:
    """One feed of a config. `title` names it to people; `columns` and `locales` are those that may leave."""

    name: str
    spec: FeedConfig
    title: str = ""
    base_url: str = ""
    columns: tuple[str, ...] = ()
    locales: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What a feed came to: its rows, the assets left out of it, and why."""

    num_rows: int
    num_left_out: int = 0
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One file as a feed names it. `values` are what patterns may say of it."""

    entry: CatalogEntry
    file: Rendition
    url: str
    alt: str
    values: Mapping[str, Any]

    def field(self, pattern: str) -> str:
        return fill(pattern, self.values)


@dataclass(slots=True)
class Omissions:
    """Collects what is wrong with pictures, which are then not named, and with assets, which are left out whole."""

    problems: list[Problem] = field(default_factory=list)
    num_assets: int = 0

    def note(self, asset_id: str, problems: Iterable[Problem]) -> None:
        """Takes in what is wrong with some pictures of an asset, which is named in every message."""
        self.problems += [
            Problem(f"asset {asset_id!r}: {p.message}", p.way_out, column=p.column, value=p.value) for p in problems
        ]

    def leave_out(self, asset_id: str, problems: Iterable[Problem] = ()) -> None:
        """Counts an asset that the feed has not, and takes in why."""
        self.note(asset_id, problems)
        self.num_assets += 1

    def written(self, num_rows: int) -> Written:
        return Written(num_rows, self.num_assets, tuple(self.problems))


@dataclass(frozen=True, slots=True)
class PictureRules:
    """What a shop takes as a picture. Edges in pixels, `largest` in bytes."""

    shop: str
    media_types: tuple[str, ...]
    shortest_edge: int
    num_pixels: int
    largest: int

    def problem(self, file: Rendition) -> Problem | None:
        """Why the shop would refuse a file, or None."""
        if file.media_type not in self.media_types:
            kinds = ", ".join(t.removeprefix("image/") for t in self.media_types)
            return Problem(f"{self.shop} takes no {file.media_type}", f"choose a rendition in {kinds}")
        if min(file.width, file.height) < self.shortest_edge:
            return Problem(
                f"{self.shop} takes no picture of {file.width} × {file.height} pixels",
                f"choose a rendition of at least {self.shortest_edge} an edge",
            )
        if file.width * file.height > self.num_pixels or file.size > self.largest:
            return Problem(
                f"{self.shop} takes no picture of {file.width} × {file.height} pixels and {file.size:,} bytes",
                f"choose a rendition of at most {self.num_pixels:,} pixels and {self.largest:,} bytes",
            )
        return None


def items_of(entry: CatalogEntry, feed: Feed) -> list[Item]:
    """The files of an entry that a feed asks for, in the order of their channels."""
    spec = feed.spec
    files = [
        file for file in entry.files if spec.channel in (None, file.channel) and spec.rendition in (None, file.name)
    ]
    alt = entry.alt.get(spec.locale, "")
    plain = values_of(entry)
    items = []
    for file in files:
        url = public_url(feed.base_url, file.object_key)
        own = {
            "alt": alt, "image": url, "licence": entry.licence, "model": entry.model,
            "digital_source": entry.digital_source, "width": file.width, "height": file.height,
        }  # fmt: skip
        items.append(Item(entry, file, url, alt, {**own, **plain}))
    return items


def item_of(entry: CatalogEntry, feed: Feed) -> Item | Problem:
    """The one file that a shop shows of an entry: the first a feed asks for; why there is none."""
    items = items_of(entry, feed)
    if items:
        return items[0]
    wanted = "/".join(part for part in (feed.spec.channel, feed.spec.rendition) if part)
    return Problem(
        f"picture {entry.rank} has no file {wanted}".rstrip(),
        "see which renditions were refused in the run's report, or name another channel or rendition",
    )


def in_order(
    entries: Iterable[CatalogEntry], key: Callable[[CatalogEntry], str] = lambda entry: ""
) -> Iterator[CatalogEntry]:
    """Entries by `key`, id and rank, however many: they wait in a temporary database, not in memory."""
    base = sqlite3.connect("")  # a file of its own that SQLite deletes; small ones stay in memory
    try:
        base.execute("CREATE TABLE entries (key TEXT, id TEXT, rank INTEGER, line TEXT)")
        base.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            ((key(e), e.asset_id, e.rank, json.dumps(e.as_json())) for e in entries),
        )
        for (line,) in base.execute("SELECT line FROM entries ORDER BY key, id, rank"):
            yield entry_from_json(json.loads(line))
    finally:
        base.close()


def formula_problem(name: str, text: str) -> Problem | None:
    """A shop's file cannot escape what a spreadsheet would run: the apostrophe would stand in the shop."""
    if escape_formula(text) == text:
        return None
    return Problem(
        "spreadsheets would run this as a formula", "change the text in the sheet, or the pattern", column=name,
        value=text,
    )  # fmt: skip
