"""Chunks of whole assets through one device: generate ▶ gate ▶ score ▶ select ▶ upscale ▶ gate.

There is no barrier between chunks: batches are filled over chunk borders, and while the device works on the next
batch, threads encode, hash and store the last one. A chunk is finished when its segment is written; the segment is
written after every blob that it names. Whatever dies before that is found missing and made again, nothing else: at
most the chunk on the device and the one that is being recorded.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from assetmill.config import Config
from assetmill.curate.gates import BREAKER_GATES, Verdict, check_candidates, load_gates
from assetmill.deliver.picture import decode, encode
from assetmill.engines.batching import Done, generate_all
from assetmill.engines.protocols import Engines
from assetmill.intake.plan import AssetPlan, extra_budget, requests_of
from assetmill.operate.settle import Group, Item, Settled, extension_of, settle
from assetmill.operate.stages import Stages
from assetmill.records import (
    CandidateRecord,
    FailureRecord,
    GateRecord,
    Prompt,
    Record,
    Request,
    RequestRecord,
    ScoreRecord,
    content_key,
)
from assetmill.storage.index import AssetHistory, write_segment
from assetmill.storage.layout import blob_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, put_blob, set_aside

if TYPE_CHECKING:
    import numpy as np

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp"}
_OPEN_CHUNKS = 3
"""Chunks with images still to make at one time: enough to fill batches over borders, few enough to bound memory."""


class BreakerTripped(RuntimeError):
    """So many images are black, flat or NaN that going on would waste the night."""


class Progress(Protocol):
    def start(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, count: int = 1) -> None: ...


class Silence:
    """A progress that shows nothing."""

    def start(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, count: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole assets that are made together, and their key. `alone`: nothing else may be under way meanwhile."""

    key: str
    plans: tuple[AssetPlan, ...]
    alone: bool = False


