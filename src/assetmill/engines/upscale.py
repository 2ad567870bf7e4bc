"""Enlarging chosen pictures: spandrel's super-resolution models, Lanczos, and nearest neighbour for pixel art."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import memory_errors, pick_device, pick_dtype
from assetmill.engines.folders import hash_files
from assetmill.engines.protocols import EngineError, UpscalerSpec
from assetmill.engines.tiling import TileRun

if TYPE_CHECKING:
    import torch

BATCH_PIXELS = 16 * 64 * 64
"""Input pixels per forward on a CPU: a sixteen of starter pictures. A GPU takes 64 times as many, halved if need be."""


class ResizeUpscaler:
    """Enlarges without a model: `lanczos`, `nearest` (also for simulated runs), or `none`, which keeps the picture."""

    generative = False

    def __init__(self, spec: UpscalerSpec) -> None:
        if spec.engine not in ("lanczos", "nearest", "none", "simulated"):
            raise EngineError(f"the resizer {spec.engine!r} is unknown; use lanczos, nearest or none")
        self.spec = spec
        self.key = spec.key
        self.scale = spec.scale

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times; see Upscaler."""
        check_pixels(pixels, texts)
        if self.scale == 1:
            return pixels.copy()
        if self.spec.engine != "lanczos":
            return pixels.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
        from PIL import Image

        size = (pixels.shape[2] * self.scale, pixels.shape[1] * self.scale)
        return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pixels])


class SpandrelUpscaler:
    """A super-resolution model that spandrel reads, from a safetensors file.

    Its descriptor says factor, number formats and size rules. Pictures larger than `tile` go through in overlapping
    tiles. Where `spec.scale` is less than the model's own factor, the result is reduced to it.

    Raises EngineError where the file cannot be used.
    """

    generative = False

    def __init__(
        self, spec: UpscalerSpec, *, tile: int = 256, overlap: int = 16, device: str = "auto", dtype: str = "auto"
    ) -> None:
        from spandrel import ModelTiling

        self.spec = spec
        self.key = spec.key
        self.scale = spec.scale
        self.device = pick_device(device)
        file = Path(spec.file)
        if hash_files([file], trust_cache=False)[file] != spec.fingerprint:
            raise EngineError(f"{file} is not what the plan named: changed or damaged; plan again or restore it")
        self._model = _load_descriptor(file)
        own_scale: int = self._model.scale
        if self.scale > own_scale:
            raise EngineError(f"{file} enlarges {own_scale} times, not {self.scale}; lower upscale.scale")
        with memory_errors(f"the upscaler {file.name}"):
            self.dtype = self._fitting_dtype(dtype)
            self._model.to(device=self.device, dtype=self.dtype).eval()
        sizes = self._model.size_requirements
        # Tiles of sizes the model takes as they are: the descriptor would pad each of them otherwise.
        self.tiles = TileRun(
            self.scale, own_scale, self.device, self.dtype, BATCH_PIXELS * (64 if self.device.type == "cuda" else 1),
            None if self._model.tiling is ModelTiling.INTERNAL else max(tile, sizes.minimum), overlap,
            sizes.multiple_of,
        )  # fmt: skip

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times; see Upscaler. Raises OutOfMemory when one tile doesn't fit."""
        check_pixels(pixels, texts)
        return self.tiles.enlarge(pixels, lambda tiles, _: self._model(tiles))

    # --- inside -----------------------------------------------------------------------------------------------

    def _fitting_dtype(self, wish: str) -> torch.dtype:
        import torch

        model = self._model
        if wish == "auto" and self.device.type == "cuda":
            if model.supports_half:
                return torch.float16
            return torch.bfloat16 if model.supports_bfloat16 else torch.float32
        dtype = pick_dtype(wish, self.device)
        fits = {torch.float16: model.supports_half, torch.bfloat16: model.supports_bfloat16}.get(dtype, True)
        if not fits:
            raise EngineError(f"{model.architecture.name} does not run in {wish}; use upscale.dtype: float32")
        return dtype


def read_scale(file: Path) -> int:
    """The factor of a super-resolution file, found by loading it."""
    return _load_descriptor(file).scale


def _load_descriptor(file: Path) -> Any:
    if file.suffix != ".safetensors":
        raise EngineError(f"{file} is not safetensors; other weight files run code when read: convert it first")
    from safetensors import SafetensorError
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

    try:
        model = ModelLoader(device="cpu").load_from_file(str(file))
    except UnsupportedModelError as error:
        raise EngineError(f"{file} is no architecture that spandrel knows; choose another upscaler") from error
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise EngineError(f"{file} cannot be loaded by spandrel: {error}") from error
    if not isinstance(model, ImageModelDescriptor) or model.purpose == "FaceSR":
        raise EngineError(f"{file} is for {model.purpose}, not for enlarging whole pictures; choose another upscaler")
    if (model.input_channels, model.output_channels) != (3, 3):
        raise EngineError(f"{file} works on {model.input_channels} channels; choose an upscaler for RGB")
    return model


def check_pixels(pixels: np.ndarray, texts: Sequence[str] | None = None) -> None:
    """Raises ValueError for anything but uint8 (N, H, W, 3) pictures with no texts, or one each."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"pictures are {pixels.dtype} {pixels.shape}; expected uint8 (N, H, W, 3)")
    if texts is not None and len(texts) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures but {len(texts)} texts; give one text per picture, or none")
