"""What publishing costs a run, whether files say what they should, and the memory of 10,000 published objects.

Runs with a config's channels (cut-outs, renditions, metadata, upload, catalog) alternate with runs that publish nothing
and cut nothing out, on the same loaded models, so that another load on the machine hits both. Then every published file
is read back, by our reader and by exiftool. Last, a process of its own publishes objects of simulated pictures while
its resident set is sampled.

    python benchmarks/publishing.py [--config FILE] [--alternations 4] [--objects 10000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from memory import resident_mib
from write import ROOT, save_figures

OBJECTS = """\
name: objects
seed: 3
candidates: 1
sheet: {path: sheet.csv, id: id}
prompts: {templates: [thing.j2]}
model: {engine: simulated, size: 128, steps: 1, batch: 16}
judge: {engine: simulated}
upscale: {engine: lanczos, scale: 2}
store: {url: out, options: {durability: process}}
run: {chunk: 128}
publish:
  channels:
    web:
      renditions:
        - {name: image, format: webp}
        - {name: small, size: 128, format: png}
        - {name: thumb, size: 64, format: jpeg}
        - {name: icon, size: 32, format: png}
"""
PER_ASSET = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "game-assets.yaml")
    parser.add_argument("--alternations", type=int, default=4)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        publish_here(options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = measure_runs(options.config, Path(folder), options.alternations)
    with tempfile.TemporaryDirectory() as folder:
        objects = measure_objects(Path(folder), options.objects)
    save_figures("publishing", {"run": run, "objects": objects})
    back = run["read_back"]
    print(f"publishing adds {run['adds']:+.1%}; {back['identical']} of {back['files']} files read back identical")
    print(f"{objects['objects']} objects: {objects['growth_mib']:+.0f} MiB, peak {objects['peak_mib']:.0f} MiB")


# --- a run with and without ---------------------------------------------------------------------------------


def measure_runs(config_path: Path, folder: Path, alternations: int) -> dict[str, Any]:
    from assetmill import pipeline
    from assetmill.config import StoreConfig, read_config
    from assetmill.engines.devices import set_threads

    def open_in(name: str, *, channels: bool) -> pipeline.Job:
        config = read_config(config_path)
        nothing = {"channels": {}, "feeds": {}}
        publish = config.publish if channels else config.publish.model_copy(update=nothing)
        store = StoreConfig(url=str(folder / name))
        return pipeline.open_job(config_path, config=config.model_copy(update={"store": store, "publish": publish}))

    job = open_in("engines", channels=True)
    engines = pipeline.load_engines(job)
    lanes = 1 + len(engines.lanes)
    threads = set_threads(job.config.run.threads, lanes)
    pipeline.run_job(open_in("warm", channels=True), engines=engines)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    work: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(alternations):
        # The first of a pair may find the machine cooler: each comes first as often as the other.
        for channels in (True, False) if turn % 2 == 0 else (False, True):
            opened = open_in(f"{turn}-{channels}", channels=channels)
            start, worked = time.perf_counter(), time.process_time()
            report = pipeline.run_job(opened, engines=engines, publish_now=channels)
            seconds[channels].append(time.perf_counter() - start)
            work[channels].append(time.process_time() - worked)
            if channels:
                published, job = report, opened
    ratios, work_ratios = ([a / b for a, b in zip(some[True], some[False], strict=True)] for some in (seconds, work))
    stages = published["stages"]
    return {
        "lanes": lanes,
        "threads": threads,
        "alternations": alternations,
        "pictures": published["pictures"],
        "assets": published["published"],
        "files": published["files"],
        "files_at_the_end": published["files_made"],
        "with": spread(seconds[True]),
        "without": spread(seconds[False]),
        "adds": statistics.median(ratios) - 1,
        "adds_work": statistics.median(work_ratios) - 1,
        "adds_low": min(ratios) - 1,
        "adds_high": max(ratios) - 1,
        "stages": {name: stages[name] for name in ("cut out", "render", "sign", "upload", "publish") if name in stages},
        "read_back": read_files_back(job),
    }


def read_files_back(job: Any) -> dict[str, Any]:
    """Reads every published file of a job: are texts and properties those that the catalog's facts give?"""
    from assetmill.deliver.facts import facts_of
    from assetmill.deliver.metadata import describe, read_back
    from assetmill.deliver.picture import PARAMETERS
    from assetmill.deliver.xmp import read_packet

    job.refresh()
    embeds = {name: channel.embed for name, channel in job.config.publish.channels.items()}
    files = identical = 0
    paths: list[str] = []
    sources: set[str] = set()
    for entry in job.catalog.iter_entries():
        facts = facts_of(entry, job.config.publish.provenance)
        sources.add(facts.digital_source)
        for file in entry.renditions:
            wanted = describe(facts, embeds.get(file.channel, "disclosure"))
            found = read_back(job.store.get(file.object_key))
            says = (found["xmp"], found["parameters"], found["problems"])
            files += 1
            identical += says == (read_packet(wanted.xmp), wanted.text.get(PARAMETERS, ""), [])
            paths.append(str(job.store.local_path(file.object_key)))
    return {"files": files, "identical": identical, "exiftool": ask_exiftool(paths, sources)}


