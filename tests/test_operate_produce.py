"""The chunk worker: full batches over chunk borders, budgets of extra seeds, faults that stay with their item."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.engines.protocols import Engines, Judged
from assetmill.engines.simulated import SimulatedGenerator, SimulatedJudge
from assetmill.operate.produce import BreakerTripped, ChunkResult, ChunkWorker
from assetmill.pipeline import load_engines, plan_job, start_run
from assetmill.records import CandidateRecord, FailureRecord, GateRecord, OutcomeRecord, Request, ScoreRecord
from productions import Production, rows


class Watched(SimulatedGenerator):
    """Notes its batches."""

    def __init__(self, *args: Any, **faults: Any) -> None:
        super().__init__(*args, **faults)
        self.batches: list[tuple[Request, ...]] = []

    def generate(self, batch: Sequence[Request], **options: Any) -> Any:
        made = super().generate(batch, **options)
        self.batches.append(tuple(batch))
        return made


def make(
    toys: Production, judge: Any = None, stop: threading.Event | None = None, force: bool = False, **faults: Any
) -> tuple[list[ChunkResult], Watched]:
    """Makes all that is planned, without publishing."""
    job = toys.job(force=force)
    run = start_run(job, plan_job(job))
    engines = load_engines(job)
    generator = Watched(job.model, **faults)
    batch = job.config.model.batch or 8
    worker = ChunkWorker(
        job.store, job.config, job.base, Engines(generator, judge or engines.judge, engines.upscaler), job.index,
        run_id=run.id, batch=batch, stop=stop, force=force,
    )  # fmt: skip
    try:
        return list(worker.process(iter(run.chunks))), generator
    finally:
        worker.close()


def outcomes(toys: Production) -> dict[str, OutcomeRecord]:
    return {r.asset_id: r for r in toys.records() if isinstance(r, OutcomeRecord)}


# --- batches ------------------------------------------------------------------------------------------------


def test_batches_fill_over_chunk_borders(tmp_path: Path) -> None:
    """Chunks smaller than a batch share one: only the last batch may be short."""
    toys = Production(tmp_path, rows(7), {"run": {"chunk": 4}, "model": {"batch": 6}})
    results, generator = make(toys)
    assert [len(b) for b in generator.batches] == [6, 6, 6, 6, 4]
    assert [r.pictures for r in results] == [4] * 7
    assert sorted(r.key for r in results) == sorted({r.key for r in results})


def test_sizes_make_their_own_batches(tmp_path: Path) -> None:
    """Images of different sizes never share a batch, and none is left out."""
    sheet = [{**row, "size": size} for row, size in zip(rows(6), ("16", "24", "16", "24", "16", "24"), strict=True)]
    toys = Production(tmp_path, sheet, {"sheet": {"overrides": {"size": "size"}}, "model": {"batch": 8}})
    _, generator = make(toys)
    assert all(len({r.bucket for r in batch}) == 1 for batch in generator.batches)
    assert sum(len(b) for b in generator.batches) == 24
    assert max(len(b) for b in generator.batches) == 8
    assert {(c.width, c.height) for c in toys.candidates()} == {(16, 16), (24, 24)}


def test_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    """Where a batch does not fit, smaller ones give the same pictures."""
    plain = Production(tmp_path / "a", rows(3))
    tight = Production(tmp_path / "b", rows(3))
    make(plain)
    _, generator = make(tight, oom_above=3)
    assert max(len(b) for b in generator.batches) <= 3
    assert {c.request_key: c.blob for c in tight.candidates()} == {c.request_key: c.blob for c in plain.candidates()}


def test_segment_per_chunk(tmp_path: Path) -> None:
    """Each chunk leaves one segment, and every blob in it was stored before."""
    toys = Production(tmp_path, rows(4), {"run": {"chunk": 8}})
    results, _ = make(toys)
    keys = [i.key.split("/")[2] for i in toys.store.list("records/")]
    assert sorted(keys) == sorted(r.key for r in results)
    toys.check_whole()


def test_slow_store_holds_the_device_back(tmp_path: Path) -> None:
    """While records are slow to be written, a finished chunk waits for its own, and two batches are on their way."""

    class Slow:
        def __init__(self, store: Any) -> None:
            self.store, self.unrecorded, self.most = store, 0, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def put_if_absent(self, key: str, data: bytes, **options: Any) -> Any:
            if key.endswith(".jsonl"):
                time.sleep(0.1)
                self.unrecorded -= 4
            return self.store.put_if_absent(key, data, **options)

    toys = Production(tmp_path, rows(10), {"run": {"chunk": 4}, "model": {"batch": 4}})
    job = toys.job()
    slow = Slow(job.store)
    job.store = slow  # type: ignore[assignment]

    class Counted(SimulatedGenerator):
        def generate(self, batch: Sequence[Request], **options: Any) -> Any:
            slow.unrecorded += len(batch)
            slow.most = max(slow.most, slow.unrecorded)
            return super().generate(batch, **options)

    engines = load_engines(job)
    run = start_run(job, plan_job(job))
    worker = run.worker(Engines(Counted(job.model), engines.judge, engines.upscaler))
    assert len(list(worker.process(iter(run.chunks)))) == 10
    worker.close()
    assert slow.most <= 12


# --- gates and extra seeds ----------------------------------------------------------------------------------


def test_rejects_are_made_good(tmp_path: Path) -> None:
    """A rejected candidate costs one extra seed where too few passed, and keeps its reason."""
    toys = Production(tmp_path, rows(8), {"candidates": 1, "gates": {"max_rejected": 1.0, "regenerate": 6}})
    results, _ = make(toys, black=0.4)
    rejected = [r for r in toys.records() if isinstance(r, GateRecord) and not r.passed]
    assert rejected
    assert {r.gate for r in rejected} == {"black"}
    assert all(r.reason.startswith("black: no pixel is brighter") for r in rejected)
    assert sum(r.pictures for r in results) == 8 + len(rejected), "one more for each reject, and none besides"
    assert {o.status for o in outcomes(toys).values()} == {"chosen"}


def test_budget_of_extra_seeds(tmp_path: Path) -> None:
    """When nothing passes, the extra seeds end with the budget, and the outcome says why."""
    toys = Production(tmp_path, rows(2), {"gates": {"max_rejected": 1.0, "regenerate": 0.5}})
    results, generator = make(toys, flat=1.0)
    assert generator.num_images == 2 * (4 + 2)
    assert results[0].rejected == 12
    found = outcomes(toys)["000"]
    assert (found.status, found.num_candidates) == ("exhausted", 6)
    assert found.reason == "none of 6 candidates passed: 6 × flat"


def test_no_extra_seeds(tmp_path: Path) -> None:
    """`regenerate: 0` makes what was asked for and no more."""
    toys = Production(tmp_path, rows(2), {"gates": {"max_rejected": 1.0, "regenerate": 0}})
    assert make(toys, nan=1.0)[1].num_images == 8
    assert outcomes(toys)["001"].status == "exhausted"


def test_budget_is_not_spent_twice(tmp_path: Path) -> None:
    """What an earlier run spent of an asset's budget is spent: more candidates get no second budget."""
    toys = Production(tmp_path, rows(1), {"candidates": 2, "gates": {"max_rejected": 1.0}})
    assert make(toys, black=1.0)[1].num_images == 4
    toys.change(candidates=3)  # a budget of 3: indices 3 to 5, of which 3 was used
    assert make(toys, black=1.0)[1].num_images == 2
    assert outcomes(toys)["000"].num_candidates == 6


