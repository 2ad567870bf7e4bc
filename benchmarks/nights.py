"""One night of many images in one flow: the memory of its process, and how its Prefect server bears it.

    python benchmarks/nights.py [--images 10000] [--size 256]

The engine is simulated, all else is real. The flow is a process of its own, which must not grow with the number of
images; the server is another, asked every half second for the flow's state, as its UI does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from memory import growth_of, marks_of, resident_mib, write_production
from write import ROOT, save_figures

INTERVAL = 0.5
"""Seconds between two questions to the server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_here(options.child)
        return
    figures = measure(options.images, options.size)
    save_figures("nights", figures)
    server = figures["server"]
    print(
        f"{figures['images']} images in {figures['seconds']:.0f} s: the flow grew by {figures['growth_mib']:.0f} MiB; "
        f"the server failed {server['failed']} of {server['asked']} questions, slowest answer {server['slowest']:.2f} s"
    )


def measure(images: int, size: int) -> dict[str, Any]:
    """Runs the night as a flow in a process of its own, and watches the server meanwhile."""
    sys.path.insert(0, str(ROOT / "flows"))
    from server import LocalServer

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ["PREFECT_HOME"] = str(Path(folder) / "prefect")  # a database of its own
        server = stack.enter_context(LocalServer(services=True))
        url = server.wait()
        write_production(Path(folder), images // 8, size)
        command = [sys.executable, __file__, "--child", folder]
        environment = {**os.environ, "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert server._process is not None
        watch = Watch(url, server._process.pid)
        with watch:
            out, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"the flow's process ended with {child.returncode}")
        task_runs = _ask(url, "task_runs/count")
        (state,) = {run["state"]["name"] for run in _ask(url, "flow_runs/filter")}
    report = json.loads(out.splitlines()[-1])
    samples = report["samples"]  # pairs of images done and MiB
    return {
        "images": report["pictures"],
        "assets": report["assets"],
        "size": size,
        "seconds": report["seconds"],
        "state": state,
        "tasks": task_runs,
        "images_per_task": report["pictures"] / task_runs,
        "peak_mib": max(mib for _, mib in samples),
        "growth_mib": growth_of(samples),
        "marks": marks_of(samples),
        "server": watch.figures(),
    }


class Watch:
    """Asks a server while the block is open, and notes how long answers take and how large its process is."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._pid = url, pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seconds: list[float] = []
        self.mib: list[float] = []
        self.failed = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def figures(self) -> dict[str, Any]:
        tenth = max(len(self.mib) // 10, 1)
        return {
            "asked": len(self.seconds) + self.failed,
            "failed": self.failed,
            "median": statistics.median(self.seconds),
            "slowest": max(self.seconds),
            "first_mib": statistics.mean(self.mib[:tenth]),
            "last_mib": statistics.mean(self.mib[-tenth:]),
        }

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            start = time.perf_counter()
            try:
                _ask(self._url, "flow_runs/filter")
            except (urllib.error.URLError, OSError):
                self.failed += 1
            else:
                self.seconds.append(time.perf_counter() - start)
            self.mib.append(resident_mib(self._pid))


def run_here(folder: Path) -> None:
    """The flow, in this process: prints samples of its memory as one JSON line."""
    sys.path.insert(0, str(ROOT / "flows"))
    import produce
    from assetmill.operate.runs import list_runs
    from assetmill.pipeline import open_job

    samples: list[tuple[int, float]] = []
    ended = threading.Event()

    def watch() -> None:
        told = 0
        while not ended.wait(0.25):
            for live in list(produce._LIVE.values()):
                done = live.counter.done
                samples.append((done, resident_mib()))
                if done >= told + 1000:
                    told = done - done % 1000
                    sys.stderr.write(f"{told} images, {samples[-1][1]:.0f} MiB\n")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    produce.produce(str(folder / "config.yaml"), return_state=True)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    job = open_job(folder / "config.yaml")
    (run,) = list_runs(job.store, job.config.name)
    facts = {name: run.report[name] for name in ("pictures", "assets")}
    print(json.dumps({"samples": samples, "seconds": seconds, **facts}))


def _ask(url: str, path: str) -> Any:
    request = urllib.request.Request(f"{url}/{path}", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    main()
