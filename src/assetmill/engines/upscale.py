"""Enlarging chosen pictures: spandrel's super-resolution models, Lanczos, and nearest neighbour for pixel art."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import memory_errors, pick_device, pick_dtype, to_bytes
from assetmill.engines.folders import hash_files
from assetmill.engines.protocols import EngineError, OutOfMemory, UpscalerSpec
from assetmill.engines.tiling import enlarge_in_tiles

if TYPE_CHECKING:
    import torch

_BATCH_PIXELS = 16 * 64 * 64
"""Input pixels per forward on a CPU: a sixteen of starter pictures. A GPU takes 64 times as many, halved if need be."""


class ResizeUpscaler:
    """Enlarges without a model: `lanczos`, `nearest` (also for simulated runs), or `none`, which keeps the picture."""

    def __init__(self, spec: UpscalerSpec) -> None:
        if spec.engine not in ("lanczos", "nearest", "none", "simulated"):
            raise EngineError(f"the resizer {spec.engine!r} is unknown; use lanczos, nearest or none")
        self.spec = spec
        self.key = spec.key
        self.scale = spec.scale

    def upscale(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times; see Upscaler."""
        _check_pixels(pixels)
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

    def __init__(
        self, spec: UpscalerSpec, *, tile: int = 256, overlap: int = 16, device: str = "auto", dtype: str = "auto"
    ) -> None:
        self.spec = spec
        self.key = spec.key
        self.scale = spec.scale
        self.tile = tile
        self.overlap = overlap
        self.device = pick_device(device)
        file = Path(spec.file)
        if hash_files([file], trust_cache=False)[file] != spec.fingerprint:
            raise EngineError(f"{file} is not what the plan named: changed or damaged; plan again or restore it")
        self._model = _load_descriptor(file)
        self.own_scale: int = self._model.scale
        if self.scale > self.own_scale:
            raise EngineError(f"{file} enlarges {self.own_scale} times, not {self.scale}; lower upscale.scale")
        with memory_errors(f"the upscaler {file.name}"):
            self.dtype = self._fitting_dtype(dtype)
            self._model.to(device=self.device, dtype=self.dtype).eval()
        self._batch_pixels = _BATCH_PIXELS * (64 if self.device.type == "cuda" else 1)

    def upscale(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times; see Upscaler. Raises OutOfMemory when one tile doesn't fit."""
        import torch

        _check_pixels(pixels)
        if not len(pixels):
            return np.zeros((0, pixels.shape[1] * self.scale, pixels.shape[2] * self.scale, 3), np.uint8)
        edges = [min(side, self._tile_edge(side)) for side in pixels.shape[1:3]]
        batch = max(1, self._batch_pixels // (edges[0] * edges[1]))
        group = max(1, self._batch_pixels // (pixels.shape[1] * pixels.shape[2]))
        out, start = [], 0
        with torch.inference_mode():
            while start < len(pixels):
                part = pixels[start : start + group]
                try:
                    with memory_errors(f"upscaling {len(part)} pictures of {pixels.shape[2]}x{pixels.shape[1]}"):
                        out.append(self._enlarge(part, batch))
                except OutOfMemory:
                    if batch == group == 1:
                        raise
                    batch, group = max(1, batch // 2), max(1, group // 2)
                    self._batch_pixels //= 2
                    continue
                start += len(part)
        return np.concatenate(out)

    # --- inside -----------------------------------------------------------------------------------------------

    def _enlarge(self, pixels: np.ndarray, batch: int) -> np.ndarray:
        import torch

        inputs = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).permute(0, 3, 1, 2)
        inputs = inputs.to(self.dtype).div(255)
        tile = max(self._tile_edge(side) for side in pixels.shape[1:3])
        large = enlarge_in_tiles(
            inputs, self._model, scale=self.own_scale, tile=tile, overlap=self.overlap, batch=batch
        )
        if self.scale < self.own_scale:
            size = (pixels.shape[1] * self.scale, pixels.shape[2] * self.scale)
            large = torch.nn.functional.interpolate(large.float(), size, mode="bicubic", antialias=True)
        return to_bytes(large)

    def _tile_edge(self, side: int) -> int:
        """The edge of a tile: the config's, or the whole picture for a model that tiles by itself."""
        from spandrel import ModelTiling

        return side if self._model.tiling is ModelTiling.INTERNAL else self.tile

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


def _check_pixels(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"pictures are {pixels.dtype} {pixels.shape}; expected uint8 (N, H, W, 3)")
