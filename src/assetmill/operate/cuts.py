"""Cutting candidates mid-way: successive halving among the candidates of an asset (Jamieson & Talwalkar, 2016).

At declared shares of the steps a candidate's predicted picture is scored; of those that began together the worst are
dropped, with a record, and the others go on in full batches with survivors of other assets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from assetmill.config import CutConfig
from assetmill.engines.protocols import Paused
from assetmill.operate.choosing import Item
from assetmill.operate.chunks import OpenChunk
from assetmill.records import CutRecord


@dataclass(slots=True)
class Race:
    """Candidates of a group that began together. `running` counts those on their way to the next cut.

    `least` is how many must reach the end whatever the schedule says.
    """

    owner: OpenChunk
    num_started: int
    least: int
    running: int = 0
    arrived: list[tuple[Item, Paused, float | None]] = field(default_factory=list)


@dataclass(slots=True)
class Cuts:
    """The candidates between two stretches of their sampling. `waiting[i]` are those that passed cut i."""

    config: CutConfig
    waiting: list[deque[tuple[OpenChunk, Item, Paused]]] = field(default_factory=list)
    races: dict[int, Race] = field(default_factory=dict)
    """By the identity of each candidate on its way."""

    def __post_init__(self) -> None:
        self.waiting = [deque() for _ in self.config.at]

    def pause_at(self, level: int) -> float | None:
        """Where a stretch that begins after `level` cuts ends: the next cut, or None for the end of sampling."""
        return self.config.at[level] if level < len(self.config.at) else None

    def begin(self, owner: OpenChunk, items: Sequence[Item], least: int) -> None:
        """Lets the candidates of a group race one another."""
        race = Race(owner, len(items), min(least, len(items)), len(items))
        self.races.update((id(item), race) for item in items)

    def arrive(self, item: Item, level: int, paused: Paused, score: float | None) -> list[Item]:
        """Notes a candidate at cut `level`. When its race is complete, gives those that are dropped there."""
        race = self.races[id(item)]
        race.arrived.append((item, paused, score))
        return self._decide(race, level)

    def lose(self, item: Item, level: int) -> list[Item]:
        """Notes a candidate that failed, or was finished, on its way to cut `level`; as `arrive`."""
        race = self.races.pop(id(item), None)
        if race is None:
            return []
        race.running -= 1
        return self._decide(race, level) if level < len(self.waiting) else []

    def _decide(self, race: Race, level: int) -> list[Item]:
        if not race.arrived or len(race.arrived) < race.running:
            return []
        ranked = sorted(race.arrived, key=lambda found: (-math.inf if found[2] is None else found[2], found[0].key))
        ranked.reverse()
        num_kept = max(math.ceil(self.config.keep[level] * race.num_started - 1e-9), race.least)
        kept, dropped = ranked[:num_kept], ranked[num_kept:]
        self.waiting[level].extend((race.owner, item, paused) for item, paused, _ in kept)
        for item, paused, score in dropped:
            item.cut = CutRecord(item.key, paused.step, paused.steps, score)
            del self.races[id(item)]
        race.running, race.arrived = len(kept), []
        return [item for item, _, _ in dropped]

    def take(self, size: int, *, partial: bool) -> tuple[int, list[tuple[OpenChunk, Item, Paused]]] | None:
        """A batch of survivors and after how many cuts they stand: full ones first, those nearest their end first.

        With `partial` the least advanced are taken where there is no full batch: what they leave may fill a later one.
        """
        for level in reversed(range(len(self.waiting))):
            for bucket in _buckets(self.waiting[level]):
                if len(bucket) >= size:
                    return level + 1, self._remove(level, bucket[:size])
        if partial:
            for level, queue in enumerate(self.waiting):
                for bucket in _buckets(queue):
                    return level + 1, self._remove(level, bucket[:size])
        return None

    def _remove(self, level: int, taken: list[tuple[OpenChunk, Item, Paused]]) -> list[tuple[OpenChunk, Item, Paused]]:
        gone = {id(item) for _, item, _ in taken}
        self.waiting[level] = deque(found for found in self.waiting[level] if id(found[1]) not in gone)
        return taken


def _buckets(
    queue: Sequence[tuple[OpenChunk, Item, Paused]] | deque[tuple[OpenChunk, Item, Paused]],
) -> Iterator[list[tuple[OpenChunk, Item, Paused]]]:
    """Survivors that may share a batch, in the order of the queue."""
    found: dict[object, list[tuple[OpenChunk, Item, Paused]]] = {}
    for entry in queue:
        found.setdefault((entry[1].request.bucket, entry[2].step), []).append(entry)
    yield from found.values()
