"""What another package adds: a generator, a judge, an upscaler, a segmenter and a gate. See docs/plugins.md."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assetmill.config import CutoutConfig, JudgeConfig, JudgePartConfig, ModelConfig, UpscaleConfig
from assetmill.curate.gates import Verdict
from assetmill.engines.protocols import Generated, Judged, JudgeSpec, ModelSpec, OnStep, SegmenterSpec, UpscalerSpec
from assetmill.records import InputError, Problem, Request, content_key

Resolve = Callable[[Path | str], Path]


class Stripes:
    """The generator `stripes`: as many stripes as `model.options.count` says, in colours that follow the prompt."""

    @staticmethod
    def resolve(config: ModelConfig, resolve: Resolve) -> ModelSpec:
        """What a plan needs to know. Loads nothing."""
        return ModelSpec(
            id="stripes", engine="stripes", epoch=1, revision="1", family="stripes", licence="apache-2.0",
            commercial=True, operations=("text-to-image",), width=64, height=64, steps=1, guidance=0.0,
            size_multiple=1, token_limit=None, guidance_kind="none", option_names=("count",),
        )  # fmt: skip

    @staticmethod
    def load(spec: ModelSpec, config: ModelConfig) -> StripesGenerator:
        """The generator itself: here a real one would load its weights."""
        return StripesGenerator(spec)


class StripesGenerator:
    """Draws stripes. A picture follows from its request alone: text, seed, size and options."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def generate(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        on_step: OnStep | None = None,
    ) -> Generated:
        start = time.perf_counter()
        pixels = np.stack([self._draw(request) for request in batch])
        none = np.zeros(len(batch), np.int32)
        return Generated(pixels, np.ones(len(batch), bool), none, time.perf_counter() - start)

    def fitting_batch(self, width: int, height: int) -> int:
        return 16

    def versions(self) -> Mapping[str, str]:
        return {"assetmill-stripes": "1.0"}

    def _draw(self, request: Request) -> np.ndarray:
        count = int(dict(request.options).get("count", 4))
        digest = hashlib.sha256(f"{request.positive}\n{request.seed}".encode()).digest()
        colours = np.frombuffer(digest[:6], np.uint8).reshape(2, 3)
        stripe = np.arange(request.width) * count // request.width % 2
        return np.broadcast_to(colours[stripe], (request.height, request.width, 3)).copy()


class Likeness:
    """The judge `likeness`: how near a picture's mean colour is to one that follows from the text."""

    @staticmethod
    def resolve(config: JudgeConfig | JudgePartConfig, resolve: Resolve) -> JudgeSpec:
        key = content_key("judge", {"engine": "likeness", "epoch": 1})
        return JudgeSpec(key, "likeness", "likeness", licence="apache-2.0", commercial=True, centre=0.5, spread=0.2)

    @staticmethod
    def load(spec: JudgeSpec, config: JudgeConfig | JudgePartConfig) -> LikenessJudge:
        return LikenessJudge(spec.key)


class LikenessJudge:
    """Scores are cosines of unit embeddings, as CLIP's."""

    def __init__(self, key: str) -> None:
        self.key = key

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
        pictures = np.asarray(pixels)
        if pictures.dtype != np.uint8:  # floats (N, 3, H, W) in [0, 1] from the generator's device
            pictures = pictures.transpose(0, 2, 3, 1) * 255
        seen = self._unit(pictures.mean(axis=(1, 2)) + 1)
        return Judged((seen * self.embed_texts(texts)).sum(axis=1), seen)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        digests = [hashlib.sha256(text.encode()).digest()[:3] for text in texts]
        return self._unit(np.array([list(d) for d in digests], np.float32).reshape(-1, 3) + 1)

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Smooth:
    """The upscaler `smooth`: bicubic. It takes one option, `sharp`, and refuses what it does not know."""

    @staticmethod
    def resolve(config: UpscaleConfig, resolve: Resolve) -> UpscalerSpec:
        unknown = sorted(set(config.options) - {"sharp"})
        if unknown:
            raise InputError(
                Problem(f"smooth has no option {unknown[0]!r}", "known options: sharp", column="upscale.options")
            )
        scale = config.scale or 2
        payload = {"engine": "smooth", "scale": scale, "options": dict(config.options), "epoch": 1}
        return UpscalerSpec(content_key("upscaler", payload), "smooth", scale, licence="apache-2.0", commercial=True)

    @staticmethod
    def load(spec: UpscalerSpec, config: UpscaleConfig) -> SmoothUpscaler:
        return SmoothUpscaler(spec, sharp=bool(config.options.get("sharp")))


class SmoothUpscaler:
    """uint8 (N, H, W, 3) in, uint8 (N, H x scale, W x scale, 3) out. It reads no texts, and ignores them."""

    def __init__(self, spec: UpscalerSpec, *, sharp: bool) -> None:
        self.key, self.scale = spec.key, spec.scale
        self._filter = Image.Resampling.LANCZOS if sharp else Image.Resampling.BICUBIC

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        size = (pixels.shape[2] * self.scale, pixels.shape[1] * self.scale)
        return np.stack([np.asarray(Image.fromarray(p).resize(size, self._filter)) for p in pixels])


class Corner:
    """The segmenter `corner`: takes for the object whatever has another colour than the first pixel."""

    @staticmethod
    def resolve(config: CutoutConfig, resolve: Resolve) -> SegmenterSpec:
        key = content_key("segmenter", {"engine": "corner", "epoch": 1})
        return SegmenterSpec(key, "corner", licence="apache-2.0", commercial=True)

    @staticmethod
    def load(spec: SegmenterSpec, config: CutoutConfig) -> CornerSegmenter:
        return CornerSegmenter(spec.key)


class CornerSegmenter:
    """See Corner."""

    def __init__(self, key: str) -> None:
        self.key = key

    def segment(self, pixels: np.ndarray) -> np.ndarray:
        return np.where((pixels != pixels[0, 0]).any(axis=-1), 255, 0).astype(np.uint8)


class BrightGate:
    """The gate `bright`: rejects candidates that are mostly dark."""

    name, stage = "bright", "candidate"

    def check(self, pixels: np.ndarray) -> list[Verdict]:
        means = pixels.mean(axis=(1, 2, 3))
        return [
            Verdict("bright", bool(m >= 96), "" if m >= 96 else f"the mean is {m:.0f} of 255 (limit 96)", float(m))
            for m in means
        ]
