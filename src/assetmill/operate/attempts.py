"""Which chunks were begun and by which runs: how a picture that kills the process is found and set aside.

A marker is written when a chunk is begun. A chunk that was begun twice and has no segment is suspected: its assets
are tried one at a time, after everything else. An asset that was begun three times alone is set aside, until its
work changes or `--force` asks for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator

from assetmill.intake.plan import AssetPlan, chunk_key
from assetmill.storage.layout import runs_prefix
from assetmill.storage.store import Store

log = logging.getLogger(__name__)

MAX_TRIES = 3


class Attempts:
    """The markers of one config. `set_aside` fills while `arrange` is consumed: ids of assets that keep crashing."""

    def __init__(self, store: Store, config_name: str) -> None:
        self.set_aside: list[str] = []
        self._store = store
        self._prefix = f"{runs_prefix(config_name)}begun/"

    def note(self, key: str, run_id: str) -> None:
        """Marks a chunk as begun by a run."""
        self._store.put_if_absent(f"{self._prefix}{key}/{run_id}", b"")

    def counts(self) -> Counter[str]:
        """How often each chunk was begun."""
        found: Counter[str] = Counter()
        for info in self._store.list(self._prefix):
            found[info.key.removeprefix(self._prefix).partition("/")[0]] += 1
        return found

    def clear(self, key: str) -> None:
        """Forgets a finished chunk's markers."""
        for info in list(self._store.list(f"{self._prefix}{key}/")):
            self._store.delete(info.key)

    def arrange(
        self, chunks: Iterable[tuple[AssetPlan, ...]], *, force: bool = False
    ) -> Iterator[tuple[AssetPlan, ...]]:
        """The chunks with suspected ones taken apart and put last, and assets that keep crashing left out.

        With `force` nothing is suspected: people want to see the crash.
        """
        counts = self.counts()
        if not counts or force:
            yield from chunks
            return
        suspects: list[AssetPlan] = []
        for chunk in chunks:
            if len(chunk) > 1 and counts[chunk_key(chunk)] >= MAX_TRIES - 1:
                suspects.extend(chunk)
            elif len(chunk) == 1 and counts[chunk_key(chunk)] >= MAX_TRIES:
                self._leave_out(chunk[0])
            else:
                yield chunk
        for plan in suspects:
            if counts[chunk_key((plan,))] >= MAX_TRIES:
                self._leave_out(plan)
            else:
                yield (plan,)

    def _leave_out(self, plan: AssetPlan) -> None:
        self.set_aside.append(plan.asset.id)
        log.error(
            "asset %r was begun %d times and never finished: it is set aside; change its row or mend the model",
            plan.asset.id,
            MAX_TRIES,
        )
