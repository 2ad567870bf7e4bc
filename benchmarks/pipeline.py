"""How close a whole run comes to its models alone: P / F on the demo, time by stage, images per second.

F is the time of the pure denoiser, VAE and upscaler forwards at the same batch on the same work list, prompt
embeddings ready and models loaded. P is the wall time of `run_job`, from reading the sheet to the last write, models
loaded. They alternate, so that another load on the machine hits both.

    python benchmarks/pipeline.py [--config FILE] [--alternations 3] [--threads N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

IMPORT_START = time.perf_counter()
import diffusers  # noqa: E402, F401 - imported here to be timed
import open_clip  # noqa: E402, F401
import spandrel  # noqa: E402, F401
import torch  # noqa: E402
import transformers  # noqa: E402, F401

IMPORT_SECONDS = time.perf_counter() - IMPORT_START

from assetmill import pipeline  # noqa: E402
from assetmill.config import StoreConfig, read_config  # noqa: E402
from assetmill.engines.devices import set_threads  # noqa: E402
from assetmill.engines.protocols import Engines, Generator  # noqa: E402
from assetmill.intake.plan import requests_of  # noqa: E402
from assetmill.records import Request  # noqa: E402
from write import ROOT, save_figures  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "game-assets.yaml")
    parser.add_argument("--alternations", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch threads (the config's, or all cores, if left out)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.config, Path(folder), options.alternations, options.threads)
    save_figures("pipeline", figures)
    print(f"P / F {figures['P_over_F']:.3f}, {figures['images_per_second']:.2f} images/s")


def measure(config_path: Path, folder: Path, alternations: int, threads: int | None) -> dict[str, Any]:
    def open_in(number: int) -> pipeline.Job:
        config = read_config(config_path)
        run = config.run.model_copy(update={"threads": threads or config.run.threads})
        store = StoreConfig(url=str(folder / f"store-{number}"))
        return pipeline.open_job(config_path, config=config.model_copy(update={"store": store, "run": run}))

    job = open_in(-1)
    start = time.perf_counter()
    engines = pipeline.load_engines(job)
    load_seconds = time.perf_counter() - start
    lanes = [engines.generator, *engines.lanes]
    num_threads = set_threads(threads or job.config.run.threads, len(lanes))
    requests = work_list(job)
    upscales = len(job.sheet.assets) * job.config.select.keep
    batch = job.config.model.batch or engines.generator.fitting_batch(job.base.width, job.base.height)
    for lane in lanes:
        pure_forwards(replace(engines, generator=lane), requests[:batch], 1, batch)  # warm-up of every kernel
    pure, whole, report = [], [], {}
    for turn in range(alternations):
        pure.append(pure_forwards_on(lanes, engines, requests, upscales, batch))
        start = time.perf_counter()
        report = pipeline.run_job(open_in(turn), engines=engines)
        whole.append(time.perf_counter() - start)
        if report["pictures"] < len(requests):
            raise SystemExit(f"the run made {report['pictures']} pictures, not {len(requests)}: {report['reason']}")
    unchanged, torch_imported = time_unchanged(config_path, folder / f"store-{alternations - 1}")
    return {
        "threads": num_threads,
        "lanes": len(lanes),
        "batch": batch,
        "alternations": alternations,
        "candidates": len(requests),
        "steps": job.base.steps,
        "upscales": upscales,
        "F": spread(pure),
        "P": spread(whole),
        "P_over_F": statistics.median(p / f for p, f in zip(whole, pure, strict=True)),
        "images_per_second": len(requests) / statistics.median(whole),
        "judge_share": report["stages"]["judge"]["seconds"] / whole[-1] / len(lanes),
        "import_seconds": IMPORT_SECONDS,
        "load_seconds": load_seconds,
        "unchanged_seconds": unchanged,
        "unchanged_torch": torch_imported,
        "stages": report["stages"],
    }


def work_list(job: pipeline.Job) -> list[Request]:
    """All requests of the config, in the order of the sheet."""
    found = []
    for plan in pipeline.plan_job(job).todo:
        for prompt in plan.prompts:
            request, seeds = requests_of(plan.asset, prompt, job.base, job.config, range(plan.num_candidates))
            found.extend(replace(request, seed=seed) for seed in seeds)
    return found


def pure_forwards_on(
    lanes: Sequence[Generator], engines: Engines, requests: Sequence[Request], upscales: int, batch: int
) -> float:
    """Seconds of `pure_forwards` with whole batches dealt out to the lanes: what the machine can do at best."""
    batches = [requests[at : at + batch] for at in range(0, len(requests), batch)]
    shares = [[r for part in batches[number :: len(lanes)] for r in part] for number in range(len(lanes))]
    enlarged = [upscales // len(lanes) + (number < upscales % len(lanes)) for number in range(len(lanes))]

    def work(lane: Generator, share: Sequence[Request], count: int) -> float:
        return pure_forwards(replace(engines, generator=lane), share, count, batch)

    start = time.perf_counter()
    with ThreadPoolExecutor(len(lanes)) as pool:
        list(pool.map(work, lanes, shares, enlarged))
    return time.perf_counter() - start


@torch.inference_mode()
def pure_forwards(engines: Engines, requests: Sequence[Request], upscales: int, batch: int) -> float:
    """Seconds of denoiser, VAE and upscaler alone. Nothing is ranked, encoded, hashed or stored."""
    pipe: Any = engines.generator.pipeline  # type: ignore[attr-defined]
    device = pipe.device
    first = requests[0]
    guided = first.guidance > 1
    texts = sorted({r.positive for r in requests} | {r.negative for r in requests})
    embedded = {}
    for text in texts:
        tokens = pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        embedded[text] = pipe.text_encoder(tokens.to(device))[0]
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    shape = (pipe.unet.config.in_channels, first.height // factor, first.width // factor)
    pixels = None
    start = time.perf_counter()
    for at in range(0, len(requests), batch):
        part = requests[at : at + batch]
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        scheduler.set_timesteps(first.steps, device=device)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in part]
        latents = torch.stack(noise).to(device) * scheduler.init_noise_sigma
        context = torch.cat([embedded[r.positive] for r in part])
        if guided:
            context = torch.cat([torch.cat([embedded[r.negative] for r in part]), context])
        for step in scheduler.timesteps:
            given = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, step)
            predicted = pipe.unet(given, step, encoder_hidden_states=context, return_dict=False)[0]
            if guided:
                without, with_text = predicted.chunk(2)
                predicted = without + first.guidance * (with_text - without)
            latents = scheduler.step(predicted, step, latents, return_dict=False)[0]
        pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    upscaler: Any = engines.upscaler
    model = getattr(upscaler, "_model", None)
    if model is not None and pixels is not None:
        small = pixels.div(2).add(0.5).clamp(0, 1).to(upscaler.dtype)
        for at in range(0, upscales, len(small)):
            model(small[: min(len(small), upscales - at)])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_unchanged(config_path: Path, store: Path) -> tuple[float, bool]:
    """Seconds of a second `assetmill run` as a person starts it, and whether it imported torch."""
    code = (
        "import os, sys; sys.argv = ['assetmill', 'run', sys.argv[1], '--json']\n"
        "from assetmill.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write('TORCH %d' % ('torch' in sys.modules))\n"
    )
    import os

    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(config_path)], capture_output=True, text=True, check=True,
        env={**os.environ, "ASSETMILL_STORE__URL": str(store)},
    )  # fmt: skip
    return time.perf_counter() - start, done.stderr.endswith("TORCH 1")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


if __name__ == "__main__":
    main()
