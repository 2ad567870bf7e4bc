"""Dispatch: the files of chosen pictures are made and stored while the device works on the next ones.

What was dispatched is only known sooner: when a run ends, publishing asks for every file again, by its recipe, and
makes what is not there. So nothing hangs on the dispatcher: what it had no room for, or could not make, is left to
the end of the run, where errors are reported.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

from assetmill.intake.plan import AssetPlan
from assetmill.operate.drafts import Drafts
from assetmill.operate.press import Press, Printed
from assetmill.storage.entries import CatalogEntry, Rendition
from assetmill.storage.index import AssetHistory
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import StoreUnavailable

Formers = Callable[[Sequence[str]], Mapping[str, Rendition]]
"""Gives the published files of some assets, by recipe."""

WAITING = 2048
"""Assets that may wait for a thread. Their texts are in memory, not their pictures."""

NICE = 10
"""How much the threads yield to those that feed the device."""

log = logging.getLogger(__name__)


class Dispatcher:
    """Makes files in threads of its own. `threads` at a time have a picture in memory."""

    def __init__(self, press: Press, drafts: Drafts, formers: Formers, *, threads: int) -> None:
        self.press, self.drafts, self.formers, self.threads = press, drafts, formers, threads
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: set[Future[None]] = set()
        self._made: dict[str, Rendition] = {}
        self._broken = False
        self._lock = threading.Lock()

    def offer(self, chosen: Iterable[tuple[AssetPlan, AssetHistory]]) -> None:
        """Takes assets whose choice has just been recorded. Never waits: what there is no room for is left out."""
        for plan, history in chosen:
            with self._lock:
                if self._broken or len(self._under_way) >= WAITING:
                    return
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self.threads, "dispatch", initializer=_yield_to_others)
                job = self._pool.submit(self._dispatch, plan, history)
                self._under_way.add(job)
            job.add_done_callback(self._forget)

    def print_all(self, drafts: Sequence[CatalogEntry]) -> Iterator[Printed]:
        """Makes the files of drafts that have none yet, in order, and gives the entries with their files."""
        formers = self.formers(sorted({d.asset_id for d in drafts})) if drafts else {}
        with self._lock:
            known = {**formers, **self._made}
        for printed in map_ahead(lambda d: self.press.print(d, known), drafts, threads=self.threads):
            with self._lock:
                for file in printed.entry.renditions:
                    self._made.pop(file.recipe, None)
            yield printed

    def settle(self) -> None:
        """Waits until nothing is under way."""
        with self._lock:
            jobs = list(self._under_way)
        wait(jobs)
        self.close()

    def close(self) -> None:
        """Drops what waits, and ends the threads."""
        with self._lock:
            pool, self._pool, self._broken = self._pool, None, True
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    # --- inside -----------------------------------------------------------------------------------------------

    def _dispatch(self, plan: AssetPlan, history: AssetHistory) -> None:
        drafts = self.drafts.of(plan, history)
        # A new asset has no file yet: looking for one would read a shard of the catalog.
        known = self.formers([plan.asset.id]) if plan.state != "new" else {}
        for draft in drafts:
            try:
                printed = self.press.print(draft, known)
            except StoreUnavailable as error:
                log.warning("nothing more is published before the end of the run: %s", error)
                self._broken = True
                return
            with self._lock:
                self._made.update((file.recipe, file) for file in printed.entry.renditions)

    def _forget(self, job: Future[None]) -> None:
        with self._lock:
            self._under_way.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            log.warning("left to the end of the run: %s", error, exc_info=error)


def _yield_to_others() -> None:
    """Lets the threads of the device go first. On Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; the files are then made all the same
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + NICE, 19))
