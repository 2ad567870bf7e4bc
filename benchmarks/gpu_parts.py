"""What `gpu.py` measures: one function per part, each giving plain figures that are kept as soon as they are there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from architectures import Architecture, Upscaling
from assetmill import pipeline
from assetmill.config import Config, JudgeConfig, StoreConfig, UpscaleConfig
from assetmill.engines.protocols import Engines, OutOfMemory
from assetmill.engines.registry import load_judge, load_upscaler, resolve_judge, resolve_upscaler
from assetmill.intake.plan import requests_of
from assetmill.records import Request
from forwards import Flops, Forwards, count_flops, judge_tflop, upscaler_tflop
from timing import forget_peak, peak_gib, plain, spread, synchronize, time_calls

FORWARD_PIXELS = 2**20
"""Input pixels per forward of the bare upscaler: more gain nothing, and overflow the 32-bit sizes of kernels."""


@dataclass
class Session:
    """A model at hand: its shapes, its production on disk, its loaded engines."""

    architecture: Architecture
    upscaling: Upscaling
    judge: Mapping[str, Any]
    config: Config
    config_path: Path
    folder: Path
    engines: Engines
    job: pipeline.Job
    roof: float
    """TFLOP/s of the dense matrix product measured on this device."""

    @property
    def pipe(self) -> Any:
        generator: Any = self.engines.generator
        return generator.pipeline

    @property
    def device(self) -> torch.device:
        generator: Any = self.engines.generator
        return generator.device

    @cached_property
    def forwards(self) -> Forwards:
        return Forwards(getattr(self.pipe, self.architecture.denoiser), self.pipe.vae)

    @cached_property
    def requests(self) -> list[Request]:
        """The whole work list in the order of the sheet."""
        found = []
        for plan in pipeline.plan_job(self.job).todo:
            for prompt in plan.prompts:
                first, seeds = requests_of(
                    plan.asset, prompt, self.job.base, self.job.config, range(plan.num_candidates)
                )
                found.extend(replace(first, seed=seed) for seed in seeds)
        return found

    @cached_property
    def text_tokens(self) -> int:
        """Tokens that the denoiser is really given: seen at the door while the engine makes one picture."""
        seen: list[int] = []

        def look(_: Any, __: Any, named: dict[str, Any]) -> None:
            seen.append(named["encoder_hidden_states"].shape[1])

        hook = self.forwards.denoiser.register_forward_pre_hook(look, with_kwargs=True)
        try:
            self.engines.generator.generate([replace(self.requests[0], steps=1)])
        finally:
            hook.remove()
        return seen[0]

    @cached_property
    def flops(self) -> Flops:
        told = replace(self.architecture, text_tokens=self.text_tokens)
        return count_flops(told, size=self.job.base.width, upscaling=self.upscaling, judge=self.judge)

    def of_one(self, *, decoded: bool = True) -> float:
        """TFLOP of one picture, from noise to latents or pixels."""
        steps = self.flops.denoise * self.job.base.steps * (2 if self.guided else 1)
        return steps + (self.flops.decode if decoded else 0.0)

    @property
    def guided(self) -> bool:
        return self.job.base.guidance > 1

    def open_in(self, store: str, *, limit: int | None = None) -> pipeline.Job:
        """The same job over a store of its own; the first `limit` assets alone where it is given."""
        config = self.config.model_copy(update={"store": StoreConfig(url=str(self.folder / store))})
        return pipeline.open_job(self.config_path, config=config, limit=limit)


# --- of a machine -----------------------------------------------------------------------------------------------


def measure_roof(device: torch.device, dtype: torch.dtype, edges: Sequence[int]) -> dict[str, Any]:
    """TFLOP/s of dense square matrix products on random data; the best of the sizes is the roof of all that follows."""
    found = []
    for edge in edges:
        left, right = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))

        def ten(left: Any = left, right: Any = right) -> None:
            for _ in range(10):  # one after the other: what starting a product costs must not show
                left @ right

        seconds = time_calls(ten, device, repeats=5) / 10
        found.append({"edge": edge, "tflops": 2 * edge**3 / seconds / 1e12})
    return {"dtype": plain(dtype), "sizes": found, "tflops": max(f["tflops"] for f in found)}


def measure_judges(
    folders: Mapping[str, Path], shapes: Mapping[str, Mapping[str, Any]], device: torch.device, size: int, count: int
) -> list[dict[str, Any]]:
    """The judge as a run uses it: `count` pictures of size × size on the device, texts known, scores back in memory."""
    found = []
    pictures = torch.rand(count, 3, size, size, device=device)
    for name, folder in folders.items():
        for dtype in ("float32", "bfloat16"):
            config = JudgeConfig(source=str(folder), device=str(device), dtype=dtype)  # type: ignore[arg-type]
            judge = load_judge(resolve_judge(config, Path), config)
            texts = [f"a mug number {n % 8}" for n in range(count)]
            seconds = time_calls(lambda j=judge, t=texts: j.judge(pictures, t), device, repeats=5)  # type: ignore[misc]
            found.append(
                {
                    "judge": name,
                    "dtype": dtype,
                    "size": size,
                    "milliseconds": seconds / count * 1000,
                    "tflops": judge_tflop(shapes[name]) * count / seconds,
                }
            )
    return found


def measure_upscaler(
    file: Path, shape: Upscaling, device: torch.device, sizes: Sequence[int], count: int
) -> list[dict[str, Any]]:
    """The upscaler as a run uses it (arrays in, arrays out), in tiles of the default size and whole, and bare."""
    import numpy as np

    found = []
    random = np.random.default_rng(0)
    default = UpscaleConfig().tile
    for size in sizes:
        pixels = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        useful = upscaler_tflop(shape, size) * count
        times: dict[str, float] = {}
        dtype = torch.float32
        for name, tile in (("tiles", min(default, size // 2)), ("whole", size)):
            config = UpscaleConfig(engine="spandrel", source=str(file), tile=tile, device=str(device))
            upscaler: Any = load_upscaler(resolve_upscaler(config, Path), config)
            dtype = upscaler.dtype
            times[f"{name} of {tile}"] = time_calls(lambda u=upscaler, p=pixels: u.upscale(p), device, repeats=2)  # type: ignore[misc]
        network = bare_upscaler(file, device, dtype)
        small = torch.rand(count, 3, size, size, device=device, dtype=dtype)
        times["bare forward"] = time_calls(lambda n=network, s=small: enlarge(n, s), device, repeats=2)  # type: ignore[misc]
        found += [
            {
                "size": size,
                "how": how,
                "dtype": plain(dtype),
                "milliseconds": seconds / count * 1000,
                "tflops": useful / seconds,
            }
            for how, seconds in times.items()
        ]
    return found


# --- of a model -------------------------------------------------------------------------------------------------


def measure_batches(session: Session, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Pictures per second of the engine (texts to pixels in memory) by batch size, up to what the device holds."""
    found: list[dict[str, Any]] = []
    for batch in batches:
        group = [session.requests[n % len(session.requests)] for n in range(batch)]
        try:
            session.engines.generator.generate([replace(request, steps=1) for request in group])
            forget_peak(session.device)
            seconds = time_calls(
                lambda g=group: session.engines.generator.generate(g),  # type: ignore[misc]
                session.device,
                repeats=1 if found and found[-1]["seconds"] > 4 else 2,
                warm_up=0,
            )
        except OutOfMemory:
            break
        tflops = session.of_one() * batch / seconds
        found.append(
            {
                "batch": batch,
                "seconds": seconds,
                "images_per_second": batch / seconds,
                "tflops": tflops,
                "of_roof": tflops / session.roof,
                "peak_gib": peak_gib(session.device),
            }
        )
        # A batch twice as large takes twice as long: where nothing is gained any more, the clock is better spent.
        if len(found) > 2 and found[-1]["images_per_second"] < 1.02 * found[-2]["images_per_second"]:
            break
    return found


