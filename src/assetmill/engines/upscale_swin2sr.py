"""Swin2SR from transformers: through its own processor, which pads to its windows, then cropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assetmill.engines.devices import memory_errors, pick_device, pick_dtype
from assetmill.engines.folders import fingerprint_folder
from assetmill.engines.protocols import EngineError, UpscalerSpec
from assetmill.engines.tiling import Place, TileRun
from assetmill.engines.upscale import BATCH_PIXELS, check_pixels
from assetmill.engines.upscaler_folders import read_own_scale


class Swin2SRUpscaler:
    """A Swin2SRForImageSuperResolution from a folder. Pictures larger than `tile` go through in overlapping tiles.

    float32 unless a config says otherwise: its attention scales overflow in float16. Raises EngineError where the
    folder cannot be used.
    """

    generative = False

    def __init__(
        self, spec: UpscalerSpec, *, tile: int = 256, overlap: int = 16, device: str = "auto", dtype: str = "auto"
    ) -> None:
        self.spec = spec
        self.key = spec.key
        self.scale = spec.scale
        self.device = pick_device(device)
        self.dtype = pick_dtype("float32" if dtype == "auto" else dtype, self.device)
        folder = Path(spec.file)
        if fingerprint_folder(folder, trust_cache=False) != spec.fingerprint:
            raise EngineError(f"{folder} is not what the plan named: changed or damaged; plan again or restore it")
        with memory_errors(f"the upscaler {folder.name}"):
            self._model, self._processor = _load(folder)
            self._model.to(device=self.device, dtype=self.dtype)
        self.tiles = TileRun(
            self.scale, read_own_scale(folder, spec.family), self.device, self.dtype,
            BATCH_PIXELS * (64 if self.device.type == "cuda" else 1), tile, overlap,
        )  # fmt: skip

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        """uint8 (N, H, W, 3) enlarged `scale` times; see Upscaler. Raises OutOfMemory when one tile doesn't fit."""
        check_pixels(pixels, texts)
        return self.tiles.enlarge(pixels, self._enlarge)

    def _enlarge(self, tiles: Any, places: Sequence[Place]) -> Any:
        inputs = self._processor(images=list(tiles), do_rescale=False, return_tensors="pt")
        values = inputs["pixel_values"].to(device=self.device, dtype=self.dtype)
        own = self.tiles.own_scale
        return self._model(values).reconstruction[:, :, : tiles.shape[2] * own, : tiles.shape[3] * own]


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import Swin2SRForImageSuperResolution, Swin2SRImageProcessor

    try:
        model = Swin2SRForImageSuperResolution.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        processor = Swin2SRImageProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise EngineError(
            f"{folder} cannot be loaded by Swin2SRForImageSuperResolution: {error}; check that it holds config.json, "
            "preprocessor_config.json and the weights"
        ) from error
    return model.eval().requires_grad_(False), processor
