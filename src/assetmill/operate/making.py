"""One batch on the device: generate, check, judge. Several lanes may each work on one of their own."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assetmill.config import Config
from assetmill.curate.gates import BREAKER_GATES, Gate, ReasonGate, Verdict, check_candidates, load_gates
from assetmill.curate.seam import check_seam
from assetmill.engines.batching import Done, Failed, generate_all
from assetmill.engines.enlarge import tileable_axes
from assetmill.engines.protocols import EngineError, Engines, Generator, Paused
from assetmill.operate.choosing import Item
from assetmill.operate.chunks import OpenChunk
from assetmill.operate.products import keeps_product, lock_candidate
from assetmill.operate.settle import References
from assetmill.operate.stages import Stages
from assetmill.records import FailureRecord
from assetmill.storage.store import CorruptObject, MissingObject

if TYPE_CHECKING:
    import numpy as np

_GIVE_UP = 64
"""Requests that fail in one and the same way, before any picture was made, after which the engine is at fault."""


class BreakerTripped(RuntimeError):
    """So many images are black, flat or NaN that going on would waste the night."""


class Breaker:
    """Counts pictures and those that are black, flat or NaN, and stops a run that makes too many of these."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._checked = self._bad = 0
        self._taken = (0, 0)
        self._lock = threading.Lock()

    def count(self, checked: int, bad: int) -> None:
        """Raises BreakerTripped when, of 32 pictures or more, more than the limit are bad."""
        with self._lock:
            self._checked += checked
            self._bad += bad
            checked, bad = self._checked, self._bad
        if checked >= 32 and bad > self.limit * checked:
            raise BreakerTripped(
                f"{bad} of {checked} images are black, flat or NaN, more than gates.max_rejected "
                f"({self.limit:.0%}): the model, its dtype or its settings are broken; finished chunks are kept"
            )

    def take(self) -> tuple[int, int]:
        """How many were counted since this was last asked, and how many of them are bad."""
        with self._lock:
            before, self._taken = self._taken, (self._checked, self._bad)
            return self._checked - before[0], self._bad - before[1]


@dataclass(slots=True)
class Work:
    """A batch for the device, and what came of it.

    `resume` and `pause_at` name one stretch of the sampling; `level` counts the cuts before it. When it is made,
    `paused` holds where rows stand that were stopped, and `preview_scores` what they looked like.
    """

    members: Sequence[tuple[OpenChunk, Item]]
    level: int = 0
    resume: Sequence[Paused] | None = None
    pause_at: float | None = None
    paused: dict[int, Paused] = field(default_factory=dict)
    preview_scores: dict[int, float | None] = field(default_factory=dict)


