"""Scoring pictures against texts with open_clip models, batched on the pictures' device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.devices import memory_errors, pick_device, pick_dtype, to_floats
from assetmill.engines.folders import fingerprint_folder, hash_files
from assetmill.engines.protocols import EngineError, Judged, JudgeSpec, OutOfMemory
from assetmill.engines.recent import RecentTensors

if TYPE_CHECKING:
    import torch


class ClipJudge:
    """An open_clip model as a Judge. A score is the cosine between picture and text, in [-1, 1].

    Pictures are prepared as the model's own transform does it, on the device and in batches. Each distinct text is
    encoded once while it is remembered.

    Raises EngineError where the model cannot be loaded.
    """

    def __init__(self, spec: JudgeSpec, *, device: str = "auto", dtype: str = "auto", batch: int = 64) -> None:
        self.spec = spec
        self.key = spec.key
        self.batch = batch
        self.device = pick_device(device)
        # scores must not depend on the machine more than they have to: float32 unless a config says otherwise
        self.dtype = pick_dtype("float32" if dtype == "auto" else dtype, self.device)
        with memory_errors(f"the judge {spec.source}"):
            self._model, self._tokenize = _load_model(spec)
            self._model.to(device=self.device, dtype=self.dtype)
        self._preprocess = dict(self._model.visual.preprocess_cfg)
        self._texts = RecentTensors(64 * 2**20)

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
        """Scores and unit embeddings of pictures; see Judge. Pictures that hold NaN score NaN."""
        import torch

        if len(pixels) != len(texts):
            raise ValueError(f"{len(pixels)} pictures but {len(texts)} texts; give one text per picture")
        if not len(texts):
            return Judged(np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
        with torch.inference_mode():
            wanted = self.encode_texts(texts)
            seen = self._encode_pictures(pixels)
            scores = (seen * wanted).sum(dim=1)
            bad = ~torch.isfinite(seen).all(dim=1)
            seen = torch.where(bad[:, None], torch.zeros_like(seen), seen)
            return Judged(scores.cpu().numpy(), seen.cpu().numpy())

    def embed_pictures(self, pixels: Any) -> np.ndarray:
        """Unit embeddings of pictures, float32 (N, D); zeros for those that hold NaN."""
        return self.judge(pixels, [""] * len(pixels)).embeddings

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings of texts, float32 (N, D): a picture's score is its product with its text's."""
        import torch

        with torch.inference_mode():
            return self.encode_texts(texts).cpu().numpy()

    def versions(self) -> Mapping[str, str]:
        """Library versions, to record beside scores."""
        return {name: metadata.version(name) for name in ("open-clip-torch", "torch")}

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (N, D) of texts, float32 on the judge's device, each distinct one encoded once."""
        import torch

        held = {text: self._texts.get(text) for text in dict.fromkeys(texts)}
        missing = [text for text, group in held.items() if group is None]
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            features = self._model.encode_text(self._tokenize(part).to(self.device)).float()
            features = torch.nn.functional.normalize(features, dim=-1)
            for row, text in enumerate(part):
                group = {"text": features[row].clone()}
                held[text] = group
                self._texts.put(text, group)
        return torch.stack([(held[text] or {})["text"] for text in texts])

    def encode_views(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """Unit embeddings (N, D) of pictures (1, 3, H, W) in [0, 1] of any size, differentiable in the pictures."""
        import torch

        inputs = torch.cat([prepare(view, self._preprocess, rounded=False) for view in views]).to(self.dtype)
        return torch.nn.functional.normalize(self._model.encode_image(inputs).float(), dim=-1)

    # --- inside -----------------------------------------------------------------------------------------------

    def _encode_pictures(self, pixels: Any) -> torch.Tensor:
        import torch

        parts, start, step = [], 0, self.batch
        while start < len(pixels):
            part = pixels[start : start + step]
            try:
                with memory_errors(f"judging {len(part)} pictures"):
                    inputs = prepare(to_floats(part, self.device), self._preprocess).to(self.dtype)
                    features = self._model.encode_image(inputs).float()
            except OutOfMemory:
                if step == 1:
                    raise
                step = max(1, step // 2)
                continue
            parts.append(torch.nn.functional.normalize(features, dim=-1))
            start += len(part)
        return torch.cat(parts)


def prepare(pixels: torch.Tensor, config: Mapping[str, Any], *, rounded: bool = True) -> torch.Tensor:
    """Floats (N, 3, H, W) in [0, 1] as a model of open_clip reads them: resized, cropped and normalised.

    `config` is the model's `preprocess_cfg`. Equals open_clip's own transform up to a grey level; more only where
    resizing overshoots beyond black or white at hard edges, because Pillow clips there between rows and columns.
    `rounded` False leaves out the steps of 8 bits, through which no gradient passes.
    """
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = {
        "bicubic": InterpolationMode.BICUBIC,
        "bilinear": InterpolationMode.BILINEAR,
    }.get(config["interpolation"])
    if mode is None:
        raise EngineError(f"the judge wants interpolation {config['interpolation']!r}; bicubic and bilinear are known")
    resize_mode = config["resize_mode"]
    target: tuple[int, int]
    if resize_mode == "squash":
        target = (height, width)
    elif resize_mode in ("shortest", "longest"):
        ratios = (pixels.shape[2] / height, pixels.shape[3] / width)
        ratio = min(ratios) if resize_mode == "shortest" else max(ratios)
        if height == width and resize_mode == "shortest":
            # torchvision cuts the longer edge's fraction off, open_clip's own code for the other cases rounds it
            short = min(pixels.shape[2:])
            target = (height * pixels.shape[2] // short, width * pixels.shape[3] // short)
        else:
            target = (round(pixels.shape[2] / ratio), round(pixels.shape[3] / ratio))
    else:
        raise EngineError(f"the judge wants resize mode {resize_mode!r}; squash, shortest and longest are known")
    if target != tuple(pixels.shape[2:]):
        pixels = F.resize(pixels, list(target), interpolation=mode, antialias=True)
        pixels = pixels.clamp(0, 1)
        if rounded:
            pixels = pixels.mul(255).round().div(255)  # as in 8 bits, which models were trained on
    if target[0] < height or target[1] < width:
        top, left = (height - target[0]) // 2, (width - target[1]) // 2
        padding = [left, top, width - target[1] - left, height - target[0] - top]
        pixels = F.pad(pixels, padding, fill=config.get("fill_color", 0) / 255)
    pixels = F.center_crop(pixels, [height, width])
    mean = torch.tensor(config["mean"], device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(config["std"], device=pixels.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def _load_model(spec: JudgeSpec) -> tuple[Any, Any]:
    import open_clip

    path = Path(spec.source)
    folder = path if (path / "open_clip_config.json").is_file() else None
    pretrained: str | None = None
    if folder is not None:
        name = f"local-dir:{folder}"
        if fingerprint_folder(folder, trust_cache=False) != spec.fingerprint:
            raise EngineError(f"{folder} is not what the plan named: changed or damaged; plan again or restore it")
    else:
        name, pretrained = spec.source, spec.pretrained  # a tag brings its own preprocessing, a file has none
        _check_weight_file(spec)
    try:
        model = open_clip.create_model(
            name, pretrained=pretrained, precision="fp32", require_pretrained=True,
            force_preprocess_cfg=_preprocessing(spec) if folder is None and spec.fingerprint else None,
        )  # fmt: skip
        tokenize = open_clip.get_tokenizer(name)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AssertionError) as error:
        raise EngineError(f"open_clip cannot load {spec.source}: {error}") from error
    return model.eval().requires_grad_(False), tokenize


def _preprocessing(spec: JudgeSpec) -> dict[str, Any]:
    """How the weights in a file want their pictures, which the file itself does not say.

    As all published weights of their architecture do: SigLIP, PE-Core, CLIPA and MobileCLIP are normalised and resized
    otherwise than CLIP. Where those differ among themselves, as CLIP's first ones do.
    """
    import open_clip

    names = {"mean", "std", "interpolation", "resize_mode"}
    tags = open_clip.list_pretrained_tags_by_model(spec.source)
    configs = [open_clip.get_pretrained_cfg(spec.source, tag) for tag in tags]
    found = [{name: config[name] for name in names} for config in configs if names <= config.keys()]
    return found[0] if found and all(each == found[0] for each in found) else {}


def _check_weight_file(spec: JudgeSpec) -> None:
    """Refuses changed, unknown and pickled weights of an architecture given by name.

    A tag's file is fetched by open_clip's own code if it is not on this machine yet.
    """
    import open_clip

    file = Path(spec.pretrained)
    if spec.fingerprint:
        if hash_files([file], trust_cache=False)[file] != spec.fingerprint:
            raise EngineError(f"{file} is not what the plan named: changed or damaged; plan again or restore it")
        return
    found = open_clip.get_pretrained_cfg(spec.source, spec.pretrained)
    if not found:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(spec.source)) or "none"
        raise EngineError(f"open_clip has no weights {spec.pretrained!r} for {spec.source}; its tags: {tags}")
    try:
        file = Path(open_clip.download_pretrained(found))
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"the weights {spec.source}/{spec.pretrained} are not on this machine and cannot be fetched ({error}); "
            "give judge.pretrained as a .safetensors file"
        ) from error
    if file.suffix != ".safetensors":
        raise EngineError(
            f"the weights {spec.source}/{spec.pretrained} come as the pickle {file.name}, which runs code when read; "
            "choose another tag, or convert it to safetensors where you trust it"
        )
