"""Engines without a model or torch: pictures, scores and faults that follow from a request's key alone.

For kill tests, large sheets and benchmarks of everything around the model. Faults are asked for by options.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.pausing import stop_after
from assetmill.engines.protocols import EngineError, Generated, Judged, ModelSpec, OnStep, OutOfMemory, Paused, Step
from assetmill.records import OPERATIONS, Request, content_key

if TYPE_CHECKING:
    from assetmill.config import ModelConfig

EPOCH = 1
JUDGE_KEY = content_key("judge", {"engine": "simulated", "epoch": EPOCH})

OPTIONS = ("black", "crash", "fail", "flat", "hang", "nan", "oom_above", "poison", "seconds", "skill")
_GRID = 8


def resolve_simulated(config: ModelConfig) -> ModelSpec:
    """The spec of the simulated generator: 64 x 64 pixels, 8 steps, unless a config says otherwise.

    The option `epoch` stands for another revision of the model: other pictures of the same requests.
    """
    epoch = int(config.options.get("epoch", EPOCH))
    return ModelSpec(
        id="simulated",
        engine="simulated",
        epoch=epoch,
        revision=f"simulated-{epoch}",
        family="simulated",
        licence="apache-2.0",
        commercial=True,
        operations=OPERATIONS,
        width=64,
        height=64,
        steps=8,
        guidance=2.0,
        size_multiple=1,
        cuts=True,
        option_names=(*OPTIONS, "caption_to", "caption_weight", "epoch"),
    )


class SimulatedGenerator:
    """Draws gradients and discs whose colours follow the prompt and whose layout follows the whole request.

    seconds: time per image, slept evenly over the steps.
    black, flat, nan, fail: shares of images, chosen by key, that come out black, of one colour, not finite, or raise.
    oom_above: batches larger than this raise OutOfMemory (0: every batch does; None: never).
    skill: share of a picture, 0 to 1, that is what SimulatedJudge looks for in its prompt.
    poison, hang, crash: a batch with a prompt that holds this text raises, never returns, or kills the process.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        seconds: float = 0.0,
        black: float = 0.0,
        flat: float = 0.0,
        nan: float = 0.0,
        fail: float = 0.0,
        oom_above: int | None = None,
        poison: str = "",
        hang: str = "",
        crash: str = "",
        skill: float = 0.0,
    ) -> None:
        self.spec = spec
        self.skill = skill
        self.seconds = seconds
        self.shares = {"fail": fail, "nan": nan, "black": black, "flat": flat}
        self.oom_above = oom_above
        self.poison = poison
        self.hang = hang
        self.crash = crash
        self.num_images = 0

    def generate(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        on_step: OnStep | None = None,
    ) -> Generated:
        """Pictures of requests that share a bucket; see Generator."""
        start = time.perf_counter()
        first = batch[0]
        if any(request.bucket != first.bucket for request in batch):
            raise EngineError("requests of one batch must share their bucket (all but texts, seed and references)")
        if self.oom_above is not None and len(batch) > self.oom_above:
            raise OutOfMemory(f"a simulated batch of {len(batch)} is above {self.oom_above}; use a smaller batch")
        self._misbehave(batch)
        missing = {r.blob for request in batch for r in request.references} - set(references or {})
        if missing:
            raise EngineError(
                f"the references {', '.join(b[:12] for b in sorted(missing))} were not given to the engine"
            )
        pixels = np.stack([draw(request, self.skill) for request in batch])
        alive, cut = list(range(len(batch))), np.zeros(len(batch), np.int32)
        for index in range(1, first.steps + 1):
            if self.seconds:
                time.sleep(self.seconds * len(alive) / first.steps)
            if on_step is None or not alive:
                continue
            step = Step(index, first.steps, tuple(alive), _previewer(batch, pixels, tuple(alive), index / first.steps))
            wanted = on_step(step)
            if wanted is not None:
                for position in set(alive) - set(wanted):
                    cut[position] = index
                alive = [position for position in alive if position in set(wanted)]
        finite = np.ones(len(batch), bool)
        for position, request in enumerate(batch):
            if cut[position]:
                pixels[position] = 0
            elif self._falls("nan", request):
                pixels[position], finite[position] = 0, False
            elif self._falls("black", request):
                pixels[position] = 0
            elif self._falls("flat", request):
                pixels[position] = 128
        self.num_images += len(alive)
        return Generated(pixels, finite, cut, time.perf_counter() - start, refused=("",) * len(batch))

    def generate_part(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        resume: Sequence[Paused] | None = None,
        pause_at: float | None = None,
    ) -> Generated:
        """One stretch of the pictures' making; see PausingGenerator. Faults show where a picture is finished."""
        steps = batch[0].steps
        begun = resume[0].step if resume else 0
        until = stop_after(pause_at, steps) if pause_at is not None and steps > 1 else steps
        if until >= steps:
            share = (steps - begun) / steps
            made = self._timed(share).generate(batch, references=references)
            self.num_images += len(batch)
            return made
        start = time.perf_counter()
        if self.oom_above is not None and len(batch) > self.oom_above:
            raise OutOfMemory(f"a simulated batch of {len(batch)} is above {self.oom_above}; use a smaller batch")
        self._misbehave(batch)
        time.sleep(self.seconds * len(batch) * (until - begun) / steps)
        pictures = np.stack([draw(request, self.skill) for request in batch])
        previews = _previewer(batch, pictures, tuple(range(len(batch))), until / steps)()
        return Generated(
            (previews.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8), np.ones(len(batch), bool),
            np.zeros(len(batch), np.int32), time.perf_counter() - start,
            paused=tuple(Paused(request, until, steps, None) for request in batch),
        )  # fmt: skip

    def fitting_batch(self, width: int, height: int) -> int:
        """16, whatever the size."""
        return 16

    def versions(self) -> Mapping[str, str]:
        """The epoch of the drawing code."""
        return {"simulated": str(EPOCH)}

    def _timed(self, share: float) -> SimulatedGenerator:
        """The same engine for the rest of the steps, a share of them all."""
        other = copy.copy(self)
        other.seconds = self.seconds * share
        return other

    def _misbehave(self, batch: Sequence[Request]) -> None:
        for request in batch:
            if self.crash and self.crash in request.positive:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.hang and self.hang in request.positive:
                time.sleep(24 * 3600)
            if self.poison and self.poison in request.positive:
                raise EngineError(f"the prompt {request.positive[:60]!r} holds the simulated poison")
            if self._falls("fail", request):
                raise EngineError(f"the simulated engine fails on request {request.key[:12]}")

    def _falls(self, fault: str, request: Request) -> bool:
        share = self.shares[fault]
        return share > 0 and _fraction(fault, request.key) < share