def ask_exiftool(paths: list[str], sources: set[str]) -> int | None:
    """How many files exiftool finds a right digital source in; None where it is not installed."""
    import shutil

    if shutil.which("exiftool") is None:
        return None
    command = ["exiftool", "-j", "-n", "-XMP-iptcExt:DigitalSourceType", "-@", "-"]
    done = subprocess.run(command, input="\n".join(paths), capture_output=True, text=True, check=True)
    return sum(found.get("DigitalSourceType") in sources for found in json.loads(done.stdout))


# --- many objects -------------------------------------------------------------------------------------------


def measure_objects(folder: Path, objects: int) -> dict[str, Any]:
    """Makes the pictures, then publishes them in a process of its own that says what memory it had."""
    from assetmill import pipeline

    (folder / "config.yaml").write_text(OBJECTS)
    (folder / "thing.j2").write_text("---\nrank_text: a {{ thing }}\n---\na {{ colour }} {{ thing }}\n")
    lines = [f"{n:06d},thing{n % 97},colour{n}" for n in range(objects // PER_ASSET)]
    (folder / "sheet.csv").write_text("\n".join(["id,thing,colour", *lines]) + "\n")
    pipeline.run_job(pipeline.open_job(folder / "config.yaml"), publish_now=False)
    command = [sys.executable, __file__, "--child", str(folder / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    samples, total = facts.pop("samples"), facts["objects"]
    early = [mib for count, mib in samples if 0.1 * total <= count <= 0.3 * total]
    late = [mib for count, mib in samples if 0.8 * total <= count < total]
    marks = [min(samples, key=lambda s: abs(s[0] - share * total)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    return {
        **facts,
        "growth_mib": statistics.mean(late or [samples[-1][1]]) - statistics.mean(early or [samples[0][1]]),
        "marks": [{"objects": count, "mib": mib} for count, mib in marks],
    }


def publish_here(config: Path) -> None:
    """`assetmill publish` with its resident set sampled by objects stored."""
    from assetmill import pipeline

    samples: list[tuple[int, float]] = []
    ended = threading.Event()
    job = pipeline.open_job(config)
    start = time.perf_counter()
    with pipeline.begin_run(job, make_nothing=True) as run:

        def watch() -> None:
            while not ended.wait(0.1):
                samples.append((run.stages.count("upload"), resident_mib()))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        report = pipeline.finish_run(run)
        ended.set()
        watcher.join()
    samples.append((report["files"], resident_mib()))
    seconds = time.perf_counter() - start
    peak = max(mib for _, mib in samples)
    print(json.dumps({"samples": samples, "objects": report["files"], "seconds": seconds, "peak_mib": peak}))


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


if __name__ == "__main__":
    main()
