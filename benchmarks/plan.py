"""A plan over a large catalog: fills a folder and a bucket by the library's own writers, then times `assetmill plan`.

python benchmarks/plan.py [--rows 100000] [--candidates 8] [--folder DIR] [--fill-only] [--no-bucket]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from assetmill import pipeline
from assetmill.intake.plan import AssetPlan, chunk_key, make_chunks, requests_of
from assetmill.operate.settle import variant_key
from assetmill.records import (
    CandidateRecord,
    GateRecord,
    OutcomeRecord,
    Record,
    RequestRecord,
    ScoreRecord,
    VariantRecord,
    blob_key,
    content_key,
    request_keys,
)
from assetmill.storage.catalog import CatalogEntry, open_catalog
from assetmill.storage.index import open_index, write_segment
from write import save_figures

_GATES = ("nan", "size", "black", "flat")
_COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "brown", "pink")
_OBJECTS = ("potion", "sword", "shield", "gem", "coin", "key", "chest", "mug", "boot", "lamp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="work here and leave it filled")
    parser.add_argument("--fill-only", action="store_true", help="fill --folder and stop")
    parser.add_argument("--no-bucket", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Any] = {"rows": options.rows, "candidates": options.candidates}
        filled = folder / "filled.json"
        if filled.exists():  # a folder that was left filled is timed again
            config, figures = folder / "config.yaml", json.loads(filled.read_text())
        else:
            config = write_inputs(folder, options.rows, options.candidates)
            figures.update(fill_store(config))
            filled.write_text(json.dumps(figures))
        if options.fill_only:
            return
        changed = folder / "changed.yaml"
        changed.write_text(config.read_text().replace("sheet.csv", "changed.csv"))
        figures["plans"] = [
            {"store": "folder", "case": "unchanged", **time_plan(config)},
            {"store": "folder", "case": "a tenth of the rows changed", **time_plan(changed)},
        ]
        if not options.no_bucket:
            with bucket() as environment:
                copy_store(folder / "store", environment)
                for case, path in (("unchanged", config), ("a tenth of the rows changed", changed)):
                    figures["plans"].append({"store": "bucket", "case": case, **time_plan(path, environment)})
        save_figures("plan", figures)
        print(json.dumps(figures["plans"], indent=1))


def write_inputs(folder: Path, rows: int, candidates: int) -> Path:
    """A sheet of twelve columns, the same with every tenth row changed, a template and a config."""
    names = [
        "id",
        "name",
        "object",
        "colour",
        "pattern",
        "style",
        "ground",
        "rarity",
        "price",
        "weight",
        "notes",
        "tags",
    ]
    with (folder / "sheet.csv").open("w", newline="") as plain, (folder / "changed.csv").open("w", newline="") as other:
        writers = csv.writer(plain), csv.writer(other)
        for writer in writers:
            writer.writerow(names)
        for n in range(rows):
            row = [
                f"{n:06d}", f"Item {n} of the long shelf", _OBJECTS[n % 10], _COLOURS[n % 8], "plain", "flat", "white",
                "common", f"{n % 97}.50", n % 13, "kept dry, sold by the piece", "a, b, c",
            ]  # fmt: skip
            writers[0].writerow(row)
            writers[1].writerow([*row[:3], "cyan", *row[4:]] if n % 10 == 0 else row)
    (folder / "asset.j2").write_text(
        '---\nrank_text: "a {{ colour }} {{ object }}"\n---\n'
        "a {{ style }} icon of a {{ colour }} {{ object }}, {{ name }}\n"
    )
    config = folder / "config.yaml"
    config.write_text(
        f"name: large\ncandidates: {candidates}\nsheet: {{path: sheet.csv, id: id}}\n"
        "prompts: {templates: [asset.j2]}\nmodel: {engine: simulated}\njudge: {engine: simulated}\n"
        "upscale: {engine: lanczos, scale: 4}\nstore: {url: store}\npublish: {columns: [name, rarity]}\n"
    )
    return config


def fill_store(config: Path) -> dict[str, Any]:
    """Writes what a run over the whole sheet would have left: segments, index, catalog. Pictures are left out."""
    job = pipeline.open_job(config)
    plan = pipeline.plan_job(job)
    start = time.perf_counter()
    segments = 0
    entries: list[CatalogEntry] = []
    for part in make_chunks(plan.todo, job.config.run.chunk):
        records: list[Record] = []
        for asset in part:
            records.extend(_asset_records(job, asset, entries))
        write_segment(job.store, job.config.name, chunk_key(part), 0, records)
        segments += 1
    filled = time.perf_counter()
    open_index(job.store, job.config.name).compact(min_segments=1)
    folded = time.perf_counter()
    open_catalog(job.store, job.config.name).commit(entries, run="filled")
    end = time.perf_counter()
    return {
        "segments": segments,
        "fill_seconds": filled - start,
        "compact_seconds": folded - filled,
        "commit_seconds": end - folded,
    }


def _asset_records(job: pipeline.Job, plan: AssetPlan, entries: list[CatalogEntry]) -> Iterator[Record]:
    prompt = plan.prompts[0]
    request, seeds = requests_of(plan.asset, prompt, job.base, job.config, range(plan.num_candidates))
    keys = request_keys(request, seeds)
    judge = job.judge.key
    for index, (key, seed) in enumerate(zip(keys, seeds, strict=True)):
        blob = blob_key(key.encode())
        own = replace(request, seed=seed)
        yield RequestRecord(key, plan.asset.id, prompt.template, {}, index, prompt.rank_text, own)
        yield CandidateRecord(key, blob, "image/png", 64, 64, 0.3, {"torch": "2.15.0"})
        for gate in _GATES:
            yield GateRecord(key, gate, "candidate", True, "", 100.0)
        score = content_key("score", {"blob": blob, "judge": judge, "text": prompt.rank_text})
        yield ScoreRecord(score, key, blob, judge, prompt.rank_text, 0.25 + index / 100)
    best, blob = keys[-1], blob_key(keys[-1].encode())
    variant = VariantRecord(
        variant_key(blob, job.upscaler.key), plan.asset.id, best, blob, 1, 0.3, blob_key(blob.encode()), "image/png",
        256, 256, job.upscaler.key,
    )  # fmt: skip
    yield variant
    yield OutcomeRecord(
        plan.asset.id, "chosen", plan.work_key, plan.select_key, plan.meta_key, "", len(keys), (variant.key,)
    )
    own = replace(request, seed=seeds[-1])
    entry = CatalogEntry(
        asset_id=plan.asset.id,
        rank=1,
        variant_key=variant.key,
        request_key=best,
        blob=blob,
        master=variant.master,
        media_type="image/png",
        width=256,
        height=256,
        score=0.3,
        judge=judge,
        positive=own.positive,
        negative="",
        rank_text=prompt.rank_text,
        template=prompt.template,
        cell={},
        seed=own.seed,
        engine=own.engine,
        model=own.model,
        revision=own.revision,
        licence=job.model.licence,
        commercial=job.model.commercial,
        steps=own.steps,
        guidance=own.guidance,
        scheduler=own.scheduler,
        operation=own.operation,
        upscaler=job.upscaler.key,
        columns={"name": plan.asset.columns["name"], "rarity": "common"},
        object_key=f"published/master/{plan.asset.id}/{plan.asset.id}_1-{variant.master[:8]}.png",
        run="filled",
        created="2026-01-01T00:00:00+00:00",
        request=own.payload(),
        versions={},
        work_key=plan.work_key,
        select_key=plan.select_key,
        meta_key=plan.meta_key,
    )
    entries.append(entry)


def time_plan(config: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Wall time and peak memory of `assetmill plan` in a process of its own."""
    code = (
        "import resource, sys; sys.argv = ['assetmill', 'plan', sys.argv[1], '--json']\n"
        "from assetmill.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write('PEAK %d' % resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found = json.loads(done.stdout)
    peak = int(done.stderr.rpartition("PEAK ")[2]) / 1024
    return {"seconds": seconds, "peak_mib": peak, "candidates": found["candidates"], "unchanged": found["unchanged"]}


@contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """A moto server in a process of its own, on loopback; gives the environment that points a config at it."""
    import boto3

    port = 5057
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    environment = {
        "ASSETMILL_STORE__URL": "s3://large/store", "ASSETMILL_STORE__ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "ASSETMILL_STORE__REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    os.environ.update(environment)
    try:
        client = boto3.client("s3", endpoint_url=environment["ASSETMILL_STORE__ENDPOINT_URL"], region_name="us-east-1")
        for _ in range(60):
            try:
                client.create_bucket(Bucket="large")
                break
            except Exception:  # noqa: BLE001 - until the server answers
                time.sleep(0.5)
        yield environment
    finally:
        for name in environment:
            os.environ.pop(name, None)
        server.terminate()
        server.wait()


def copy_store(folder: Path, environment: dict[str, str]) -> None:
    """Puts every object of the folder into the bucket; segments too, as a real bucket would hold them."""
    from concurrent.futures import ThreadPoolExecutor

    from assetmill.config import StoreConfig
    from assetmill.storage.store import open_store

    target = open_store(
        StoreConfig(endpoint_url=environment["ASSETMILL_STORE__ENDPOINT_URL"], region="us-east-1"),
        environment["ASSETMILL_STORE__URL"],
    )
    source = open_store(StoreConfig(), str(folder))
    keys = [i.key for i in source.list("") if not i.key.startswith("locks/")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: target.put_if_absent(k, source.get(k)), keys))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    main()
