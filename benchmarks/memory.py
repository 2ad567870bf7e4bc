"""Memory of a run over many images: the process's resident set, sampled as the run goes on (simulated engine).

    python benchmarks/memory.py [--images 10000] [--size 256]

Everything but the model is real: sheet, plan, batches, gates, ranking, upscaling, encoding, store, catalog. The run is
a process of its own; it must not grow with the number of images.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from write import save_figures

CONFIG = """\
name: many
seed: 3
candidates: 8
sheet: {{path: sheet.csv, id: id}}
prompts: {{templates: [thing.j2]}}
model: {{engine: simulated, size: {size}, steps: 1, batch: 16}}
judge: {{engine: simulated}}
upscale: {{engine: lanczos, scale: 2}}
store: {{url: out, options: {{durability: process}}}}
run: {{chunk: 128}}
"""


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
    save_figures("memory", figures)
    print(f"{figures['images']} images, peak {figures['peak_mib']:.0f} MiB, growth {figures['growth_mib']:.0f} MiB")


def measure(images: int, size: int) -> dict[str, Any]:
    """Runs the night in a process of its own and reads what it says of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        write_production(Path(folder), images // 8, size)
        command = [sys.executable, __file__, "--child", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout.splitlines()[-1])
    samples = report["samples"]  # pairs of images done and MiB
    return {
        "images": report["pictures"],
        "assets": report["assets"],
        "size": size,
        "seconds": report["seconds"],
        "peak_mib": report["peak"],
        "growth_mib": growth_of(samples),
        "marks": marks_of(samples),
    }


def growth_of(samples: list[tuple[int, float]]) -> float:
    """MiB between the second tenth and the last fifth of the images; `samples` are pairs of images done and MiB."""
    last = samples[-1][0]
    early = [mib for done, mib in samples if 0.1 * last <= done <= 0.3 * last]
    late = [mib for done, mib in samples if 0.8 * last <= done < last]  # publishing loads pyarrow: see the peak
    return sum(late) / max(len(late), 1) - sum(early) / max(len(early), 1)


def marks_of(samples: list[tuple[int, float]]) -> list[dict[str, float]]:
    """The samples at a tenth, the quarters and the end."""
    last = samples[-1][0]
    marks = [min(samples, key=lambda s: abs(s[0] - share * last)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    return [{"images": done, "mib": mib} for done, mib in marks]


def write_production(folder: Path, rows: int, size: int) -> None:
    (folder / "config.yaml").write_text(CONFIG.format(size=size))
    (folder / "thing.j2").write_text("---\nrank_text: a {{ thing }}\n---\na {{ colour }} {{ thing }}\n")
    with (folder / "sheet.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "thing", "colour"])
        writer.writerows((f"{n:06d}", f"thing{n % 97}", f"colour{n}") for n in range(rows))


def run_here(folder: Path) -> None:
    from assetmill import pipeline

    samples: list[tuple[int, float]] = []
    ended = threading.Event()
    job = pipeline.open_job(folder / "config.yaml")
    runs: list[pipeline.Run] = []

    def watch() -> None:
        while not ended.wait(0.25):
            if runs:
                samples.append((runs[0].stages.count("generate"), resident_mib()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    report = pipeline.run_job(job, on_run=runs.append)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    samples.append((report["pictures"], resident_mib()))
    peak = max(mib for _, mib in samples)
    facts = {"samples": samples, "peak": peak, "seconds": seconds}
    print(json.dumps({**facts, "pictures": report["pictures"], "assets": report["assets"]}))


def resident_mib(process: int | str = "self") -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{process}/status does not say VmRSS")


if __name__ == "__main__":
    main()
