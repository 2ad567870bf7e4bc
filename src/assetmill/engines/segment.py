"""Segmentation models for cut-outs, run by rembg: they find the object where the ground is anything but flat.

rembg's own sessions load the model (an ONNX file, which holds no code) and prepare its input. The file is named by the
config, or fetched by rembg where the config allows it, and pinned by its hash either way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assetmill.engines import facts
from assetmill.engines.folders import check_weights, hash_files
from assetmill.engines.protocols import EngineError, SegmenterSpec
from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    import numpy as np

    from assetmill.config import CutoutConfig

EPOCH = 1
"""Raised by hand when `RembgSegmenter` gives other alphas for the same picture."""

MODELS: Mapping[str, str] = MappingProxyType(
    {
        "birefnet-general": "mit", "birefnet-general-lite": "mit", "birefnet-general-fp16": "mit",
        "birefnet-portrait": "mit", "birefnet-dis": "mit", "birefnet-hrsod": "mit", "birefnet-cod": "mit",
        "birefnet-massive": "mit", "isnet-general-use": "apache-2.0", "isnet-anime": "apache-2.0",
        "u2net": "apache-2.0", "u2netp": "apache-2.0", "u2net_human_seg": "apache-2.0", "silueta": "apache-2.0",
        "bria-rmbg": "cc-by-nc-4.0", "u2net_custom": "", "dis_custom": "", "ben_custom": "",
    }
)  # fmt: skip
"""Kinds of model by rembg's name, with the licence of the weights published under it ("" for one's own).

Left out are those that give several masks or want clicks, and those that send pictures to somebody's server.
"""

EXTRA = "pip install 'assetmill[cutout]'"


def resolve_rembg(config: CutoutConfig, resolve: Callable[[Path | str], Path]) -> SegmenterSpec:
    """The spec of the configured model. Loads rembg only to fetch a model by name. Raises InputError, EngineError."""
    if config.model not in MODELS:
        raise InputError(
            Problem(
                f"{config.model!r} is not a model that cuts one object out", f"use one of {', '.join(MODELS)}",
                column="cutout.model", value=config.model,
            )
        )  # fmt: skip
    path = resolve(config.source) if config.source is not None else _fetched(config)
    problems = []
    if not path.is_file():
        problems.append(Problem("there is no such file", "give the model's .onnx file", file=str(path)))
    elif path.suffix.lower() != ".onnx":
        problems.append(Problem("is not an ONNX file", "give the model's .onnx file", file=str(path)))
    else:
        problems += check_weights({path.name: path}, path.parent)
    if problems:
        raise InputError(problems)
    fingerprint = hash_files([path])[path]
    if config.sha256 is not None and fingerprint != config.sha256:
        raise InputError(
            Problem(
                f"its SHA-256 is {fingerprint}", "restore the file, or set cutout.sha256 to this", file=str(path),
                column="cutout.sha256", value=config.sha256,
            )
        )  # fmt: skip
    licence = MODELS[config.model]
    key = content_key("segmenter", {"weights": fingerprint, "model": config.model, "epoch": EPOCH})
    return SegmenterSpec(key, "rembg", config.model, str(path), fingerprint, licence, facts.may_sell(licence))


class RembgSegmenter:
    """The model that a spec names, in rembg's session. Safe to call from several threads.

    Raises EngineError where rembg is not installed, the file cannot be loaded, or the device is not there.
    """

    def __init__(self, spec: SegmenterSpec, device: str = "auto") -> None:
        self.spec = spec
        self.key = spec.key
        path = Path(spec.file)
        if hash_files([path], trust_cache=False)[path] != spec.fingerprint:
            raise EngineError(f"{path} is not what the plan named: changed or damaged; plan again or restore it")
        self._session = _open_session(spec.model, path, device)

    def segment(self, pixels: np.ndarray) -> np.ndarray:
        """The object's alpha, uint8 (H, W), of uint8 (H, W, 3) sRGB pixels: 255 where the object is."""
        import numpy as np
        from PIL import Image

        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"pixels must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
        # A model that sees nothing at all gives one value everywhere, which rembg divides by nothing.
        with np.errstate(invalid="ignore", divide="ignore"):
            masks = self._session.predict(Image.fromarray(pixels))
        alpha = np.asarray(masks[0].convert("L"))
        if len(masks) != 1 or alpha.shape != pixels.shape[:2]:
            raise EngineError(
                f"{self.spec.file} gave {len(masks)} masks of {alpha.shape} for a picture of {pixels.shape[:2]}; "
                f"is it a model of the kind {self.spec.model!r}?"
            )
        return alpha.copy()


def _open_session(model: str, path: Path, device: str) -> Any:
    session_class = _session_class(model)

    class Pinned(session_class):  # type: ignore[misc, valid-type]
        """rembg's session of this kind, with the file that the plan named."""

        @classmethod
        def download_models(cls, *args: object, **kwargs: object) -> str:
            return str(path)

    import onnxruntime

    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = Pinned(model, options, providers=providers)
    except Exception as error:
        raise EngineError(f"{path} cannot be loaded as {model!r}: {error}") from error
    used = session.inner_session.get_providers()
    if device.startswith("cuda") and "CUDAExecutionProvider" not in used:
        raise EngineError(f"onnxruntime cannot use {device}: it fell back to {used[0]}; set cutout.device: cpu")
    return session


def _session_class(model: str) -> Any:
    try:
        from rembg.sessions import sessions
    except ImportError as error:
        raise EngineError(f"cutout.engine rembg needs rembg ({error}): {EXTRA}") from error
    if model not in sessions:
        raise EngineError(f"this version of rembg does not know {model!r}; update it: {EXTRA} --upgrade")
    return sessions[model]


def _providers(device: str, available: list[str]) -> list[Any]:
    """onnxruntime's providers for a device of the config, as rembg takes them."""
    has_cuda = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if match is None:
        raise EngineError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:1 and so on")
    if not has_cuda:
        raise EngineError(f"device {device!r} needs onnxruntime-gpu; install it, or set cutout.device: cpu")
    return [("CUDAExecutionProvider", {"device_id": int(match[1] or 0)}), "CPUExecutionProvider"]


def _fetched(config: CutoutConfig) -> Path:
    """The file that rembg keeps for a model's name, fetched by rembg, against its checksum, where it is not there."""
    if not config.download:
        raise InputError(
            Problem(
                "cutout.engine rembg names no model file", "set cutout.source to an .onnx file (rembg keeps its own "
                "under ~/.rembg/models), or cutout.download: true", column="cutout.source",
            )
        )  # fmt: skip
    if config.model.endswith("_custom"):
        raise InputError(
            Problem(f"{config.model!r} is for files of one's own", "set cutout.source", column="cutout.source")
        )
    try:
        return Path(_session_class(config.model).download_models())
    except (OSError, ValueError) as error:
        raise EngineError(
            f"rembg cannot fetch {config.model!r}: {error}; try again, or set cutout.source to a file"
        ) from error
