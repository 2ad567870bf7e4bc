"""Cutting candidates mid-way and adaptive rounds: who goes on, what is recorded, what the next night does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assetmill.engines.protocols import Engines
from assetmill.engines.simulated import SimulatedGenerator
from assetmill.pipeline import load_engines, open_job, plan_job, run_job, start_run
from assetmill.records import CandidateRecord, CutRecord, FailureRecord, InputError, OutcomeRecord, Request
from productions import Production, rows

CUT = {"candidates": 8, "cut": {"at": [0.25, 0.5], "keep": [0.5, 0.25]}, "model": {"steps": 8, "batch": 8}}


class Watched(SimulatedGenerator):
    """Notes each stretch: how many pictures, from which step, whether to a pause."""

    def __init__(self, *args: Any, **faults: Any) -> None:
        super().__init__(*args, **faults)
        self.stretches: list[tuple[int, int, float | None]] = []

    def generate_part(self, batch: Sequence[Request], **options: Any) -> Any:
        resume = options.get("resume")
        self.stretches.append((len(batch), resume[0].step if resume else 0, options.get("pause_at")))
        return super().generate_part(batch, **options)


def make(toys: Production, num_lanes: int = 1, **faults: Any) -> Watched:
    job = toys.job()
    run = start_run(job, plan_job(job))
    engines = load_engines(job)
    generator = Watched(job.model, **faults)
    lanes = tuple(Watched(job.model, **faults) for _ in range(num_lanes - 1))
    worker = run.worker(Engines(generator, engines.judge, engines.upscaler, lanes=lanes))
    try:
        list(worker.process(iter(run.chunks)))
    finally:
        worker.close()
    for lane in lanes:
        generator.stretches += lane.stretches
    return generator


def test_half_goes_on_and_half_of_that(tmp_path: Path) -> None:
    """Of eight candidates four go on after a quarter of the steps and two are finished, in full batches."""
    toys = Production(tmp_path, rows(4), {**CUT})
    generator = make(toys)
    assert Counter(generator.stretches) == {(8, 0, 0.25): 4, (8, 2, 0.5): 2, (8, 4, None): 1}
    cuts = [r for r in toys.records() if isinstance(r, CutRecord)]
    assert Counter(r.step for r in cuts) == {2: 16, 4: 8}
    assert all(r.value is not None and r.steps == 8 for r in cuts)
    assert len(toys.candidates()) == 8
    outcomes = [r for r in toys.records() if isinstance(r, OutcomeRecord)]
    assert {(o.status, o.num_candidates) for o in outcomes} == {("chosen", 8)}
    requests = toys.requests()
    assert {r.request_key for r in cuts} | {c.request_key for c in toys.candidates()} == set(requests)


def test_the_worst_are_dropped(tmp_path: Path) -> None:
    """Within an asset, no dropped candidate looked better at its cut than those that went on."""
    toys = Production(tmp_path, rows(3), {**CUT})
    make(toys)
    requests = toys.requests()
    for number in range(3):
        own = [
            r for r in toys.records()
            if isinstance(r, CutRecord) and requests[r.request_key].asset_id == f"{number:03d}"
        ]  # fmt: skip
        early = sorted(r.value or 0 for r in own if r.step == 2)
        late = [r.value or 0 for r in own if r.step == 4]
        assert len(early) == 4
        assert len(late) == 2


def test_the_report_tells_of_them(tmp_path: Path) -> None:
    """A person reads how many candidates were dropped mid-way."""
    import io

    from rich.console import Console

    from assetmill.operate.summary import show_report

    toys = Production(tmp_path, rows(2), {**CUT})
    page = io.StringIO()
    show_report(Console(file=page, width=100), toys.run(), {})
    assert "cut mid-way" in page.getvalue()
    assert " 12 " in page.getvalue()


def test_the_next_night_knows_them(tmp_path: Path) -> None:
    """Dropped candidates are not made again; turned off, cutting gives way to all of them."""
    toys = Production(tmp_path, rows(3), {**CUT})
    first = toys.run()
    assert (first["pictures"], first["cut"]) == (6, 18)
    assert toys.states() == {"unchanged": 3}
    toys.change(select={"keep": 2})  # chosen again, among those that were finished
    assert toys.run()["pictures"] == 0
    toys.change(cut={"at": [], "keep": []})
    third = toys.run()
    assert (third["pictures"], third["cut"]) == (18, 0)
    toys.check_whole()


def test_keep_is_honoured(tmp_path: Path) -> None:
    """However hard the cuts, as many as `select.keep` reach the end."""
    toys = Production(tmp_path, rows(2), {**CUT, "select": {"keep": 3, "near_duplicate": None}})
    assert toys.run()["pictures"] == 6
    assert len(toys.published()) == 6


def test_failures_do_not_hold_a_race_up(tmp_path: Path) -> None:
    """Candidates that fail on the way leave the others to be cut and finished."""
    toys = Production(tmp_path, rows(5), {**CUT, "gates": {"max_rejected": 1.0}})
    make(toys, fail=0.3)
    failed = {r.request_key for r in toys.records() if isinstance(r, FailureRecord)}
    made = {r.request_key for r in toys.records() if isinstance(r, CandidateRecord)}
    cut = {r.request_key for r in toys.records() if isinstance(r, CutRecord)}
    assert cut | made | failed >= set(toys.requests())
    assert not cut & made
    assert {o.status for o in toys.records() if isinstance(o, OutcomeRecord)} == {"chosen"}


def test_a_rejected_finalist_is_made_good(tmp_path: Path) -> None:
    """Where the gates reject all that were finished, further seeds are made as without cutting."""
    toys = Production(tmp_path, rows(6), {**CUT, "gates": {"max_rejected": 1.0}})
    make(toys, black=0.6)
    outcomes = [r for r in toys.records() if isinstance(r, OutcomeRecord)]
    assert {o.status for o in outcomes} == {"chosen"}
    assert max(o.num_candidates for o in outcomes) > 8


def test_out_of_memory_between_cuts(tmp_path: Path) -> None:
    """Survivors that don't fit together are halved like any batch, and give the same pictures."""
    plain = Production(tmp_path / "a", rows(3), {**CUT})
    tight = Production(tmp_path / "b", rows(3), {**CUT})
    make(plain)
    make(tight, oom_above=3)
    assert {c.request_key: c.blob for c in tight.candidates()} == {c.request_key: c.blob for c in plain.candidates()}