@dataclass(slots=True)
class OpenChunk:
    """A chunk with work under way: its groups (an asset, or a cell of one)."""

    chunk: Chunk
    history: Mapping[str, AssetHistory]
    groups: list[Group]
    outstanding: int = 0


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a finished chunk gave. `pictures` counts new candidates."""

    key: str
    num_assets: int
    pictures: int
    rejected: int
    failed: int
    chosen: int
    outcomes: Mapping[str, str]


class ChunkWorker:
    """Makes chunks on one device. Safe to call from several threads: the device is used by one at a time."""

    def __init__(
        self,
        store: Store,
        config: Config,
        base: Request,
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
    ) -> None:
        self.store, self.config, self.base, self.engines = store, config, base, engines
        self.histories, self.run_id, self.batch = histories, run_id, batch
        self.stages = stages or Stages()
        self.progress = progress or Silence()
        self.stop = stop or threading.Event()
        self.banned_blobs = frozenset(banned_blobs)
        self.force = force
        self.extension = config.publish.format
        self._gates = load_gates(config.gates.plugins)
        self._device = threading.Lock()
        self._writers = ThreadPoolExecutor(config.run.writers, thread_name_prefix="write")
        # Finishing waits for writers, so it must not share their threads.
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._checked = self._bad = 0

    def close(self) -> None:
        self._finisher.shutdown(wait=True)
        self._writers.shutdown(wait=True)

    def process(self, chunks: Iterable[Chunk]) -> Iterator[ChunkResult]:
        """Makes chunks and yields each when its segment is written. Raises BreakerTripped; see the module's text."""
        waiting = iter(chunks)
        opened: deque[OpenChunk] = deque()
        queue: deque[tuple[OpenChunk, Item]] = deque()
        finishing: deque[Future[ChunkResult]] = deque()
        exhausted = False
        while True:
            while not exhausted and len(queue) < self.batch and len(opened) < _OPEN_CHUNKS and not self.stop.is_set():
                chunk = next(waiting, None)
                if chunk is None:
                    exhausted = True
                    break
                opening = self._open(chunk)
                items = self._missing_items(opening)
                opening.outstanding = len(items)
                opened.append(opening)
                queue.extend((opening, item) for item in items)
            if self.stop.is_set():
                # A drained run drops what has no segment yet; the next run makes it again.
                break
            if queue:
                batch = _take_batch(queue, self.batch)
                self._make(batch)
                for owner, _ in batch:
                    owner.outstanding -= 1
            for owner in list(opened):
                if owner.outstanding:
                    continue
                extra = self._extra_items(owner)
                if extra:
                    owner.outstanding = len(extra)
                    queue.extendleft((owner, item) for item in reversed(extra))
                    continue
                opened.remove(owner)
                finishing.append(self._finish(owner))
            # One chunk may be recorded while the next is made: on a slow store a kill must not cost more than these.
            while finishing and (finishing[0].done() or len(finishing) > 1):
                yield finishing.popleft().result()
            if exhausted and not queue and not opened:
                break
        while finishing:
            yield finishing.popleft().result()

    # --- opening ---------------------------------------------------------------------------------------------

    def _open(self, chunk: Chunk) -> OpenChunk:
        # Reading history costs shards of the index: only assets that were heard of before are asked for.
        history = self.histories.history([p.asset.id for p in chunk.plans if p.known])
        groups = []
        for plan in chunk.plans:
            cells: Sequence[tuple[Prompt, ...]] = (
                [(p,) for p in plan.prompts] if self.config.select.per == "cell" else [plan.prompts]
            )
            for prompts in cells:
                budget = {id(p): extra_budget(self.config, plan.num_candidates) for p in prompts}
                groups.append(Group(plan, prompts, budget, {id(p): plan.num_candidates for p in prompts}))
        return OpenChunk(chunk, history, groups)

    def _missing_items(self, opened: OpenChunk) -> list[Item]:
        """Items of the chunk's assets that must be generated; earlier candidates are read back and judged."""
        missing: list[Item] = []
        found: list[tuple[Item, CandidateRecord]] = []
        for group in opened.groups:
            history = opened.history.get(group.plan.asset.id)
            for prompt in group.prompts:
                for item in self._items(group, prompt, range(group.plan.num_candidates)):
                    self._sort_in(item, history, missing, found)
                    group.items.append(item)
                # Extra seeds of an earlier run count as well: look past the planned indices while they exist.
                while history and group.budget[id(prompt)]:
                    (item,) = self._items(group, prompt, [group.next_index[id(prompt)]])
                    if item.key not in history.candidates and item.key not in history.failures:
                        break
                    group.take_index(prompt)
                    if self.force:  # what was asked for again gets its budget again
                        group.budget[id(prompt)] += 1
                    self._sort_in(item, history, missing, found)
                    group.items.append(item)
        if found:
            missing.extend(self._recall(opened, found))
        return missing

    def _items(self, group: Group, prompt: Prompt, indices: Sequence[int]) -> list[Item]:
        request, seeds = requests_of(group.plan.asset, prompt, self.base, self.config, indices)
        requests = [request if seed == request.seed else replace(request, seed=seed) for seed in seeds]
        return [Item(group.plan, prompt, i, r, r.key) for i, r in zip(indices, requests, strict=True)]

    def _sort_in(
        self, item: Item, history: AssetHistory | None, missing: list[Item], found: list[tuple[Item, CandidateRecord]]
    ) -> None:
        """Puts an item where it belongs: made before, failed for good, cut mid-way, or to be made."""
        candidate = history.candidates.get(item.key) if history else None
        failure = history.failures.get(item.key) if history else None
        if candidate is not None:
            found.append((item, candidate))
        elif failure is not None and failure.kind == "poison" and not self.force:
            item.failures, item.stored = [failure], True
        elif history is not None and item.key in history.cuts:
            item.stored = True
        else:
            missing.append(item)

    def _recall(self, opened: OpenChunk, found: list[tuple[Item, CandidateRecord]]) -> list[Item]:
        """Reads earlier candidates back and judges them again; gives those whose picture is gone or damaged."""
        lost: list[Item] = []
        with self.stages.time("read"):
            jobs = [(item, made, self._writers.submit(self._read, made)) for item, made in found]
            for item, made, job in jobs:
                try:
                    item.pixels = job.result()
                except (MissingObject, CorruptObject) as error:
                    set_aside(self.store, blob_path(made.blob, extension_of(made.media_type)))
                    item.failures.append(FailureRecord(item.key, "lost", str(error)))
                    lost.append(item)
                    continue
                item.stored = True
                item.blob = _done(made.blob)
        alive = [item for item, _ in found if item.stored]
        for start in range(0, len(alive), self.batch):
            batch = _same_shape(alive[start : start + self.batch])
            for part in batch:
                self._check_and_judge([(opened, item) for item in part], _stack(part), None)
        return lost

    def _read(self, made: CandidateRecord) -> np.ndarray:
        return decode(get_blob(self.store, made.blob, extension_of(made.media_type)))

    # --- the device ------------------------------------------------------------------------------------------

    def _make(self, batch: Sequence[tuple[OpenChunk, Item]]) -> None:
        """Generates one batch, checks and judges it on the device, and hands the pixels to the writers."""
        requests = [item.request for _, item in batch]
        with self._device, self.stages.time("generate", len(batch)):
            parts: list[Done] = []
            failed = generate_all(
                self.engines.generator, requests, batch=self.batch, on_done=parts.append,
                timeout=self.config.model.timeout,
            )  # fmt: skip
        for failure in failed:
            item = batch[failure.position][1]
            item.failures.append(FailureRecord(item.key, failure.kind, failure.reason))
        self.progress.advance("images", len(failed))
        for part in parts:
            members = [batch[i] for i in part.positions]
            made = part.generated
            for row, (_, item) in enumerate(members):
                item.refused = made.refused[row] if made.refused else ""
                item.pixels = made.pixels[row]
                item.blob = self._writers.submit(self._write, item.pixels)
                item.seconds = round(made.seconds / len(members), 4)
            self._check_and_judge(members, made.pixels, made.device_pixels, made.finite)
            self.progress.advance("images", len(members))

    def _check_and_judge(
        self,
        members: Sequence[tuple[OpenChunk, Item]],
        pixels: np.ndarray,
        device_pixels: Any,
        finite: np.ndarray | None = None,
    ) -> None:
        import numpy as np

        request = members[0][1].request
        if finite is None:
            finite = np.ones(len(members), bool)
        verdicts = check_candidates(pixels, finite, (request.width, request.height), self.config.gates, self._gates)
        for (_, item), rows in zip(members, verdicts, strict=True):
            if item.refused:
                # Said by the model itself: a reason beside the picture, never a silent black image.
                rows = [Verdict("safety", False, item.refused)]
            item.verdicts = rows
            item.passed = all(v.passed for v in rows)
            if not item.stored:
                self._checked += 1
                self._bad += any(not v.passed and v.gate in BREAKER_GATES for v in rows)
        self._check_breaker()
        with self._device, self.stages.time("judge", len(members)):
            judged = self.engines.judge.judge(
                device_pixels if device_pixels is not None else pixels, [item.prompt.rank_text for _, item in members]
            )
        for row, (_, item) in enumerate(members):
            value = float(judged.scores[row])
            item.score = None if math.isnan(value) else value
            item.embedding = judged.embeddings[row]

    def _check_breaker(self) -> None:
        limit = self.config.gates.max_rejected
        if self._checked >= 32 and self._bad > limit * self._checked:
            raise BreakerTripped(
                f"{self._bad} of {self._checked} images are black, flat or NaN, more than gates.max_rejected "
                f"({limit:.0%}): the model, its dtype or its settings are broken; finished chunks are kept"
            )

    def _extra_items(self, opened: OpenChunk) -> list[Item]:
        """More seeds for groups in which too few candidates passed, within their budget."""
        extra: list[Item] = []
        for group in opened.groups:
            short = self.config.select.keep - sum(i.passed for i in group.items)
            spread = [p for p in group.prompts if group.budget[id(p)] > 0]
            for turn in range(short if spread else 0):
                prompt = spread[turn % len(spread)]
                if group.budget[id(prompt)] <= 0:
                    continue
                items = self._items(group, prompt, [group.take_index(prompt)])
                group.items.extend(items)
                extra.extend(items)
        if extra:
            self.progress.start("images", len(extra))
        return extra

    # --- finishing -------------------------------------------------------------------------------------------

    def _finish(self, opened: OpenChunk) -> Future[ChunkResult]:
        """Chooses and upscales on the device, then writes the masters and the segment in the background."""
        with self._device:
            settled = settle(
                opened.groups, opened.history, self.engines.upscaler, self.config, self.stages, self.store,
                media_type=MEDIA_TYPES[self.extension], banned_blobs=self.banned_blobs,
            )  # fmt: skip
        self.progress.advance("upscales", settled.num_upscaled)
        masters = {key: self._writers.submit(self._write, pixels) for key, pixels in settled.masters.items()}
        return self._finisher.submit(self._commit, opened, settled, masters)

    def _commit(self, opened: OpenChunk, settled: Settled, masters: Mapping[str, Future[str]]) -> ChunkResult:
        written = {key: job.result() for key, job in masters.items()}
        records: list[Record] = []
        for group in opened.groups:
            for item in group.items:
                records.extend(self._item_records(item, opened.history.get(item.plan.asset.id)))
        records.extend(settled.records(written))
        with self.stages.time("record"):
            write_segment(self.store, self.config.name, opened.chunk.key, 0, records)
        self.progress.advance("assets", len(opened.chunk.plans))
        new = [r for r in records if isinstance(r, CandidateRecord)]
        rejected = {r.subject for r in records if isinstance(r, GateRecord) and not r.passed}
        return ChunkResult(
            opened.chunk.key,
            len(opened.chunk.plans),
            len(new),
            len(rejected),
            sum(isinstance(r, FailureRecord) and r.kind != "lost" for r in records),
            settled.num_chosen,
            settled.outcomes(),
        )

    def _write(self, pixels: np.ndarray) -> str:
        start = time.perf_counter()
        data = encode(pixels, self.extension)
        middle = time.perf_counter()
        blob = put_blob(self.store, data, self.extension, MEDIA_TYPES[self.extension])
        self.stages.add("encode", middle - start, 1)
        self.stages.add("store", time.perf_counter() - middle, 1, len(data))
        return blob

    def _item_records(self, item: Item, history: AssetHistory | None) -> Iterator[Record]:
        """The records of one candidate. Its blob is waited for: a segment names nothing that isn't stored."""
        if item.stored and item.pixels is None:
            return
        prompt = item.prompt
        yield RequestRecord(
            item.key, item.plan.asset.id, prompt.template, dict(prompt.cell), item.index, prompt.rank_text, item.request
        )
        yield from item.failures
        if item.blob is None or item.pixels is None:
            return
        blob = item.blob.result()
        if not item.stored:
            height, width = item.pixels.shape[:2]
            yield CandidateRecord(
                item.key, blob, MEDIA_TYPES[self.extension], width, height, item.seconds,
                self.engines.generator.versions(),
            )  # fmt: skip
        # All verdicts, those passed too: they replace what an earlier segment said with other thresholds.
        for v in item.verdicts:
            yield GateRecord(item.key, v.gate, "candidate", v.passed, v.reason, v.value)
        judge = self.engines.judge.key
        key = content_key("score", {"blob": blob, "judge": judge, "text": prompt.rank_text})
        if history is None or key not in history.scores:
            yield ScoreRecord(key, item.key, blob, judge, prompt.rank_text, item.score)


class Histories(Protocol):
    """What earlier runs left of assets (an Index)."""

    def history(self, asset_ids: Collection[str]) -> Mapping[str, AssetHistory]: ...


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


def _same_shape(items: Sequence[Item]) -> list[list[Item]]:
    shapes: dict[Any, list[Item]] = {}
    for item in items:
        assert item.pixels is not None
        shapes.setdefault(item.pixels.shape, []).append(item)
    return list(shapes.values())


def _stack(items: Sequence[Item]) -> np.ndarray:
    import numpy as np

    return np.stack([item.pixels for item in items if item.pixels is not None])


def _done(value: str) -> Future[str]:
    future: Future[str] = Future()
    future.set_result(value)
    return future
