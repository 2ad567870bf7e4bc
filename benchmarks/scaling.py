"""How much faster several workers are: processes of one machine, and actors of a Ray cluster, on a simulated engine.

    python benchmarks/scaling.py [--workers 1 2 4 8] [--chunks 8] [--seconds 4]

The engine sleeps, so that eight workers fit on two cores: what is measured is what handing out, recording and booking
cost. Each worker gets as many chunks, whatever their number; speed-up is chunks per second over those of one worker,
from warm workers to the last record. Writes docs/figures/scaling.json and docs/performance.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from write import ROOT, save_figures

IMAGES = 32
"""Images of a chunk, in one batch."""

CONFIG = """
name: scaling
candidates: 4
sheet: {{path: sheet.csv, id: id}}
prompts: {{templates: [thing.j2]}}
model: {{engine: simulated, size: 16, steps: 1, batch: {images}, options: {{seconds: {seconds}}}}}
judge: {{engine: simulated}}
upscale: {{engine: nearest, scale: 2}}
store: {{url: store, options: {{durability: process}}}}
run: {{chunk: {images}, execution: {kind}, devices: {workers}, ray: {{cpus: 1}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--kinds", nargs="+", default=["processes", "ray"], choices=["processes", "ray"])
    parser.add_argument("--chunks", type=int, default=8, help="Chunks for each worker.")
    parser.add_argument("--seconds", type=float, default=4.0, help="Of simulated device work in a chunk.")
    parser.add_argument("--try", dest="trial", action="store_true", help="Print the figures, keep nothing.")
    options = parser.parse_args()
    logging.getLogger("assetmill").setLevel(logging.ERROR)
    figures = {
        "chunks_each": options.chunks,
        "chunk_seconds": options.seconds,
        "images_in_chunk": IMAGES,
        **{kind: measure(kind, options.workers, options.chunks, options.seconds) for kind in options.kinds},
    }
    if not options.trial:
        save_figures("scaling", figures)


def measure(kind: str, workers: list[int], chunks: int, seconds: float) -> list[dict[str, Any]]:
    """Seconds and speed-up for each number of workers; the first number is what the others are compared with."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, _cluster(max(workers)) if kind == "ray" else _nothing():
        for num in workers:
            place = Path(folder) / str(num)
            write_production(place, kind, num, chunks * num, seconds)
            took = (run_on_ray if kind == "ray" else run_processes)(place / "config.yaml", chunks * num)
            rate = chunks * num / took
            base = rows[0] if rows else {"workers": num, "rate": rate}
            speed_up = rate / base["rate"] * base["workers"]
            rows.append({"workers": num, "chunks": chunks * num, "seconds": took, "rate": rate, "speed_up": speed_up})
            print(f"{kind}: {num} workers, {chunks * num} chunks in {took:.2f} s, speed-up {speed_up:.2f}", flush=True)
    return rows


def write_production(folder: Path, kind: str, workers: int, num_chunks: int, seconds: float) -> None:
    """A sheet of that many chunks and its config."""
    folder.mkdir()
    settings = {"images": IMAGES, "seconds": seconds / IMAGES, "kind": kind, "workers": workers}
    (folder / "config.yaml").write_text(CONFIG.format(**settings))
    (folder / "thing.j2").write_text("a {{ thing }}\n")
    rows = "".join(f"{n:05d},thing {n}\n" for n in range(num_chunks * IMAGES // 4))
    (folder / "sheet.csv").write_text("id,thing\n" + rows)


def run_processes(config: Path, num_chunks: int) -> float:
    """Seconds from warm workers to the last record."""
    from assetmill import pipeline

    with pipeline.begin_run(pipeline.open_job(config)) as run, pipeline.open_workers(run, dispatch=False) as workers:
        start = time.perf_counter()
        workers.make_all()
        took = time.perf_counter() - start
        assert run.totals.chunks == num_chunks, run.reason
    return took


def run_on_ray(config: Path, num_chunks: int) -> float:
    """The same for a flow's chunks on the cluster that is connected."""
    from prefect import flow

    import produce

    with produce.live_run(config) as run:

        @flow(name="scaling", persist_result=False, log_prints=False)
        def make_all() -> float:
            start = time.perf_counter()
            problems = produce.make_chunks(run)
            assert not problems, problems[0]
            return time.perf_counter() - start

        took = float(make_all())
        assert run.totals.chunks == num_chunks, run.reason
    return took


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """A Prefect server and a Ray of this machine with a place for each worker, whatever its cores."""
    sys.path.insert(0, str(ROOT / "flows"))
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    from server import LocalServer

    with LocalServer() as server:
        os.environ["PREFECT_API_URL"] = server.wait()
        import ray

        import on_ray

        options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": on_ray.OBJECT_STORE_BYTES}
        ray.init("local", num_cpus=workers, log_to_driver=False, logging_level=logging.ERROR, **options)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    main()
