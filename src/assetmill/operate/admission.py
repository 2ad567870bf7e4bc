"""What a run's driver decides of chunks before they are made, and writes into its books when they are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from assetmill.operate.attempts import Attempts
from assetmill.operate.commit import chosen_of
from assetmill.operate.dispatch import Dispatcher
from assetmill.operate.elsewhere import Made
from assetmill.operate.job import Job
from assetmill.operate.making import Breaker
from assetmill.operate.produce import Chunk, ChunkResult, Progress
from assetmill.operate.report import RunTotals
from assetmill.operate.stages import Stages
from assetmill.records import parse_record
from assetmill.storage.segments import read_segment

log = logging.getLogger(__name__)


class Books(Protocol):
    """What is noted of a run while it goes on: a `pipeline.Run`."""

    id: str
    job: Job
    chunks: tuple[Chunk, ...]
    stages: Stages
    stop: threading.Event
    reason: str
    totals: RunTotals
    lock_lost: threading.Event | None
    begun: set[str]
    breaker: Breaker
    admitting: threading.Lock

    def open_dispatcher(self) -> Dispatcher: ...


def admit_chunk(run: Books, chunk: Chunk) -> bool:
    """Whether a chunk may begin: not when the run was told to stop, lost its lock or used up a budget."""
    with run.admitting:
        if not run.reason:
            if run.lock_lost is not None and run.lock_lost.is_set():
                run.reason = "the lock was taken over by another run"
            else:
                images = sum(p.missing for p in chunk.plans)
                run.reason = run.totals.over_budget(run.job.config.run.budget, run.stages, images)
        if run.reason or run.stop.is_set():
            return False
        run.begun.add(chunk.key)
        run.totals.opened(chunk)
    Attempts(run.job.store, run.job.config.name).note(chunk.plans, run.id, alone=chunk.alone)
    return True


def feed_chunks(run: Books, chunks: Sequence[Chunk]) -> Iterator[Chunk]:
    """Chunks of a run in order, as long as they are admitted."""
    for chunk in chunks:
        if not admit_chunk(run, chunk):
            return
        yield chunk


def note_result(run: Books, result: ChunkResult) -> None:
    """Counts a finished chunk and forgets that it was begun."""
    run.totals.add(result)
    Attempts(run.job.store, run.job.config.name).clear(result.key)
    run.begun.discard(result.key)


def take_in(run: Books, made: Made, progress: Progress, *, dispatch: bool = True) -> ChunkResult | None:
    """Adds what a worker elsewhere made to the run's books. Raises BreakerTripped."""
    run.stages.merge(made.stages)
    run.totals.lanes = made.lanes
    run.totals.versions = dict(made.versions)
    result = made.result
    if result is not None:
        chunk = run.chunks[made.number]
        note_result(run, result)
        run.totals.workers[made.where] += 1
        progress.advance("images", result.pictures)
        progress.advance("assets", result.num_assets)
        if dispatch and result.chosen and not run.job.catalog.held():
            history = run.job.index.history([p.asset.id for p in chunk.plans if p.known])
            records = [parse_record(line) for line in read_segment(run.job.store, result.segment).lines]
            run.open_dispatcher().offer(chosen_of(chunk.plans, history, records))
    run.breaker.count(made.checked, made.bad)
    return result


def note_crash(run: Books, chunk: Chunk, tries: int, reason: str) -> None:
    """Keeps the mark of a chunk whose workers died, so that the next run suspects it; this one goes on."""
    log.error("%s; its assets are left to the next run, which tries them alone", reason)
    run.begun.discard(chunk.key)
    for more in range(1, tries):  # each death counts as much as that of a whole run
        Attempts(run.job.store, run.job.config.name).note(chunk.plans, f"{run.id}-{more}", alone=chunk.alone)
    run.totals.crashed += tuple(p.asset.id for p in chunk.plans)
