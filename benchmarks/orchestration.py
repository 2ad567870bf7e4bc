"""What Prefect adds: the same night as a flow and directly, on a simulated engine that takes its time.

    python benchmarks/orchestration.py [--seconds 512] [--alternations 1]

(flow - direct) / flow, the server up before either begins. The engine sleeps, so that the two may run at one time on
one machine; both are timed from the sheet to the last write.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import write_production
from write import ROOT, save_figures

IMAGES = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=512.0, help="Of simulated device work.")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--alternations", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_here(options.child[0], Path(options.child[1]))))
        return
    figures = measure(options.seconds, options.images, options.alternations)
    save_figures("orchestration", figures)
    print(f"orchestration {figures['share']:.4f} of the flow, {figures['images_per_task']:.0f} images a task")


def measure(seconds: float, images: int, alternations: int) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "flows"))
    from server import LocalServer

    direct, flow, tasks = [], [], 0
    with tempfile.TemporaryDirectory() as folder, LocalServer() as server:
        url = server.wait()
        for turn in range(alternations):
            children = {kind: _start(kind, Path(folder) / f"{kind}{turn}", seconds, images, url)
                        for kind in ("direct", "flow")}  # fmt: skip
            found = {kind: _result(child) for kind, child in children.items()}
            direct.append(found["direct"]["seconds"])
            flow.append(found["flow"]["seconds"])
            tasks = found["flow"]["tasks"]
            assert found["direct"]["pictures"] == found["flow"]["pictures"] == images
    shares = [(f - d) / f for f, d in zip(flow, direct, strict=True)]
    return {
        "images": images,
        "work_seconds": seconds,
        "direct_seconds": direct,
        "flow_seconds": flow,
        "share": statistics.median(shares),
        "tasks": tasks,
        "images_per_task": images / tasks,
    }


def _start(kind: str, folder: Path, seconds: float, images: int, url: str) -> subprocess.Popen[str]:
    folder.mkdir()
    write_production(folder, images // 8, 64)
    config = (folder / "config.yaml").read_text()
    config = config.replace("batch: 16}", f"batch: 16, options: {{seconds: {seconds / images}}}}}")
    (folder / "config.yaml").write_text(config)
    command = [sys.executable, __file__, "--child", kind, str(folder / "config.yaml")]
    environment = {**os.environ, "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _result(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"a child ended with {child.returncode}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def run_here(kind: str, config: Path) -> dict[str, Any]:
    from assetmill import pipeline
    from assetmill.operate.runs import list_runs

    if kind == "direct":
        start = time.perf_counter()
        report = pipeline.run_job(pipeline.open_job(config))
        seconds = time.perf_counter() - start
        tasks = 0
    else:
        sys.path.insert(0, str(ROOT / "flows"))
        import produce

        start = time.perf_counter()
        produce.produce(str(config), return_state=True)
        seconds = time.perf_counter() - start
        job = pipeline.open_job(config)
        (run,) = list_runs(job.store, job.config.name)
        report = run.report
        tasks = report["chunks"] + 1
    return {"seconds": seconds, "pictures": report["pictures"], "tasks": tasks}


if __name__ == "__main__":
    main()
