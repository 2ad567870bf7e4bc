"""What a GPU gives: the real shapes of SD1.5, SDXL and FLUX.1-schnell with random weights, against its own roof.

Nothing is downloaded. Weights are made on the device, written as the folder a user would have, and loaded by the
library's own path; a sheet is made up, and `run_job` works through it. Measured are the dense matrix product (the
roof), judges and upscaler by themselves, and per model: pictures per second by batch size, what compiling, memory
formats and fused projections gain, and P / F: the whole job against its bare forwards.

    python benchmarks/gpu.py                                   # everything: about 25 minutes on an H200
    python benchmarks/gpu.py --models sdxl --parts whole --compile
    python benchmarks/gpu.py --tiny --device cpu --out /tmp/gpu.json

Each part's figures are kept as soon as it is done, and a second call goes on where the first one ended: `--stop-after`
begins no new part after that many seconds, for machines that are lent by the minute. With --out elsewhere than
docs/figures/gpu.json, --from names the figures of earlier calls to go on from.

On a machine without a package index, fetch what is missing there as wheels beforehand (12 MB), and install them beside
what is there. With torch, torchvision, transformers, accelerate, timm, pandas, pyarrow, jinja2 and pillow present:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels -c requirements.lock \\
        annotated-types defusedxml diffusers ftfy open-clip-torch pydantic pydantic-core spandrel \\
        typing-inspection wcwidth
    pip install --no-index --no-deps --target /tmp/site wheels/*.whl          # there
    PYTHONPATH=src:/tmp/site python benchmarks/gpu.py --models sd15 --alternations 2 --stop-after 330

FLUX takes 33 GiB on disk (a memory file system where one has room, else --folder) and again in memory while it is
loaded. Where that is too much: --in-memory hands the pipeline over without a file, and --short-t5 gives T5 one layer,
so that prompt embeddings have their true shape and 8.8 GiB fewer are built; it decides none of the times but loading.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from architectures import (
    JUDGES,
    MODELS,
    RRDB_X4,
    TINY_JUDGES,
    TINY_RRDB,
    Architecture,
    Upscaling,
    build_part,
    build_pipeline,
    tiny_twin,
    with_short_t5,
    write_judge,
    write_upscaler,
)
from assetmill import pipeline
from assetmill.config import read_config
from assetmill.engines.devices import available_cores, pick_device, pick_dtype
from gpu_parts import Session, measure_batches, measure_judges, measure_roof, measure_upscaler, measure_whole
from machine import describe_machine
from techniques import measure_techniques
from timing import empty_caches, plain
from write import FIGURES, write_page

PARTS = ("batches", "techniques", "whole")
PAGE_FIGURES = FIGURES / "gpu.json"

_TEMPLATE = "---\nrank_text: a {{ colour }} {{ thing }}\n---\na {{ colour }} {{ thing }}, game item, studio light\n"
_THINGS = ("mug", "hat", "key", "gem", "bow", "cup", "axe", "jar", "orb", "ring", "bell", "fan")
_CANDIDATES = 4


class Figures:
    """Figures in a JSON file, written whole after each part. After `seconds` no new part is begun."""

    def __init__(self, file: Path, earlier: Path, again: bool, seconds: float) -> None:
        self.file = file
        self.all: dict[str, Any] = json.loads(earlier.read_text()) if earlier.is_file() else {}
        self._again = again
        self._ends = time.monotonic() + seconds

    def name_machine(self, machine: dict[str, Any]) -> None:
        """Raises SystemExit where the figures so far are another machine's."""
        known = self.all.get("machine")
        if known and (known["device"], known["tiny"]) != (machine["device"], machine["tiny"]):
            raise SystemExit(
                f"{self.file} holds figures of {known['device']}{' (tiny)' if known['tiny'] else ''}; "
                "give another file with --out, or remove it"
            )
        self.all["machine"] = machine

    def open(self, *paths: Sequence[str]) -> bool:
        """Whether any of these is to be measured now."""
        return time.monotonic() < self._ends and (self._again or not all(self._known(path) for path in paths))

    def keep(self, path: Sequence[str], measure: Callable[[], Any]) -> None:
        """Measures what stands at `path`, unless it is there or time is up."""
        if not self.open(path):
            print(f"{' '.join(path)}: {'there already' if self._known(path) else 'left for the next call'}", flush=True)
            return
        start = time.perf_counter()
        found = measure()
        place = self.all
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = found
        self.file.parent.mkdir(parents=True, exist_ok=True)
        half = self.file.with_suffix(".part")
        half.write_text(json.dumps(self.all, indent=1) + "\n")
        os.replace(half, self.file)
        print(f"{' '.join(path)}: {time.perf_counter() - start:.1f} s", flush=True)

    def _known(self, path: Sequence[str]) -> bool:
        place = self.all
        for name in path:
            if name not in place:
                return False
            place = place[name]
        return True


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    device = pick_device(options.device)
    dtype = pick_dtype("auto", device)
    figures = Figures(options.out, options.earlier or options.out, options.again, options.stop_after)
    figures.name_machine(
        {**describe_machine(), "device": device_name(device), "dtype": plain(dtype), "tiny": options.tiny}
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure_machine(figures, options, device, dtype, Path(folder))
        for name in options.models:
            if "roof" not in figures.all or not figures.open(*(("models", name, key) for _, key in parts_of(options))):
                print(f"{name}: nothing to measure now", flush=True)
                continue
            measure_model(figures, options, device, dtype, Path(folder), name)
            gc.collect()
            empty_caches(device)
    if options.out.resolve() == PAGE_FIGURES.resolve():
        write_page()


def measure_machine(
    figures: Figures, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, folder: Path
) -> None:
    """The roof, and the networks that all models share. Leaves their files in `folder`."""
    judges, rrdb = shapes_of(options)
    figures.keep(("roof",), lambda: measure_roof(device, dtype, (256,) if options.tiny else (4096, 8192, 16384)))
    files = {name: write_judge(folder / "judges" / name, shape) for name, shape in judges.items()}
    upscaler = write_upscaler(folder / "rrdb.safetensors", rrdb)
    size, count = (64, 4) if options.tiny else (512, 64)
    figures.keep(("judges",), lambda: measure_judges(files, judges, device, size, count))
    sizes, count = ((96,), 1) if options.tiny else ((512, 1024), 8)
    figures.keep(("upscaler",), lambda: measure_upscaler(upscaler, rrdb, device, sizes, count))


def measure_model(
    figures: Figures, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, shared: Path, name: str
) -> None:
    """All parts of one model that are not there yet."""
    judges, rrdb = shapes_of(options)
    judge = list(judges)[-1]
    architecture = shape_of(name, options)
    files = shared / "judges" / judge, shared / "rrdb.safetensors"
    with prepared(architecture, options, device, dtype, *files) as (opened, loading):
        session = Session(architecture, rrdb, judges[judge], *opened, roof=figures.all["roof"]["tflops"])
        figures.keep(("models", name, "loading"), lambda: loading)
        figures.keep(("models", name, "flops"), lambda: {**asdict(session.flops), "text_tokens": session.text_tokens})
        for part, key in parts_of(options):
            known = figures.all["models"].get(name, {}).get("batches", ())
            base = session.job.base
            best = best_batch(known) or session.engines.generator.fitting_batch(base.width, base.height)
            if part == "batches":
                figures.keep(("models", name, key), lambda: measure_batches(session, options.batches))
            elif part == "techniques":
                figures.keep(
                    ("models", name, key),
                    lambda b=best: measure_techniques(session, b, options.compiler),  # type: ignore[misc]
                )
            else:
                figures.keep(("models", name, key), lambda b=best: measure_whole(session, options.alternations, b))  # type: ignore[misc]


def shapes_of(options: argparse.Namespace) -> tuple[Mapping[str, Any], Upscaling]:
    """Judges and upscaler: the last judge is the one that runs use."""
    return (TINY_JUDGES, TINY_RRDB) if options.tiny else (JUDGES, RRDB_X4)


def parts_of(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Parts to measure and the names of their figures: a changed arrangement has a figure of the whole job alone."""
    changes = [name for name in ("compile", "channels_last", "fuse") if getattr(options, name)]
    if changes:
        return [("whole", f"whole, {' and '.join(changes)}")]
    return [(part, part) for part in options.parts]


def best_batch(measured: Sequence[dict[str, Any]]) -> int:
    """The batch of most pictures per second, 0 where none was measured. Larger ones must gain a hundredth to count."""
    best: dict[str, Any] = {"batch": 0, "images_per_second": 0.0}
    for found in measured:
        if found["images_per_second"] > 1.01 * best["images_per_second"]:
            best = found
    return int(best["batch"])


def shape_of(name: str, options: argparse.Namespace) -> Architecture:
    architecture = tiny_twin(MODELS[name]) if options.tiny else MODELS[name]
    if options.short_t5:
        architecture = with_short_t5(architecture)
    return replace(
        architecture,
        size=options.size or architecture.size,
        steps=options.steps or architecture.steps,
        images=options.images or architecture.images,
    )


@contextmanager
def prepared(
    architecture: Architecture, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, judge: Path,
    upscaler: Path,
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:  # fmt: skip
    """A model written to a folder and its production opened and loaded; beside them, what that took."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    gib = sum(weights_gib(architecture, dtype))
    home = options.folder or _roomy_folder(0.1 if options.in_memory else gib)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home, prefix=f"{architecture.name}-")))
        model = folder / "model"
        start = time.perf_counter()
        pipe = build_pipeline(architecture, device, dtype)
        built = time.perf_counter()
        if options.in_memory:
            write_shell(pipe, model)
            stack.enter_context(mock.patch("diffusers.AutoPipelineForText2Image.from_pretrained", _hand_over(pipe)))
        else:
            pipe.save_pretrained(str(model))
        del pipe
        gc.collect()
        empty_caches(device)
        written = time.perf_counter()
        path = write_production(folder, architecture, options, model, judge, upscaler)
        config = read_config(path)
        job = pipeline.open_job(path, config=config)
        opened = time.perf_counter()
        engines = pipeline.load_engines(job)
        loading = {
            "gib": gib,
            "in_memory": options.in_memory,
            "short_t5": options.short_t5 and "text_encoder_2" in architecture.parts,
            "build_seconds": built - start,
            "write_seconds": written - built,
            "open_seconds": opened - written,
            "load_seconds": time.perf_counter() - opened,
        }
        print(f"{architecture.name}: {gib:.1f} GiB, ready after {time.perf_counter() - start:.0f} s", flush=True)
        yield (config, path, folder, engines, job), loading


