"""Requests through a generator in batches: each gives one picture or one failure, whatever goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.config import ModelConfig
from assetmill.engines.batching import Done, Failed, bucketed, generate_all
from assetmill.engines.protocols import EngineError, Step
from assetmill.engines.simulated import SimulatedGenerator, draw, resolve_simulated
from assetmill.records import Request

SPEC = resolve_simulated(ModelConfig(engine="simulated"))


def make_requests(count: int, **changes: Any) -> list[Request]:
    first = Request("simulated", 1, SPEC.id, SPEC.revision, "a mug", 0, 16, 16, steps=2, guidance=2.0)
    return [replace(first, seed=seed, positive=f"a mug <{seed}>", **changes) for seed in range(count)]


def run(generator: Any, requests: list[Request], **options: Any) -> tuple[dict[int, Any], list[Failed], list[int]]:
    pictures: dict[int, Any] = {}
    sizes: list[int] = []

    def on_done(done: Done) -> None:
        sizes.append(len(done.positions))
        for row, position in enumerate(done.positions):
            assert position not in pictures
            assert done.requests[row] is requests[position]
            pictures[position] = done.generated.pixels[row]

    failed = generate_all(generator, requests, on_done=on_done, **options)
    return pictures, failed, sizes


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 20), batch=st.integers(1, 9), above=st.none() | st.integers(1, 6),
    bad=st.sets(st.integers(0, 19), max_size=4),
)  # fmt: skip
def test_every_request_once(count: int, batch: int, above: int | None, bad: set[int]) -> None:
    """Whatever the batch size, the memory and the poison items, each request gives its picture or a reason, once."""
    requests = make_requests(count)
    bad = {b for b in bad if b < count}

    class Picky(SimulatedGenerator):
        def generate(self, batch: Any, **options: Any) -> Any:
            if any(request.seed in bad for request in batch):
                raise EngineError(f"poison in a batch of {len(batch)}")
            return super().generate(batch, **options)

    pictures, failed, sizes = run(Picky(SPEC, oom_above=above), requests, batch=batch)
    assert {f.position for f in failed} == bad
    assert sorted(pictures) == sorted(set(range(count)) - bad)
    assert all(f.kind == "poison" and "batch of 1" in f.reason for f in failed)
    assert all(size <= min(batch, above or batch) for size in sizes)
    for position, picture in pictures.items():
        np.testing.assert_array_equal(picture, draw(requests[position]))


def test_out_of_memory_halves_and_stays_halved() -> None:
    """After running out of memory the batch is halved and later batches of the bucket start at the smaller size."""
    generator = SimulatedGenerator(SPEC, oom_above=3)
    pictures, failed, sizes = run(generator, make_requests(20), batch=16)
    assert not failed
    assert len(pictures) == 20
    assert sizes == [2] * 10


def test_out_of_memory_at_one() -> None:
    """When not even one picture fits, each request fails as transient with the reason, until it is seen as hopeless."""
    _, failed, _ = run(SimulatedGenerator(SPEC, oom_above=0), make_requests(4))
    assert [(f.kind, "above 0" in f.reason) for f in failed] == [("transient", True)] * 4
    with pytest.raises(EngineError, match="simulated batch of 1 is above 0"):
        run(SimulatedGenerator(SPEC, oom_above=0), make_requests(40))


def test_buckets() -> None:
    """Requests of different settings never share a batch; all come back at their own positions."""
    requests = [r for pair in zip(make_requests(5), make_requests(5, steps=3), strict=True) for r in pair]
    assert bucketed(requests) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    pictures, failed, sizes = run(SimulatedGenerator(SPEC), requests, batch=4)
    assert sizes == [4, 1, 4, 1]
    assert len(pictures) == 10
    assert not failed


def test_broken_engine_is_not_a_thousand_poison_items() -> None:
    """An engine that fails at everything in the same way raises instead of marking every request as poison."""

    class Broken(SimulatedGenerator):
        def generate(self, batch: Any, **options: Any) -> Any:
            raise RuntimeError("no kernel image")

    with pytest.raises(EngineError, match="first 16 requests failed in the same way: RuntimeError: no kernel image"):
        run(Broken(SPEC), make_requests(100), batch=8)


def test_only_refusals_are_poison() -> None:
    """What the engine refuses is not tried again; an unforeseen exception is, for it may be the library's fault."""

    class Odd(SimulatedGenerator):
        def generate(self, batch: Any, **options: Any) -> Any:
            if any(request.seed == 1 for request in batch):
                raise AttributeError("'Pipeline' object has no attribute 'unet'")
            return super().generate(batch, **options)

    _, failed, _ = run(Odd(SPEC, poison="<2>"), make_requests(4))
    assert [(f.position, f.kind) for f in failed] == [(1, "transient"), (2, "poison")]
    assert failed[0].reason.startswith("AttributeError: ")


def test_hung_device() -> None:
    """A batch that never returns fails as transient after its time, and so does what is left, without a long wait."""
    generator = SimulatedGenerator(SPEC, hang="<5>")
    pictures, failed, _ = run(generator, make_requests(9), batch=2, timeout=0.2)
    assert sorted(pictures) == [0, 1, 2, 3]
    assert {f.position for f in failed} == {4, 5, 6, 7, 8}
    assert all(f.kind == "transient" and "model.timeout" in f.reason for f in failed)


def test_slow_batch_recovers() -> None:
    """A batch that comes back late is dropped, and the others go on."""

    class Slow(SimulatedGenerator):
        def generate(self, batch: Any, **options: Any) -> Any:
            self.seconds = 0.6 if batch[0].seed == 2 else 0.0
            return super().generate(batch, **options)

    pictures, failed, _ = run(Slow(SPEC), make_requests(6), batch=1, timeout=0.4)
    assert [f.position for f in failed] == [2]
    assert sorted(pictures) == [0, 1, 3, 4, 5]


def test_caller_errors_pass_through() -> None:
    """An exception of `on_done` is not taken for a failure of the batch; an interrupt of the engine passes through."""

    def full(done: Done) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        generate_all(SimulatedGenerator(SPEC), make_requests(3), on_done=full)

    class Stopped(SimulatedGenerator):
        def generate(self, batch: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

    for timeout in (None, 5.0):
        with pytest.raises(KeyboardInterrupt):
            run(Stopped(SPEC), make_requests(3), timeout=timeout)


def test_on_step_knows_its_batch() -> None:
    """A watcher is told which requests the batch holds, also after halving."""
    seen: list[tuple[int, ...]] = []

    def on_step(requests: Any, step: Step) -> list[int]:
        seen.append(tuple(r.seed for r in requests))
        return [0]

    _, failed, _ = run(SimulatedGenerator(SPEC, oom_above=2), make_requests(4), batch=4, on_step=on_step)
    assert not failed
    assert seen == [(0, 1), (0, 1), (2, 3), (2, 3)]
