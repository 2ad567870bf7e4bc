"""Judges beyond open_clip: preference models in transformers' format, and aesthetic heads on any judge's embeddings.

HPSv2 needs neither: it is an open_clip ViT-H-14, given by its weight file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.clip import ClipJudge, prepare
from assetmill.engines.devices import memory_errors, pick_device, pick_dtype, to_floats
from assetmill.engines.folders import fingerprint_folder, hash_files
from assetmill.engines.judge_specs import head_layers
from assetmill.engines.protocols import EngineError, Judged, JudgeSpec, OutOfMemory
from assetmill.engines.recent import RecentTensors

if TYPE_CHECKING:
    import torch

_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for what processors call `resample`, as `prepare` names them."""


class PreferenceJudge:
    """A CLIPModel or SiglipModel of transformers as a Judge; PickScore is such a model.

    A score is the model's own logit, `logit_scale` x cosine + `logit_bias`, as PickScore's authors publish it: about
    18 to 24 there, one more meaning that people prefer the picture e times as often (Kirstain et al. 2023,
    arXiv:2305.01569). Raises EngineError where the folder cannot be loaded.
    """

    def __init__(self, spec: JudgeSpec, *, device: str = "auto", dtype: str = "auto", batch: int = 64) -> None:
        self.spec = spec
        self.key = spec.key
        self.batch = batch
        self.device = pick_device(device)
        # scores must not depend on the machine more than they have to: float32 unless a config says otherwise
        self.dtype = pick_dtype("float32" if dtype == "auto" else dtype, self.device)
        folder = Path(spec.source)
        if fingerprint_folder(folder, trust_cache=False) != spec.fingerprint:
            raise EngineError(f"{folder} is not what the plan named: changed or damaged; plan again or restore it")
        with memory_errors(f"the judge {folder.name}"):
            self._model, self._tokenizer, self._preprocess = _load_model(folder)
            self._model.to(device=self.device, dtype=self.dtype)
        self._scale = self._model.logit_scale.exp().item()
        bias = getattr(self._model, "logit_bias", None)
        self._bias = 0.0 if bias is None else bias.item()
        self._texts = RecentTensors(64 * 2**20)

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
        """Scores and unit embeddings of pictures; see Judge. Pictures that hold NaN score NaN."""
        import torch

        if len(pixels) != len(texts):
            raise ValueError(f"{len(pixels)} pictures but {len(texts)} texts; give one text per picture")
        if not len(texts):
            return Judged(np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
        with torch.inference_mode():
            wanted, seen = self._encode_texts(texts), self._encode_pictures(pixels)
            scores = (seen * wanted).sum(dim=1) * self._scale + self._bias
            bad = ~torch.isfinite(seen).all(dim=1)
            seen = torch.where(bad[:, None], torch.zeros_like(seen), seen)
            return Judged(scores.cpu().numpy(), seen.cpu().numpy())

    def embed_pictures(self, pixels: Any) -> np.ndarray:
        """Unit embeddings of pictures, float32 (N, D); zeros for those that hold NaN."""
        return self.judge(pixels, [""] * len(pixels)).embeddings

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings of texts, float32 (N, D)."""
        import torch

        with torch.inference_mode():
            return self._encode_texts(texts).cpu().numpy()

    # --- inside -----------------------------------------------------------------------------------------------

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        import torch

        rows = {}
        for text in dict.fromkeys(texts):
            held = self._texts.get(text)
            if held is None:
                limit = self._model.config.text_config.max_position_embeddings
                tokens = self._tokenizer(
                    [text], padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
                ).to(self.device)
                held = {"text": _features(self._model.get_text_features(**tokens))[0].clone()}
                self._texts.put(text, held)
            rows[text] = held["text"]
        return torch.stack([rows[text] for text in texts])

    def _encode_pictures(self, pixels: Any) -> torch.Tensor:
        import torch

        parts, start, step = [], 0, self.batch
        while start < len(pixels):
            part = pixels[start : start + step]
            try:
                with memory_errors(f"judging {len(part)} pictures"):
                    inputs = prepare(to_floats(part, self.device), self._preprocess).to(self.dtype)
                    parts.append(_features(self._model.get_image_features(pixel_values=inputs)))
            except OutOfMemory:
                if step == 1:
                    raise
                step = max(1, step // 2)
                continue
            start += len(part)
        return torch.cat(parts)


class AestheticJudge:
    """An aesthetic head on another judge's embeddings: how pretty a picture is, whatever the text says.

    The head is a chain of linear layers over embeddings of unit length, as LAION's predictor (scores of 1 to 10 on
    OpenAI's ViT-L-14); `activation: relu` in the file's metadata puts a ReLU between them. Embeddings are the other
    judge's. Raises EngineError where head and embeddings don't fit.
    """

    def __init__(self, spec: JudgeSpec, *, device: str = "auto", dtype: str = "auto") -> None:
        self.spec = spec
        self.key = spec.key
        base, file = spec.parts[0].spec, Path(spec.head)
        if hash_files([file], trust_cache=False)[file] != spec.head_fingerprint:
            raise EngineError(f"{file} is not what the plan named: changed or damaged; plan again or restore it")
        self._base = (ClipJudge if base.engine == "open_clip" else PreferenceJudge)(base, device=device, dtype=dtype)
        self._layers, self._rectified = _load_head(file)

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
        """Scores and unit embeddings of pictures; see Judge. The texts don't matter."""
        if len(pixels) != len(texts):
            raise ValueError(f"{len(pixels)} pictures but {len(texts)} texts; give one text per picture")
        embeddings = self._base.embed_pictures(pixels)
        if not len(texts):
            return Judged(np.zeros(0, np.float32), embeddings)
        if embeddings.shape[1] != self._layers[0][0].shape[1]:
            raise EngineError(
                f"{self.spec.head} reads embeddings of {self._layers[0][0].shape[1]} numbers, {self.spec.source} gives "
                f"{embeddings.shape[1]}; use the judge that the head was trained on"
            )
        values = embeddings
        for number, (weight, bias) in enumerate(self._layers):
            if number and self._rectified:
                values = np.maximum(values, 0)
            values = values @ weight.T + bias
        scores = np.where(embeddings.any(axis=1), values[:, 0], np.nan).astype(np.float32)
        return Judged(scores, embeddings)


def preprocessing_of(processor: Any) -> dict[str, Any]:
    """What `clip.prepare` needs to know, from an image processor of transformers."""
    size = dict(processor.size)
    squash = size.get("shortest_edge") is None
    crop = dict(processor.crop_size or {}) if getattr(processor, "do_center_crop", False) else {}
    resample = int(processor.resample)
    if resample not in _RESAMPLING:
        raise EngineError(f"the processor resizes with Pillow's filter {resample}, which is not known here")
    edge = (size["height"], size["width"]) if squash else (size["shortest_edge"],) * 2
    target = (crop["height"], crop["width"]) if crop else edge
    if not squash and target != edge:
        raise EngineError(
            f"the processor resizes to {edge[0]} and crops to {target}: only crops of that size are known"
        )
    return {
        "size": target,
        "mean": tuple(processor.image_mean),
        "std": tuple(processor.image_std),
        "interpolation": _RESAMPLING[resample],
        "resize_mode": "squash" if squash else "shortest",
        "fill_color": 0,
    }


# --- inside -------------------------------------------------------------------------------------------------


def _features(found: Any) -> torch.Tensor:
    """Unit features: newer transformers give them inside an output object."""
    import torch

    features = getattr(found, "pooler_output", found)
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _load_model(folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer

    name = str((transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True).architectures or [""])[0])
    try:
        model = getattr(transformers, name).from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise EngineError(
            f"{folder} cannot be loaded by {name or 'transformers'}: {error}; check that model, tokenizer and "
            "processor are complete"
        ) from error
    return model.eval().requires_grad_(False), tokenizer, preprocessing_of(processor)


def _load_head(file: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], bool]:
    from safetensors import safe_open

    with safe_open(str(file), framework="np") as tensors:
        activation = (tensors.metadata() or {}).get("activation", "")
        if activation not in ("", "none", "relu"):
            raise EngineError(f"{file} wants the activation {activation!r}; only relu or none are known")
        held = set(tensors.keys())
        layers = []
        for name in head_layers(file):
            weight = tensors.get_tensor(name).astype(np.float32)
            bias_name = name.removesuffix("weight") + "bias"
            bias = tensors.get_tensor(bias_name).astype(np.float32) if bias_name in held else np.zeros(len(weight))
            layers.append((weight, bias))
    return layers, activation == "relu"