class Maker:
    """Makes batches with the engines of a run; one generator per lane, one judge and one upscaler for all."""

    def __init__(
        self, config: Config, engines: Engines, stages: Stages, batch: int, references: References | None = None
    ) -> None:
        self.config, self.engines, self.stages, self.batch = config, engines, stages, batch
        self.references = references
        self.upscaling = threading.Lock()
        self.num_lanes = 1 + len(engines.lanes)
        """Batches that are generated at one time. One more may be checked and judged meanwhile."""
        self._judging = threading.Lock()
        self._generators: queue.SimpleQueue[Generator] = queue.SimpleQueue()
        for generator in (engines.generator, *engines.lanes):
            self._generators.put(generator)
        self._gates: tuple[Gate, ...] = load_gates(config.gates.plugins)
        if engines.safety is not None:
            self._gates = (ReasonGate("safety", "candidate", engines.safety.check), *self._gates)
        self.breaker = Breaker(config.gates.max_rejected)
        self._counting = threading.Lock()
        self._num_made = 0
        self._first_failed: list[Failed] = []

    def make(self, work: Work) -> list[Item]:
        """Generates a batch, checks and judges it; gives the items that have a picture now.

        Raises BreakerTripped, EngineError where nothing but one and the same failure comes from the engine.
        """
        requests = [item.request for _, item in work.members]
        try:
            references = self.references(requests) if self.references is not None else {}
        except (MissingObject, CorruptObject) as error:
            # Damaged or gone since the run began: it is set aside, and the next run puts it there again.
            for _, item in work.members:
                item.failures.append(FailureRecord(item.key, "transient", f"a reference image: {error}"))
            return []
        parts: list[Done] = []
        generator = self._generators.get()
        try:
            # Stretches after a cut are time of pictures that are counted already.
            with self.stages.time("generate", 0 if work.level else len(requests)):
                failed = generate_all(
                    generator, requests, batch=self.batch, references=references, on_done=parts.append,
                    timeout=self.config.model.timeout, pause_at=work.pause_at, resume=work.resume,
                )  # fmt: skip
        finally:
            self._generators.put(generator)
        for failure in failed:
            item = work.members[failure.position][1]
            item.failures.append(FailureRecord(item.key, failure.kind, failure.reason))
        self._check_engine(failed, sum(len(part.positions) for part in parts))
        made: list[Item] = []
        for part in parts:
            made += self._take_in(work, part, references)
        return made

    def judge_again(self, items: Sequence[Item]) -> None:
        """Checks and judges pictures of earlier runs."""
        for start in range(0, len(items), self.batch):
            for part in _same_shape(items[start : start + self.batch]):
                self._check_and_judge(part, _stack(part), None)

    def embed(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The judge's embeddings (D,) of pictures uint8 (H, W, 3), in their order."""
        import numpy as np

        shapes: dict[Any, list[int]] = {}
        for number, pixels in enumerate(pictures):
            shapes.setdefault(pixels.shape, []).append(number)
        found: dict[int, np.ndarray] = {}
        for numbers in shapes.values():
            for start in range(0, len(numbers), self.batch):
                part = numbers[start : start + self.batch]
                with self._judging, self.stages.time("judge", len(part)):
                    judged = self.engines.judge.judge(np.stack([pictures[n] for n in part]), [""] * len(part))
                found.update(zip(part, judged.embeddings, strict=True))
        return [found[n] for n in range(len(pictures))]

    # --- inside -----------------------------------------------------------------------------------------------

    def _take_in(self, work: Work, part: Done, references: Mapping[str, np.ndarray]) -> list[Item]:
        members = [work.members[i][1] for i in part.positions]
        made = part.generated
        for item in members:
            item.seconds = round(item.seconds + made.seconds / len(members), 4)
        if made.paused:
            values = self._score(members, made.device_pixels if made.device_pixels is not None else made.pixels)[0]
            for position, paused, value in zip(part.positions, made.paused, values, strict=True):
                work.paused[position] = paused
                work.preview_scores[position] = value
            return []
        for row, item in enumerate(members):
            item.refused = made.refused[row] if made.refused else ""
            item.pixels = made.pixels[row]
        if keeps_product(members[0].request):
            self._lock_products(members, references)
            self._check_and_judge(members, _stack(members), None, made.finite)
        else:
            self._check_and_judge(members, made.pixels, made.device_pixels, made.finite)
        return members

    def _lock_products(self, members: Sequence[Item], references: Mapping[str, np.ndarray]) -> None:
        with self.stages.time("lock", len(members)):
            for item in members:
                assert item.pixels is not None
                locked = lock_candidate(item.pixels, item.request, references, self.config.gates)
                item.pixels, item.product, item.heat = locked.pixels, locked.verdicts, locked.heat

    def _check_and_judge(
        self, members: Sequence[Item], pixels: np.ndarray, device_pixels: Any, finite: np.ndarray | None = None
    ) -> None:
        import numpy as np

        request = members[0].request
        if finite is None:
            finite = np.ones(len(members), bool)
        with self.stages.time("gate", len(members)):
            verdicts = check_candidates(pixels, finite, (request.width, request.height), self.config.gates, self._gates)
        for item, rows in zip(members, verdicts, strict=True):
            if item.refused:
                # Said by the model itself: a reason beside the picture, never a silent black image.
                rows = [Verdict("safety", False, item.refused)]
            if all(v.passed for v in rows):
                rows = [*rows, *self._own_verdicts(item)]
            item.verdicts = rows
            item.passed = all(v.passed for v in rows)
        # A poor arm of an experiment says nothing of the night.
        new = [item for item in members if not (item.stored or item.plan.is_trial)]
        bad = sum(any(not v.passed and v.gate in BREAKER_GATES for v in item.verdicts) for item in new)
        self.breaker.count(len(new), bad)
        scores, embeddings = self._score(members, device_pixels if device_pixels is not None else pixels)
        for item, score, embedding in zip(members, scores, embeddings, strict=True):
            item.score, item.embedding = score, embedding

    def _own_verdicts(self, item: Item) -> list[Verdict]:
        """The verdicts of gates that only some requests have: kept products, seamless pictures."""
        axes = tileable_axes(item.request)
        assert item.pixels is not None
        return [*item.product, *([check_seam(item.pixels, axes, self.config.gates.seam)] if axes else [])]

    def _score(self, members: Sequence[Item], pixels: Any) -> tuple[list[float | None], np.ndarray]:
        """Scores (None where there is none) and embeddings (N, D) of pictures or previews."""
        with self._judging, self.stages.time("judge", len(members)):
            judged = self.engines.judge.judge(pixels, [item.prompt.rank_text for item in members])
        values = [float(value) for value in judged.scores]
        return [None if math.isnan(value) else value for value in values], judged.embeddings

    def _check_engine(self, failed: Sequence[Failed], num_made: int) -> None:
        """Stops a night in which every picture fails for one reason: that is the engine, not the requests."""
        with self._counting:
            self._num_made += num_made
            if self._num_made:
                return
            self._first_failed += failed
            tried = list(self._first_failed)
        reasons = {f.reason for f in tried}
        if len(tried) >= _GIVE_UP and len(reasons) == 1 and len({f.request.positive for f in tried}) > 1:
            raise EngineError(f"the first {len(tried)} requests failed in the same way: {reasons.pop()}")


def _same_shape(items: Sequence[Item]) -> list[list[Item]]:
    shapes: dict[Any, list[Item]] = {}
    for item in items:
        assert item.pixels is not None
        shapes.setdefault(item.pixels.shape, []).append(item)
    return list(shapes.values())


def _stack(items: Sequence[Item]) -> np.ndarray:
    import numpy as np

    return np.stack([item.pixels for item in items if item.pixels is not None])
