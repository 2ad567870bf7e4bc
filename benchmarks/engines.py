"""Every family and operation once, on folders of the real classes at a tiny size: docs/figures/engines.json.

    python benchmarks/engines.py          # or `make engines`

The folders, with random weights, are those of the tests. Seconds are of the second call, so that loading and first
uses are left out; they say what the machinery costs, not what a real model will.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures" / "engines.json"
sys.path.insert(0, str(ROOT / "tests"))

from assetmill.config import ModelConfig  # noqa: E402
from assetmill.engines import facts  # noqa: E402
from assetmill.engines.latent_loading import quiet  # noqa: E402
from assetmill.engines.protocols import Generator  # noqa: E402
from assetmill.engines.registry import load_generator, resolve_model  # noqa: E402
from assetmill.records import Reference, Request  # noqa: E402
from tiny_families import WRITERS  # noqa: E402  (the tests' builders, beside this folder)
from tiny_operations import (  # noqa: E402
    operation_requests,
    tiny_picture,
    write_tiny_controlnet,
    write_tiny_ip_adapter,
    write_tiny_lora,
)

TINY = "random weights, {side} x {side}, {steps} steps"
OTHERS: Mapping[str, tuple[str, str]] = {
    "kandinsky-2.2": ("kandinsky", "KandinskyV22PriorPipeline, KandinskyV22Pipeline"),
    "deepfloyd-if": ("cascade", "IFPipeline, IFSuperResolutionPipeline"),
    "janus-pro": ("autoregressive", "JanusForConditionalGeneration"),
}
"""Families that an engine of their own runs, with their classes."""


def main() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with quiet():
        run_all()


def run_all() -> None:
    """Measures every row and writes the figures."""
    rows = []
    for name in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            run = other_rows if name in OTHERS else latent_rows
            for row in run(name, Path(folder)):
                rows.append({"family": name, **row})
                sys.stderr.write(f"{name}: {row['operation']}, {row['class']}, {row['seconds']:.2f} s\n")
    for row in starter_rows():
        rows.append({"family": "starter", **row})
    FIGURES.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n")


def latent_rows(name: str, root: Path) -> Iterator[dict[str, Any]]:
    """The rows of a family that `diffusers` runs: each operation it can, and a LoRA."""
    folder = WRITERS[name](root / name)
    index = json.loads((folder / "model_index.json").read_text())
    does = facts.FAMILIES[index["_class_name"]].does
    settings: dict[str, Any] = {}
    if does.control:
        settings["control"] = {"edge": write_tiny_controlnet(root / "edge", folder)}
    if does.ip_adapter:
        settings["ip_adapter"] = write_tiny_ip_adapter(root / "ip", folder)
    generator = load(folder, **settings)
    for operation in generator.spec.operations:
        requests, pictures = operation_requests(generator.spec, operation, 1)
        yield measure(generator, requests[0], pictures, class_of(index["_class_name"], operation))
    if does.lora:
        file = write_tiny_lora(root / "lora.safetensors", folder)
        generator = load(folder, adapters=[{"path": str(file)}])
        requests, pictures = operation_requests(generator.spec, "text-to-image", 1)
        yield {**measure(generator, requests[0], pictures, f"{index['_class_name']} with LoRA"), "operation": "LoRA"}


def class_of(name: str, operation: str) -> str:
    """The pipeline class that runs an operation of the family with the class `name`."""
    does = facts.FAMILIES[name].does
    classes = {
        "image-to-image": does.image_to_image,
        "inpaint": does.inpaint,
        "keep-product": does.inpaint,
        "control": does.control,
        "variation": f"{name} with IP-Adapter",
    }
    return classes.get(operation, name)


def other_rows(name: str, root: Path) -> Iterator[dict[str, Any]]:
    """The rows of Kandinsky, IF and Janus."""
    engine, classes = OTHERS[name]
    generator = load(WRITERS[name](root / name), engine=engine)
    spec = generator.spec
    steps = spec.steps if "steps" in spec.fixed else 4
    few = tuple((option, 4) for option in ("prior_steps", "second_steps") if option in spec.option_names)
    base = Request(
        spec.engine, spec.epoch, spec.id, spec.revision, "a red mug", 7, spec.width, spec.height, steps=steps,
        guidance=3.0, options=few,
    )  # fmt: skip
    pictures = {"a" * 64: tiny_picture(0), "b" * 64: tiny_picture(1)}
    ends = (Reference("image", "a" * 64), Reference("image-to", "b" * 64, 0.5))
    references = {"variation": ends[:1], "interpolation": ends}
    for operation in spec.operations:
        request = replace(base, operation=operation, references=references.get(operation, ()))
        yield measure(generator, request, pictures, classes)


def starter_rows() -> Iterator[dict[str, Any]]:
    """The shipped model, whose pictures mean something."""
    config = ModelConfig(source="starter", device="cpu")
    generator = load_generator(resolve_model(config, Path), config)
    spec = generator.spec
    for operation in spec.operations:
        requests, pictures = operation_requests(spec, operation, 1)
        pictures = {blob: picture.repeat(2, 0).repeat(2, 1) for blob, picture in pictures.items()}
        request = replace(
            requests[0], width=64, height=64, steps=spec.steps, guidance=spec.guidance, scheduler=spec.scheduler,
            negative="",
        )  # fmt: skip
        row = measure(generator, request, pictures, class_of("StableDiffusionPipeline", operation))
        yield {**row, "on": f"the shipped weights, 64 x 64, {spec.steps} steps"}


def load(folder: Path, **settings: Any) -> Generator:
    config = ModelConfig.model_validate({"source": str(folder), "device": "cpu", **settings})
    return load_generator(resolve_model(config, Path), config)


def measure(generator: Generator, request: Request, pictures: Mapping[str, Any], classes: str) -> dict[str, Any]:
    """One picture, made twice: what ran, on what, and the seconds of the second time."""
    generator.generate([request], references=pictures)
    start = time.perf_counter()
    made = generator.generate([replace(request, seed=request.seed + 1)], references=pictures)
    seconds = time.perf_counter() - start
    if not made.finite.all():
        raise RuntimeError(f"{request.model} gave a picture that is not finite for {request.operation}")
    return {
        "operation": request.operation,
        "engine": generator.spec.engine,
        "class": classes,
        "on": TINY.format(side=request.width, steps=request.steps),
        "seconds": round(seconds, 3),
    }


if __name__ == "__main__":
    main()
