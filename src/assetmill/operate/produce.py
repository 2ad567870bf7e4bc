"""Chunks of whole assets through the device: generate ▶ gate ▶ score ▶ select ▶ upscale ▶ gate.

There is no barrier between chunks: batches are filled over chunk borders, and while the device works on the next
batch, threads encode, hash and store the last one. A chunk is finished when its segment is written; the segment is
written after every blob that it names. Whatever dies before that is found missing and made again, nothing else: at
most the chunk on the device and the one that is being recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol

from assetmill.config import Config
from assetmill.deliver.picture import MEDIA_TYPES, decode, encode
from assetmill.engines.protocols import Engines
from assetmill.intake.plan import Base
from assetmill.operate.choosing import REJECTED, Item
from assetmill.operate.chunks import Chunk, ChunkResult, Histories, OpenChunk, look, open_chunk
from assetmill.operate.commit import Chosen, commit_chunk
from assetmill.operate.cutouts import open_cutter
from assetmill.operate.cuts import Cuts
from assetmill.operate.families import find_standing
from assetmill.operate.making import BreakerTripped, Maker, Work
from assetmill.operate.products import earlier_verdicts
from assetmill.operate.rounds import next_round
from assetmill.operate.settle import Settled, extension_of, settle
from assetmill.operate.stages import Stages
from assetmill.operate.taste import HouseRanker
from assetmill.records import CandidateRecord, FailureRecord, Request
from assetmill.storage.layout import blob_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, put_blob, set_aside

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BreakerTripped", "Chunk", "ChunkResult", "ChunkWorker", "Progress", "Silence"]

_OPEN_CHUNKS = 3
"""Chunks that may be open at one time even where they hold more than the next batches."""


class Progress(Protocol):
    def start(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, count: int = 1) -> None: ...


class Silence:
    """A progress that shows nothing."""

    def start(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, count: int = 1) -> None: ...


class ChunkWorker:
    """Makes chunks on one device, on as many lanes as there are generators. Safe to call from several threads.

    `references` gives the pictures that requests depend on, by blob hash, before they are generated. `on_chosen` is
    told what a chunk chose, when that is on record. `ranker` is the house ranker that was promoted.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        base: Base,
        engines: Engines,
        histories: Histories,
        *,
        run_id: str,
        batch: int,
        stages: Stages | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        banned_blobs: Collection[str] = (),
        force: bool = False,
        references: Callable[[Sequence[Request]], Mapping[str, np.ndarray]] | None = None,
        on_chosen: Callable[[Chosen], None] | None = None,
        ranker: HouseRanker | None = None,
    ) -> None:
        self.store, self.config, self.base, self.engines = store, config, base, engines
        self.histories, self.run_id, self.batch = histories, run_id, batch
        self.stages = stages or Stages()
        self.progress = progress or Silence()
        self.stop = stop or threading.Event()
        self.banned_blobs = frozenset(banned_blobs)
        self.force = force
        self.on_chosen = on_chosen
        self.ranker = ranker
        self._cutter = open_cutter(config, engines.segmenter)
        self._maker = Maker(config, engines, self.stages, batch, references)
        self._lanes = ThreadPoolExecutor(self._maker.num_lanes + 1, thread_name_prefix="lane")
        self._writers = ThreadPoolExecutor(config.run.writers, thread_name_prefix="write")
        self.breaker = self._maker.breaker
        # Finishing waits for writers, so it must not share their threads.
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")

    def close(self) -> None:
        self._lanes.shutdown(wait=True, cancel_futures=True)
        self._finisher.shutdown(wait=True)
        self._writers.shutdown(wait=True)

    def process(self, chunks: Iterable[Chunk]) -> Iterator[ChunkResult]:
        """Makes chunks and yields each when its segment is written. Raises BreakerTripped; see the module's text."""
        stream = _Stream(self, chunks)
        while True:
            stream.start_work()
            if self.stop.is_set():
                # A drained run drops what has no segment yet; the next run makes it again.
                stream.drain()
                break
            stream.await_work()
            stream.close_chunks()
            yield from stream.results()
            if stream.is_done():
                break
        yield from stream.last_results()

    # --- what a stream of chunks asks for ---------------------------------------------------------------------

    def recall(self, earlier: Sequence[tuple[Item, CandidateRecord]]) -> list[Item]:
        """Reads earlier candidates back and judges them again; gives those whose picture is gone or damaged.

        Those that were taken back or rejected are not looked at; approved ones are not given to be made again.
        """
        lost: list[Item] = []
        for item, made in earlier:
            if made.blob in self.banned_blobs:
                item.stored, item.barred = True, "recalled"
            elif made.blob in item.plan.review.rejected:
                item.stored, item.barred = True, REJECTED
        earlier = [(item, made) for item, made in earlier if not item.barred]
        with self.stages.time("read"):
            jobs = [(item, made, self._writers.submit(self._read, made)) for item, made in earlier]
            for item, made, job in jobs:
                try:
                    item.pixels = job.result()
                except (MissingObject, CorruptObject) as error:
                    set_aside(self.store, blob_path(made.blob, extension_of(made.media_type)))
                    item.failures.append(FailureRecord(item.key, "lost", str(error)))
                    if not item.pinned:
                        lost.append(item)
                    continue
                item.stored = True
                item.blob = _done(made.blob)
        self._maker.judge_again([item for item, _ in earlier if item.stored])
        return lost

    def look_at_kin(self, opened: OpenChunk) -> None:
        """Reads the pictures that stand in the families of a chunk's assets."""
        with self.stages.time("read"):
            opened.standing = find_standing(
                opened.chunk.plans, opened.history, self.config, read=self._read, embed=self._maker.embed,
                banned_blobs=self.banned_blobs,
            )  # fmt: skip

    def make(self, work: Work) -> None:
        """Generates one batch on a free lane, and hands the finished pictures to the writers."""
        for item in self._maker.make(work):
            assert item.pixels is not None
            item.blob = self._writers.submit(self._write, item.pixels, self.config.run.candidates)
            if item.heat is not None:
                item.heat_blob = self._writers.submit(self._write, item.heat, "png")
                item.heat = None

    def finish(self, opened: OpenChunk) -> Future[ChunkResult]:
        """Chooses and upscales, then has masters and segment written in the background. Runs on a lane."""
        with self._maker.upscaling:
            settled = settle(
                opened.groups, opened.history, self.engines.upscaler, self.config, self.stages, self.store,
                media_type=MEDIA_TYPES[self.config.publish.format], banned_blobs=self.banned_blobs,
                references=self._maker.references, cutter=self._cutter, ranker=self.ranker,
                standing=opened.standing,
            )  # fmt: skip
        self.progress.advance("upscales", settled.num_upscaled)
        masters, cutouts = (
            {key: self._writers.submit(self._write, pixels, self.config.publish.format) for key, pixels in some.items()}
            for some in (settled.masters, settled.cutouts)
        )
        return self._finisher.submit(self._commit, opened, settled, masters, cutouts)

    # --- inside -----------------------------------------------------------------------------------------------

    def _commit(
        self,
        opened: OpenChunk,
        settled: Settled,
        masters: Mapping[str, Future[str]],
        cutouts: Mapping[str, Future[str]],
    ) -> ChunkResult:
        result = commit_chunk(
            opened, settled, masters, cutouts, store=self.store, config_name=self.config.name,
            judge_key=self.engines.judge.key, media_type=MEDIA_TYPES[self.config.run.candidates],
            versions=self.engines.generator.versions(), stages=self.stages, on_chosen=self.on_chosen,
            ranker=self.ranker,
        )  # fmt: skip
        self.progress.advance("assets", len(opened.chunk.plans))
        return result

    def _read(self, made: CandidateRecord) -> np.ndarray:
        return decode(get_blob(self.store, made.blob, extension_of(made.media_type)))

    def _write(self, pixels: np.ndarray, extension: str) -> str:
        start = time.perf_counter()
        data = encode(pixels, extension)
        middle = time.perf_counter()
        blob = put_blob(self.store, data, extension, MEDIA_TYPES[extension])
        self.stages.add("encode", middle - start, 1)
        self.stages.add("store", time.perf_counter() - middle, 1, len(data))
        return blob