def write_production(
    folder: Path, architecture: Architecture, options: argparse.Namespace, model: Path, judge: Path, upscaler: Path
) -> Path:
    """A config, a template and a sheet of rows enough for `images` pictures, four of each row, one of them upscaled."""
    assets = max(1, architecture.images // _CANDIDATES)
    with (folder / "sheet.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "thing", "colour"))
        writer.writerows((f"a{n:04d}", _THINGS[n % len(_THINGS)], f"colour {n}") for n in range(assets))
    (folder / "icon.j2").write_text(_TEMPLATE)
    config = {
        "name": architecture.name,
        "seed": 7,
        "candidates": _CANDIDATES,
        "sheet": {"path": str(folder / "sheet.csv"), "id": "id"},
        "prompts": {"templates": [str(folder / "icon.j2")]},
        "model": {
            "source": str(model), "size": architecture.size, "steps": architecture.steps,
            "guidance": architecture.guidance, "device": options.device, "batch": options.batch,
            "compile": options.compile, "channels_last": options.channels_last, "fuse": options.fuse,
            "timeout": 3600,
        },
        "judge": {"source": str(judge), "device": options.device, "dtype": options.judge_dtype},
        # random weights draw what no gate should judge: all pictures count, whatever they show
        "gates": {"black_max": 0, "flat_std": 0, "max_rejected": 1.0, "regenerate": 0},
        "select": {"keep": 1, "near_duplicate": None},
        "upscale": {"engine": "spandrel", "source": str(upscaler), "device": options.device, "tile": options.tile},
        "store": {"url": str(folder / "store")},
        "run": {"writers": options.writers, "lanes": 1},  # F is one stream of forwards as well
    }  # fmt: skip
    path = folder / f"{architecture.name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def write_shell(pipe: Any, folder: Path) -> None:
    """The folder of a pipeline with all its configs and tokenizers and not one weight."""
    from safetensors.torch import save_file

    pipe.save_config(str(folder))
    for name, part in pipe.components.items():
        if part is None:
            continue
        place = folder / name
        if not isinstance(part, torch.nn.Module):
            part.save_pretrained(str(place))
            continue
        (part.save_config if hasattr(part, "save_config") else part.config.save_pretrained)(str(place))
        save_file({}, str(place / "model.safetensors"))


def weights_gib(architecture: Architecture, dtype: torch.dtype) -> list[float]:
    """GiB of each part, counted on the meta device."""
    networks = [build_part(part, "meta", dtype) for part in architecture.parts.values()]
    return [sum(p.numel() * p.element_size() for p in network.parameters()) / 2**30 for network in networks]


def device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    found = torch.cuda.get_device_properties(device)
    return f"{found.name} ({found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda})"


def _hand_over(pipe: Any) -> Callable[..., Any]:
    held = [pipe]  # given away once: no second reference may keep the weights
    return lambda *_, **__: held.pop()


def _roomy_folder(gib: float) -> str | None:
    """A file system in memory where it has room for a model and as much is left to load it, else the usual place."""
    for place in ("/dev/shm", tempfile.gettempdir()):
        if os.path.isdir(place) and shutil.disk_usage(place).free / 2**30 > 1.2 * gib + 1:
            memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
            if place != "/dev/shm" or memory > 2.5 * gib:
                return place
    raise SystemExit(f"no folder has room for {gib:.0f} GiB: give --folder, or --in-memory, or --short-t5")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    numbers = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    words = lambda text: tuple(text.split(","))  # noqa: E731
    add("--models", type=words, default=tuple(MODELS), help=f"any of {', '.join(MODELS)}, by commas")
    add("--parts", type=words, default=PARTS, help=f"any of {', '.join(PARTS)}, by commas")
    add("--batches", type=numbers, help="batch sizes by commas (powers of two up to 64)")
    add("--batch", type=int, help="batch of the whole job (the engine's own choice)")
    add("--images", type=int, help="pictures of the whole job (256 for sd15, else 64)")
    add("--size", type=int, help="edge of the pictures in pixels (512 for sd15, else 1024)")
    add("--steps", type=int, help="sampling steps (20; 4 for flux-schnell)")
    add("--alternations", type=int, default=3, help="pairs of F and P")
    add("--writers", type=int, default=max(2, available_cores() - 2), help="threads that encode and store")
    add("--tile", type=int, default=256, help="edge of the upscaler's tiles in pixels")
    add("--judge-dtype", default="auto", help="number format of the judge")
    add("--compile", action="store_true", help="the whole job once more with model.compile")
    add("--channels-last", action="store_true", help="the whole job once more with model.channels_last")
    add("--fuse", action="store_true", help="the whole job once more with model.fuse")
    add("--compiler", help="backend of torch.compile in `techniques`, or none (inductor)")
    add("--device", default="auto")
    add("--tiny", action="store_true", help="the same code at tiny sizes, for a CPU")
    add("--in-memory", action="store_true", help="hand pipelines over without writing their weights")
    add("--short-t5", action="store_true", help="one layer of T5 in place of 24")
    add("--folder", help="where models and stores are written (memory, if it has room)")
    add("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="begin no part later than that")
    add("--again", action="store_true", help="measure also what is there already")
    add("--out", type=Path, default=PAGE_FIGURES, help="where figures go (docs/figures/gpu.json)")
    add("--from", dest="earlier", type=Path, help="figures to go on from (those of --out)")
    options = parser.parse_args(arguments)
    for given, known in ((options.models, MODELS), (options.parts, PARTS)):
        if set(given) - set(known):
            parser.error(f"{', '.join(sorted(set(given) - set(known)))}: choose from {', '.join(known)}")
    options.batches = options.batches or ((1, 2, 4) if options.tiny else (1, 2, 4, 8, 16, 32, 64))
    options.compiler = options.compiler or ("eager" if options.tiny else "inductor")
    return options


if __name__ == "__main__":
    main()
