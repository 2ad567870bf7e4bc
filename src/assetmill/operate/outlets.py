"""Outlets: what is written from a committed catalog for other systems, its atlases and feeds.

They follow the catalog and can be made from it at any time: where one cannot be written the catalog stands, the report
says why, and the next publishing tries again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assetmill.config import Config
from assetmill.records import InputError
from assetmill.storage.catalog import Catalog
from assetmill.storage.store import Store

if TYPE_CHECKING:
    from assetmill.operate.atlases import AtlasWritten
    from assetmill.operate.feeds import FeedWritten


@dataclass(frozen=True, slots=True)
class Outlets:
    """The atlases and feeds of a catalog version, and why some could not be written."""

    atlases: tuple[AtlasWritten, ...] = ()
    feeds: tuple[FeedWritten, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Everything that is missing from an outlet, with its name."""
        return list(self._problems())

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {
            "atlases": [each.as_dict() for each in self.atlases],
            "feeds": [each.as_dict() for each in self.feeds],
            "outlet_problems": self.problems,
        }

    def _problems(self) -> Iterator[str]:
        yield from self.failed
        for atlas in self.atlases:
            yield from (f"atlas {atlas.channel}: {problem}" for problem in atlas.problems)
        for feed in self.feeds:
            yield from (f"feed {feed.name}: {problem}" for problem in feed.problems)


def write_outlets(store: Store, config: Config, catalog: Catalog, version: int | None = None) -> Outlets:
    """Writes the atlases and feeds of a catalog version, the newest if none is given; what is current stays as it is.

    Raises StoreUnavailable; what is wrong with one outlet is said in the answer and keeps no other back.
    """
    version = version or catalog.latest()
    wanted = config.publish
    if not version or not (wanted.feeds or any(c.atlas is not None for c in wanted.channels.values())):
        return Outlets()
    from assetmill.engines.protocols import EngineError
    from assetmill.operate.atlases import write_atlases
    from assetmill.operate.feeds import write_feeds

    atlases: list[AtlasWritten] = []
    feeds: list[FeedWritten] = []
    failed: list[str] = []
    for channel, settings in wanted.channels.items():
        if settings.atlas is not None:
            try:
                atlases += write_atlases(store, config, catalog, version, [channel])
            except InputError as error:
                failed += [f"atlas {channel}: {problem}" for problem in error.problems]
    for name in wanted.feeds:
        try:
            feeds += write_feeds(store, config, catalog, version, [name])
        except EngineError as error:
            failed.append(f"feed {name}: {error}")
    return Outlets(tuple(atlases), tuple(feeds), tuple(failed))
