"""Which chunks were begun and by which runs: how a picture that kills the process is found and set aside.

A marker names the assets of a chunk that was begun; it goes when the chunk is finished, or when its run ends alive.
An asset that was on its way in two dead runs is suspected: it is tried alone, after everything else, the least tried
ones first. One that was begun three times alone is set aside, until its work changes or `--force` asks for it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from assetmill.intake.plan import AssetPlan, chunk_key, make_chunks
from assetmill.storage.layout import runs_prefix
from assetmill.storage.store import CorruptObject, MissingObject, Store

log = logging.getLogger(__name__)

SUSPECTED_AFTER = 2
"""Dead runs after which an asset is tried alone."""

MAX_TRIES = 3
"""Tries alone after which an asset is set aside."""


@dataclass(frozen=True, slots=True)
class Arranged:
    """The work of a run: chunks, then suspected assets to be made one at a time, and ids of those left out."""

    chunks: tuple[tuple[AssetPlan, ...], ...]
    alone: tuple[AssetPlan, ...] = ()
    set_aside: tuple[str, ...] = ()


class Attempts:
    """The markers of one config."""

    def __init__(self, store: Store, config_name: str) -> None:
        self._store = store
        self._prefix = f"{runs_prefix(config_name)}begun/"

    def note(self, plans: Sequence[AssetPlan], run_id: str, *, alone: bool = False) -> None:
        """Marks a chunk as begun by a run."""
        marker = {"schema": 1, "alone": alone, "assets": [chunk_key((plan,)) for plan in plans]}
        self._store.put_if_absent(f"{self._prefix}{chunk_key(plans)}/{run_id}", json.dumps(marker).encode())

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """How often each asset's work was begun among others, and how often alone, by the key of a chunk of its own."""
        together: Counter[str] = Counter()
        alone: Counter[str] = Counter()
        for info in self._store.list(self._prefix):
            try:
                marker = json.loads(self._store.get(info.key))
                (alone if marker["alone"] else together).update(marker["assets"])
            except (MissingObject, CorruptObject, ValueError, KeyError, TypeError) as error:
                log.warning("the marker %s counts for nothing, it is damaged or gone: %s", info.key, error)
        return together, alone

    def clear(self, key: str) -> None:
        """Forgets a finished chunk's markers."""
        for info in list(self._store.list(f"{self._prefix}{key}/")):
            self._store.delete(info.key)

    def forget(self, key: str, run_id: str) -> None:
        """Forgets that a run began a chunk: it dropped it, alive and of its own will."""
        self._store.delete(f"{self._prefix}{key}/{run_id}")

    def arrange(self, plans: Sequence[AssetPlan], num_candidates: int, *, force: bool = False) -> Arranged:
        """Cuts the plans into chunks of about that many images, suspected assets apart, crashing ones left out.

        With `force` nothing is suspected: people want to see the crash.
        """
        together, alone = (Counter(), Counter()) if force else self.counts()
        if not together and not alone:
            return Arranged(tuple(make_chunks(plans, num_candidates)))
        rest: list[AssetPlan] = []
        suspects: list[tuple[int, AssetPlan]] = []
        set_aside: list[str] = []
        for plan in plans:
            key = chunk_key((plan,))
            if alone[key] >= MAX_TRIES:
                set_aside.append(plan.asset.id)
                log.error(
                    "asset %r was begun %d times alone and never finished: it is set aside; change its row, mend the "
                    "model, or try it again with --force",
                    plan.asset.id,
                    alone[key],
                )
            elif alone[key] or together[key] >= SUSPECTED_AFTER:
                suspects.append((alone[key], plan))
            else:
                rest.append(plan)
        # Those that were not tried alone yet come first: a run that dies by itself then does not always hit the same.
        suspects.sort(key=lambda pair: pair[0])
        return Arranged(tuple(make_chunks(rest, num_candidates)), tuple(p for _, p in suspects), tuple(set_aside))