def test_near_duplicates_are_chosen_once(tmp_path: Path) -> None:
    """Of pictures that look alike one is chosen; no extra seeds are spent on that."""

    class Alike(SimulatedJudge):
        def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
            found = super().judge(pixels, texts)
            return Judged(found.scores, np.tile(np.eye(1, 8, dtype=np.float32), (len(texts), 1)))

    toys = Production(tmp_path, rows(2), {"select": {"keep": 3}})
    results, generator = make(toys, judge=Alike())
    assert generator.num_images == 8
    assert results[0].chosen == 2
    toys.change(select={"keep": 3, "near_duplicate": None})
    results, generator = make(toys, judge=Alike())
    assert (generator.num_images, results[0].chosen) == (0, 6)


def test_breaker(tmp_path: Path) -> None:
    """More than the allowed share of black pictures, over at least 32, stops everything."""
    toys = Production(tmp_path, rows(24))
    with pytest.raises(BreakerTripped, match=r"\d+ of \d+ images are black, flat or NaN, more than.*\(20%\)"):
        make(toys, black=0.5)
    few = Production(tmp_path / "few", rows(6), {"gates": {"regenerate": 0}})
    assert make(few, black=1.0)[1].num_images == 24


def test_breaker_ignores_earlier_nights(tmp_path: Path) -> None:
    """Rejects of earlier nights, read back to be ranked, don't count against tonight's model."""
    toys = Production(tmp_path, rows(12), {"gates": {"max_rejected": 1.0, "regenerate": 0}})
    make(toys, black=0.6)
    toys.change(gates={"max_rejected": 0.1}, candidates=5)
    make(toys)
    assert len(toys.candidates()) == 60