class _Stream:
    """The chunks of one call of `process`, from the first look at each to its segment. Used by one thread."""

    def __init__(self, worker: ChunkWorker, chunks: Iterable[Chunk]) -> None:
        self.worker = worker
        self.config = worker.config
        self.waiting = iter(chunks)
        self.opened: list[OpenChunk] = []
        self.queue: deque[tuple[OpenChunk, Item]] = deque()
        self.cuts = Cuts(self.config.cut)
        self.making: dict[Future[None], Work] = {}
        self.settling: list[Future[Future[ChunkResult]]] = []
        self.finishing: deque[Future[ChunkResult]] = deque()
        self.exhausted = False
        self.num_lanes = worker._maker.num_lanes

    def start_work(self) -> None:
        """Hands batches to the lanes, one more than there are: survivors of cuts in full batches first, then new ones.

        While one is checked and judged, its generator works on the next.

        Not while more chunks than there are lanes wait for their records: on a slow store a kill must not cost more.
        """
        while len(self.making) <= self.num_lanes and len(self.settling) + len(self.finishing) <= self.num_lanes:
            self._open_chunks()
            work = None if self.worker.stop.is_set() else self._next_work()
            if work is None:
                return
            self.making[self.worker._lanes.submit(self.worker.make, work)] = work

    def _open_chunks(self) -> None:
        """Opens chunks while the queue cannot fill a batch and not too many are open."""
        worker = self.worker
        while not self.exhausted and len(self.queue) < worker.batch and not worker.stop.is_set():
            under_way = sum(opened.outstanding for opened in self.opened)
            if len(self.opened) + len(self.settling) >= _OPEN_CHUNKS and under_way > worker.batch * (
                self.num_lanes + 1
            ):
                return
            chunk = next(self.waiting, None)
            if chunk is None:
                self.exhausted = True
                return
            opened = open_chunk(chunk, worker.histories, self.config)
            found = look(opened, worker.base, self.config, force=worker.force)
            for item, _ in found.earlier:
                history = opened.history.get(item.plan.asset.id)
                item.product = earlier_verdicts(item.key, history, self.config.gates)
            missing = found.missing + (worker.recall(found.earlier) if found.earlier else [])
            if any(p.kin for p in chunk.plans):
                worker.look_at_kin(opened)
            self.opened.append(opened)
            self._begin(opened, missing)

    def await_work(self) -> None:
        """Waits until a batch is made or a chunk is settled or recorded, and counts what came of it."""
        under_way: list[Future[Any]] = [*self.making, *self.settling[:1], *list(self.finishing)[:1]]
        if under_way:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in [f for f in self.making if f in done]:
                future.result()
                self._count(self.making.pop(future))
        while self.settling and self.settling[0].done():
            self.finishing.append(self.settling.pop(0).result())

    def close_chunks(self) -> None:
        """Sends chunks with nothing on its way to be settled, unless they get further seeds."""
        for opened in list(self.opened):
            if opened.outstanding:
                continue
            extra = next_round(opened, self.worker.base, self.config)
            if extra:
                self.worker.progress.start("images", len(extra))
                self._begin(opened, extra, first=True)
                continue
            self.opened.remove(opened)
            self.settling.append(self.worker._lanes.submit(self.worker.finish, opened))

    def results(self) -> Iterator[ChunkResult]:
        """Chunks whose segment is written, in their order."""
        while self.finishing and self.finishing[0].done():
            yield self.finishing.popleft().result()

    def last_results(self) -> Iterator[ChunkResult]:
        """All that are still under way, when they are written."""
        self.finishing.extend(future.result() for future in self.settling)
        for future in self.finishing:
            yield future.result()

    def drain(self) -> None:
        """Waits for the batches on the device."""
        wait(self.making)

    def is_done(self) -> bool:
        return self.exhausted and not (self.queue or self.making or self.opened)

    # --- inside -----------------------------------------------------------------------------------------------

    def _begin(self, opened: OpenChunk, items: Sequence[Item], *, first: bool = False) -> None:
        opened.outstanding += len(items)
        pairs = [(opened, item) for item in items]
        self.queue.extendleft(reversed(pairs)) if first else self.queue.extend(pairs)
        if self.config.cut.at:
            begun = {id(item) for item in items}
            for group in opened.groups:
                own = [item for item in group.items if id(item) in begun]
                if own:
                    self.cuts.begin(opened, own, self.config.select.keep - sum(i.passed for i in group.items))

    def _next_work(self) -> Work | None:
        size = self.worker.batch
        found = self.cuts.take(size, partial=False)
        if found is None and self.queue:
            return Work(_take_batch(self.queue, size), pause_at=self.cuts.pause_at(0))
        if found is None and not self.making:
            found = self.cuts.take(size, partial=True)
        if found is None:
            return None
        level, entries = found
        return Work(
            [(owner, item) for owner, item, _ in entries],
            level=level,
            resume=[paused for _, _, paused in entries],
            pause_at=self.cuts.pause_at(level),
        )

    def _count(self, work: Work) -> None:
        """Books a made batch: who is finished, who goes on, who was dropped."""
        gone: list[tuple[OpenChunk, Item]] = []
        for row, (owner, item) in enumerate(work.members):
            paused = work.paused.get(row)
            if paused is None:
                gone.append((owner, item))
                dropped = self.cuts.lose(item, work.level)
            else:
                dropped = self.cuts.arrive(item, work.level, paused, work.preview_scores[row])
            gone.extend((owner, other) for other in dropped)
        for owner, _ in gone:
            owner.outstanding -= 1
        self.worker.progress.advance("images", len(gone))


def _take_batch(queue: deque[tuple[OpenChunk, Item]], size: int) -> list[tuple[OpenChunk, Item]]:
    """The oldest item and up to `size - 1` others of its bucket, from the whole queue; the rest keeps its order."""
    bucket = queue[0][1].request.bucket
    taken: list[tuple[OpenChunk, Item]] = []
    left: list[tuple[OpenChunk, Item]] = []
    while queue and len(taken) < size:
        pair = queue.popleft()
        (taken if pair[1].request.bucket == bucket else left).append(pair)
    queue.extendleft(reversed(left))
    return taken


def _done(value: str) -> Future[str]:
    future: Future[str] = Future()
    future.set_result(value)
    return future
