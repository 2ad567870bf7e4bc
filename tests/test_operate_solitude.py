"""Suspects of having killed the process are made with nothing else under way, however many tasks ask at once."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from assetmill.operate.produce import Chunk, ChunkResult
from assetmill.operate.solitude import Solitude
from assetmill.pipeline import begin_run, load_engines, make_one_chunk
from productions import Production, rows


def test_alone_is_alone() -> None:
    """Of sixty tasks in eight threads, those alone see nobody; the others do work side by side."""
    solitude, lock, random_ = Solitude(), threading.Lock(), random.Random(3)
    inside: list[bool] = []
    seen: list[tuple[bool, int]] = []

    def work(alone: bool) -> None:
        with solitude.alone() if alone else solitude.beside():
            with lock:
                inside.append(alone)
                seen.append((alone, len(inside)))
                assert len(inside) == 1 or not any(inside)
            time.sleep(0.005)
            with lock:
                inside.remove(alone)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, [random_.random() < 0.2 for _ in range(60)]))
    assert {n for alone, n in seen if alone} == {1}
    assert max(n for alone, n in seen if not alone) > 1


def test_a_suspects_chunk_waits_until_it_is_alone(tmp_path: Path) -> None:
    """An orchestrator that starts all chunks at once: the chunk marked `alone` never overlaps another one."""
    toys = Production(tmp_path, rows(6), {"run": {"chunk": 4}, "model": {"options": {"seconds": 0.01}}})
    job = toys.job()
    with begin_run(job) as run:
        chunks: tuple[Chunk, ...] = run.chunks
        run.chunks = (*chunks[:2], replace(chunks[2], alone=True), *chunks[3:])
        worker = run.worker(load_engines(job))
        spans: dict[int, tuple[float, float]] = {}
        process: Any = worker.process

        def timed(some: list[Chunk]) -> Any:
            began = time.monotonic()
            results: list[ChunkResult] = list(process(some))
            spans[run.chunks.index(some[0])] = (began, time.monotonic())
            return iter(results)

        worker.process = timed  # type: ignore[method-assign, assignment]
        with ThreadPoolExecutor(4) as threads:
            made = list(threads.map(lambda n: make_one_chunk(run, worker, n), range(len(chunks))))
        worker.close()
    assert all(made)
    began, ended = spans.pop(2)
    assert all(end <= began or begin >= ended for begin, end in spans.values())