class SimulatedJudge:
    """Scores the layout of a picture (8 x 8 means) against a direction that follows from the text; in [-1, 1]."""

    key = JUDGE_KEY

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
        """Scores and unit embeddings; see Judge. A picture of one colour has no layout: its score is NaN."""
        pictures = np.asarray(pixels)
        if pictures.ndim == 4 and pictures.dtype != np.uint8:
            pictures = pictures.transpose(0, 2, 3, 1) * 255.0
        if len(pictures) != len(texts):
            raise ValueError(f"{len(pictures)} pictures but {len(texts)} texts; give one text per picture")
        if not len(texts):
            return Judged(np.zeros(0, np.float32), np.zeros((0, _GRID * _GRID * 3), np.float32))
        features = _layout(pictures)
        lengths = np.linalg.norm(features, axis=1)
        good = np.isfinite(lengths) & (lengths > 1e-6)
        embeddings = np.zeros_like(features)
        embeddings[good] = features[good] / lengths[good, None]
        wanted = np.stack([_direction(text) for text in texts])
        scores = np.where(good, (embeddings * wanted).sum(axis=1), np.nan).astype(np.float32)
        return Judged(scores, embeddings)


def draw(request: Request, skill: float = 0.0) -> np.ndarray:
    """The simulated picture of a request: uint8 (H, W, 3), the same on every machine; `skill` as the generator's."""
    colours = np.frombuffer(hashlib.sha256(request.positive.encode("utf-8", "surrogatepass")).digest(), np.uint8)
    layout = np.frombuffer(hashlib.sha256(request.key.encode()).digest(), np.uint8).astype(np.float32) / 255
    y = np.linspace(0, 1, request.height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, request.width, dtype=np.float32)[None, :]
    blend = (x * layout[0] + y * layout[1])[..., None] / max(layout[0] + layout[1], 0.1)
    picture = colours[:3] * (1 - blend) + colours[3:6] * blend
    for disc in range(3):
        cx, cy, radius = layout[2 + disc * 3], layout[3 + disc * 3], 0.12 + 0.2 * layout[4 + disc * 3]
        inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        picture[inside] = colours[6 + disc * 3 : 9 + disc * 3]
    if skill:
        wanted = _direction(request.positive).reshape(_GRID, _GRID, 3) * (32 * math.sqrt(_GRID * _GRID * 3)) + 128
        rows, columns = (np.arange(n) * _GRID // n for n in (request.height, request.width))
        picture = picture * (1 - skill) + wanted[rows][:, columns] * skill
    return picture.clip(0, 255).round().astype(np.uint8)


def _previewer(batch: Sequence[Request], pixels: np.ndarray, alive: tuple[int, ...], done: float) -> Any:
    """What sampling predicts after a part of the steps: the picture under noise that shrinks."""

    def preview() -> np.ndarray:
        out = []
        for position in alive:
            noise = np.random.default_rng(batch[position].seed).random(pixels[position].shape, np.float32)
            out.append((pixels[position] / 255.0 * done + noise * (1 - done)).transpose(2, 0, 1))
        return np.stack(out).astype(np.float32) if out else np.zeros((0, 3, *pixels.shape[1:3]), np.float32)

    return preview


def _fraction(name: str, key: str) -> float:
    return int(hashlib.sha256(f"{name}:{key}".encode()).hexdigest()[:12], 16) / 16**12


def _layout(pictures: np.ndarray) -> np.ndarray:
    """(N, 192) float32: means over an 8 x 8 grid, less the picture's mean colour."""
    rows = np.array_split(np.arange(pictures.shape[1]), _GRID)
    columns = np.array_split(np.arange(pictures.shape[2]), _GRID)
    if not all(len(part) for part in (*rows, *columns)):
        raise ValueError(f"pictures of {pictures.shape[2]}x{pictures.shape[1]} are smaller than 8x8")
    heights = np.add.reduceat(pictures.astype(np.float32), [part[0] for part in rows], axis=1)
    sums = np.add.reduceat(heights, [part[0] for part in columns], axis=2)
    areas = np.outer([len(part) for part in rows], [len(part) for part in columns])[None, :, :, None]
    means = sums / areas / 255
    return (means - means.mean(axis=(1, 2), keepdims=True)).reshape(len(pictures), -1).astype(np.float32)


@lru_cache(maxsize=4096)
def _direction(text: str) -> np.ndarray:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    vector = np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(_GRID * _GRID * 3)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