def test_lanes_give_the_same(tmp_path: Path) -> None:
    """Three copies of the engine side by side make, cut and choose what one does."""
    one = Production(tmp_path / "a", rows(9), {**CUT, "run": {"chunk": 24}})
    three = Production(tmp_path / "b", rows(9), {**CUT, "run": {"chunk": 24}})
    make(one)
    make(three, num_lanes=3, seconds=0.002)
    assert {c.request_key: c.blob for c in one.candidates()} == {c.request_key: c.blob for c in three.candidates()}
    assert {r.key for r in one.requests().values()} == {r.key for r in three.requests().values()}
    three.check_whole()


def test_bad_schedules_are_refused(tmp_path: Path) -> None:
    """Cuts and shares that don't fit together are refused with the key they stand under."""
    for cut in (
        {"at": [0.5], "keep": []},
        {"at": [0.5, 0.25], "keep": [0.5, 0.25]},
        {"at": [0.2, 0.4], "keep": [0.2, 0.4]},
    ):
        toys = Production(tmp_path, rows(1), {"cut": cut})
        with pytest.raises(InputError, match="cut"):
            open_job(toys.path)


def test_cutting_and_adaptive_rounds_exclude_each_other(tmp_path: Path) -> None:
    """Both at once are refused with the reason."""
    toys = Production(tmp_path, rows(1), {**CUT, "adaptive": True})
    with pytest.raises(InputError, match="do not go together"):
        open_job(toys.path)


# --- adaptive rounds ----------------------------------------------------------------------------------------


def test_adaptive_rounds_spend_the_same_budget(tmp_path: Path) -> None:
    """As many pictures as with equal shares, at least half of `candidates` for each, more for some than for others."""
    toys = Production(tmp_path, rows(8), {"candidates": 8, "adaptive": True, "run": {"chunk": 64}})
    report = toys.run()
    assert report["pictures"] == 64
    counts = Counter(r.asset_id for r in toys.requests().values())
    assert min(counts.values()) >= 4
    assert len(set(counts.values())) > 1
    assert toys.states() == {"unchanged": 8}
    assert run_job(toys.job())["pictures"] == 0


def test_adaptive_raises_the_mean_best(tmp_path: Path) -> None:
    """Over forty assets the mean best score is above that of equal shares, for the same number of pictures."""
    settings = {"candidates": 8, "run": {"chunk": 320}}
    equal = Production(tmp_path / "a", rows(40), settings)
    adaptive = Production(tmp_path / "b", rows(40), {**settings, "adaptive": True})
    assert equal.run()["pictures"] == adaptive.run()["pictures"] == 320

    def mean_best(toys: Production) -> float:
        return sum(e.score or 0 for e in toys.catalog.iter_entries()) / 40

    assert mean_best(adaptive) > mean_best(equal)


def test_turning_adaptive_on_makes_nothing_over_a_full_catalog(tmp_path: Path) -> None:
    """Candidates of an earlier night with equal shares count for the rounds."""
    toys = Production(tmp_path, rows(4), {"candidates": 8, "run": {"chunk": 32}})
    toys.run()
    toys.change(adaptive=True)
    assert toys.run()["pictures"] == 0
