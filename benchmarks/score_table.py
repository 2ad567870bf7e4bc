"""Scores of many candidates of the starter model, finished and half-made: what cutting and adaptive seeds rest on.

Prompts are the starter pack's evaluation prompts, whose truth is known: beside CLIP's score, the pack's independent
judge says how many of five attributes (object, colour, pattern, style, ground) came out right.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assetmill import pipeline
from assetmill.engines.protocols import Generator, Step
from assetmill.records import Request

BATCH = 16


@dataclass(frozen=True)
class ScoreTable:
    """`final` float (prompts, seeds), CLIP; `right` int (prompts, seeds), attributes right of 5.

    `early` float (prompts, early seeds, len(cut_steps)): CLIP of the picture predicted after those steps of `steps`.
    `units` are costs in denoiser evaluations of one picture: of decoding one, of showing a half-made one (`preview`),
    of scoring one.
    """

    final: np.ndarray
    right: np.ndarray
    early: np.ndarray
    cut_steps: tuple[int, ...]
    steps: int
    units: dict[str, float]

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **{name: getattr(self, name) for name in ("final", "right", "early")},
                            cut_steps=self.cut_steps, steps=self.steps, units=list(self.units.values()))  # fmt: skip


def load_table(path: Path) -> ScoreTable:
    data = np.load(path)
    units = dict(zip(("decode", "preview", "score"), map(float, data["units"]), strict=True))
    return ScoreTable(
        data["final"], data["right"], data["early"], tuple(int(s) for s in data["cut_steps"]), int(data["steps"]), units
    )


def measure_table(
    config: Path | pipeline.Job,
    num_prompts: int,
    num_seeds: int,
    num_early: int,
    cut_steps: Sequence[int],
    steps: int | None = None,
) -> ScoreTable:
    """Generates everything on the config's lanes: `num_seeds` a prompt, the first `num_early` looked at mid-way."""
    from assetmill.starter.data import labels_of
    from assetmill.starter.judge import load_judge, read_attributes
    from assetmill.starter.locations import judge_file
    from assetmill.starter.sampling import choose_prompts

    job = pipeline.open_job(config) if isinstance(config, Path) else config
    engines = pipeline.load_engines(job)
    base = replace(job.base, steps=steps) if steps else job.base
    specs, texts, _ = choose_prompts(num_prompts)
    asked = np.array([labels_of(spec) for spec in specs])
    final = np.zeros((num_prompts, num_seeds), np.float32)
    right = np.zeros((num_prompts, num_seeds), np.int64)
    early = np.zeros((num_prompts, num_early, len(cut_steps)), np.float32)
    cells = [(p, s) for s in range(num_seeds) for p in range(num_prompts)]
    cells.sort(key=lambda cell: cell[1] >= num_early)  # watched ones first: a batch is watched as a whole
    batches = [cells[start : start + BATCH] for start in range(0, len(cells), BATCH)]
    attributes = load_judge(judge_file())
    lock = threading.Lock()

    def make(generator: Generator, batch: list[tuple[int, int]]) -> None:
        requests = [replace(base, positive=texts[p], seed=1_000_000 + 1000 * p + s) for p, s in batch]
        words = [texts[p] for p, _ in batch]
        watched = any(s < num_early for _, s in batch)

        def look(step: Step) -> None:
            if step.index in cut_steps:
                previews = step.preview()
                with lock:
                    scores = engines.judge.judge(previews, words).scores
                for (p, s), score in zip(batch, scores, strict=True):
                    if s < num_early:
                        early[p, s, cut_steps.index(step.index)] = score

        made = generator.generate(requests, on_step=look if watched else None)
        with lock:
            scores = engines.judge.judge(made.device_pixels, words).scores
            read = read_attributes(attributes, made.pixels)
        for row, (p, s) in enumerate(batch):
            final[p, s] = scores[row]
            right[p, s] = int((read[row] == asked[p]).sum())

    _spread([engines.generator, *engines.lanes], batches, make)
    return ScoreTable(final, right, early, tuple(cut_steps), base.steps, _costs(engines, base))


def _spread(generators: Sequence[Generator], batches: list[Any], make: Any) -> None:
    waiting = iter(batches)
    errors: list[BaseException] = []
    take = threading.Lock()

    def work(generator: Generator) -> None:
        try:
            while not errors:
                with take:
                    batch = next(waiting, None)
                if batch is None:
                    return
                make(generator, batch)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(generator,)) for generator in generators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _costs(engines: Any, base: Request) -> dict[str, float]:
    """What decoding and scoring cost, in evaluations of the denoiser: processor time, the least of five."""
    import time

    import torch

    model = engines.generator.pipeline
    unet, vae = model.unet, model.vae
    side = unet.config.sample_size
    latents = torch.randn(BATCH, unet.config.in_channels, side, side)
    texts = torch.randn(BATCH, model.tokenizer.model_max_length, unet.config.cross_attention_dim)
    pictures = torch.rand(BATCH, 3, base.height, base.width)

    def seconds(call: Any) -> float:
        least = float("inf")
        with torch.inference_mode():
            for _ in range(5):
                start = time.process_time()
                call()
                least = min(least, time.process_time() - start)
        return least

    step = seconds(lambda: unet(latents, 5, encoder_hidden_states=texts))
    return {
        "decode": seconds(lambda: vae.decode(latents)) / step,
        "preview": seconds(lambda: engines.generator._decode_preview(latents)) / step,
        "score": seconds(lambda: engines.judge.judge(pictures, ["a red key"] * BATCH)) / step,
    }