# --- items that fail ----------------------------------------------------------------------------------------


def test_poison_becomes_a_record(tmp_path: Path) -> None:
    """An item that the engine refuses becomes a record with its reason; its neighbours are made."""
    toys = Production(tmp_path, rows(4))
    results, _ = make(toys, poison="red2")
    assert sum(r.failed for r in results) == 8, "the extra seeds were refused, too"
    failures = [r for r in toys.records() if isinstance(r, FailureRecord)]
    assert {(f.kind, "simulated poison" in f.reason) for f in failures} == {("poison", True)}
    found = outcomes(toys)
    assert (found["002"].status, found["001"].status) == ("failed", "chosen")
    assert "simulated poison" in found["002"].reason
    _, again = make(toys)
    assert again.num_images == 0


def test_some_failures(tmp_path: Path) -> None:
    """An asset some of whose candidates failed is chosen from the others."""
    toys = Production(tmp_path, rows(6))
    make(toys, fail=0.3)
    assert {o.status for o in outcomes(toys).values()} == {"chosen"}
    made = {c.request_key for c in toys.candidates()}
    failed = {r.request_key for r in toys.records() if isinstance(r, FailureRecord)}
    assert failed
    assert not made & failed


def test_transient_failures_are_tried_by_the_next_run(tmp_path: Path) -> None:
    """Out of memory at batch 1 fails for tonight only: the next run makes it."""
    toys = Production(tmp_path, rows(2))
    make(toys, oom_above=0)
    assert {o.status for o in outcomes(toys).values()} == {"transient"}
    assert toys.states() == {"new": 2}
    make(toys)
    assert {o.status for o in outcomes(toys).values()} == {"chosen"}
    toys.check_whole()


def test_forced(tmp_path: Path) -> None:
    """Forced, refused items are tried again, and an exhausted asset gets its budget again."""
    toys = Production(tmp_path, rows(2), {"candidates": 2, "gates": {"max_rejected": 1.0}})
    make(toys, poison="red0", black=1.0)
    assert {a: o.status for a, o in outcomes(toys).items()} == {"000": "failed", "001": "exhausted"}
    _, generator = make(toys, force=True)
    assert {a: o.status for a, o in outcomes(toys).items()} == {"000": "chosen", "001": "chosen"}
    assert generator.num_images == 4 + 1


# --- what earlier runs left ---------------------------------------------------------------------------------


def test_earlier_candidates_are_ranked_again(tmp_path: Path) -> None:
    """New candidates compete with those of earlier nights, which keep their scores and are not stored again."""
    toys = Production(tmp_path, rows(1), {"candidates": 2})
    make(toys)
    first = {r.request_key: r.value for r in toys.records() if isinstance(r, ScoreRecord)}
    toys.change(candidates=6)
    make(toys)
    scores = [r for r in toys.records() if isinstance(r, ScoreRecord)]
    assert len(scores) == 6
    assert {r.request_key: r.value for r in scores}.items() >= first.items()
    (chosen,) = [r for r in toys.records() if r.record == "variant"][-1:]
    assert chosen.score == max(r.value for r in scores if r.value is not None)


def test_stop_drops_what_is_not_whole(tmp_path: Path) -> None:
    """Told to stop, the worker ends the batch on the device and begins no other; whole chunks are kept."""
    toys = Production(tmp_path, rows(8), {"run": {"chunk": 4}, "model": {"batch": 4}})
    stop = threading.Event()
    stop.set()
    results, generator = make(toys, stop=stop)
    assert (results, generator.num_images) == ([], 0)
    assert not toys.records()


def test_records_of_an_image(tmp_path: Path) -> None:
    """A candidate leaves its request, blob, size, versions, verdicts and score."""
    toys = Production(tmp_path, rows(1), {"candidates": 1})
    make(toys)
    kinds = [r.record for r in toys.records()]
    assert kinds == ["request", "candidate", "gate", "gate", "gate", "gate", "score", "variant", "outcome"]
    candidate = next(r for r in toys.records() if isinstance(r, CandidateRecord))
    assert (candidate.width, candidate.height, candidate.media_type) == (16, 16, "image/webp")
    assert candidate.versions == {"simulated": "1"}


def test_webp(tmp_path: Path) -> None:
    """With one format for candidates and files, it is that of every stored picture."""
    toys = Production(tmp_path, rows(1), {"publish": {"format": "webp"}, "run": {"candidates": "webp"}})
    make(toys)
    assert {c.media_type for c in toys.candidates()} == {"image/webp"}
    assert all(i.key.endswith((".webp", ".txt", ".csv")) for i in toys.store.list("blobs/"))