def measure_whole(session: Session, alternations: int, best_batch: int) -> dict[str, Any]:
    """P, the whole job on a folder store, against F, the forwards alone at the best batch; useful TFLOP/s over P."""
    requests, config = session.requests, session.job.config
    upscales = len(session.job.sheet.assets) * config.select.keep
    own = config.model.batch or session.engines.generator.fitting_batch(session.job.base.width, session.job.base.height)
    network = bare_upscaler(Path(session.job.upscaler.file), session.device, _upscaler_dtype(session))
    # every stage's kernels are warm before the clock starts: one batch through everything
    pure_forwards(session, network, requests[:best_batch], 1, best_batch, steps=1)
    pipeline.run_job(session.open_in("store-warm", limit=-(-own // config.candidates)), engines=session.engines)
    pure, whole = [], []
    report: dict[str, Any] = {}
    for turn in range(alternations):
        pure.append(pure_forwards(session, network, requests, upscales, best_batch))
        start = time.perf_counter()
        report = pipeline.run_job(session.open_in(f"store-{turn}"), engines=session.engines)
        whole.append(time.perf_counter() - start)
        made, enlarged = report["pictures"], report["stages"].get("upscale", {}).get("count", 0)
        if (made, enlarged) != (len(requests), upscales):
            raise SystemExit(
                f"the run made {made} pictures and {enlarged} upscales, not {len(requests)} and {upscales}: "
                f"{report['reason'] or 'see its report'}"
            )
    useful = session.flops.of_run(len(requests), session.job.base.steps, session.guided, upscales)
    seconds = statistics.median(whole)
    stages = report["stages"]
    return {
        "pictures": len(requests),
        "upscales": upscales,
        "steps": session.job.base.steps,
        "guidance": session.job.base.guidance,
        "size": session.job.base.width,
        "text_tokens": session.text_tokens,
        "batch": own,
        "best_batch": best_batch,
        "alternations": alternations,
        "F": spread(pure),
        "P": spread(whole),
        "P_over_F": statistics.median(p / f for p, f in zip(whole, pure, strict=True)),
        "images_per_second": len(requests) / seconds,
        "useful_tflop": useful,
        "tflops": useful / seconds,
        "of_roof": useful / seconds / session.roof,
        "judge_share": stages["judge"]["seconds"] / whole[-1],
        "encode_share": stages["encode"]["seconds"] / whole[-1],
        "writers": config.run.writers,
        "stages": stages,
        "model": config.model.model_dump(mode="json", include={"dtype", "compile", "channels_last", "fuse"}),
    }


@torch.inference_mode()
def pure_forwards(
    session: Session, network: Any, requests: Sequence[Request], upscales: int, batch: int, *, steps: int = 0
) -> float:
    """Seconds of denoiser, VAE and upscaler alone over a work list. Nothing is ranked, encoded, hashed or stored."""
    forwards, base, pipe = session.forwards, session.job.base, session.pipe
    rows = 2 if session.guided else 1
    conditions = forwards.conditions(batch * rows, base.width, base.height, session.text_tokens)
    pixels = None
    synchronize(session.device)
    start = time.perf_counter()
    for at in range(0, len(requests), batch):
        count = min(batch, len(requests) - at)
        told = _first_rows(conditions, batch * rows, count * rows)
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        latents = forwards.latents(count, base.width, base.height)
        latents = forwards.sample(scheduler, latents, told, steps or base.steps, base.guidance)
        pixels = forwards.decode(latents, base.width, base.height)
    assert pixels is not None
    small = pixels.div(2).add(0.5).clamp(0, 1).to(next(network.model.parameters()).dtype)
    for at in range(0, upscales, len(small)):
        enlarge(network, small[: min(len(small), upscales - at)])
    synchronize(session.device)
    return time.perf_counter() - start


# --- inside -------------------------------------------------------------------------------------------------------


def bare_upscaler(file: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """spandrel's own descriptor of a weight file, as it comes."""
    from spandrel import ModelLoader

    return ModelLoader("cpu").load_from_file(str(file)).to(device=device, dtype=dtype).eval()


@torch.inference_mode()
def enlarge(network: Any, pictures: torch.Tensor) -> None:
    for part in pictures.split(max(1, FORWARD_PIXELS // (pictures.shape[2] * pictures.shape[3]))):
        network(part)


def _first_rows(conditions: Mapping[str, Any], rows: int, count: int) -> dict[str, Any]:
    """The first rows of all that has one row per row of the batch."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(inner) for name, inner in value.items()}
        return value[:count] if value.shape[0] == rows and value.ndim > 1 else value

    return {name: value if name.endswith("_ids") else cut(value) for name, value in conditions.items()}


def _upscaler_dtype(session: Session) -> torch.dtype:
    upscaler: Any = session.engines.upscaler
    return upscaler.dtype
