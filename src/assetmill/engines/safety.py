"""A separate safety check: pictures that must not be published, each with its reason. No picture is ever changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines import facts
from assetmill.engines.devices import memory_errors, pick_device
from assetmill.engines.folders import fingerprint_folder, read_card, read_json
from assetmill.engines.protocols import EngineError, SafetySpec
from assetmill.engines.upscaler_folders import check_model_folder
from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    from assetmill.config import SafetyConfig

EPOCH = 1
"""Raised by hand when a check gives other verdicts on the same picture."""

CHECKER = "StableDiffusionSafetyChecker"
_BATCH = 16


def resolve_safety_folder(config: SafetyConfig, resolve: Callable[[Path | str], Path]) -> SafetySpec:
    """The spec of a safety check's folder: Stable Diffusion's own checker, or a classifier of transformers.

    Never imports torch. Raises InputError, also for labels that the classifier doesn't have, and for a classifier
    without any: which of its labels are unsafe is in its card alone.
    """
    folder = resolve(config.source or "")
    if not (folder / "config.json").is_file():
        raise InputError(
            Problem(
                "no folder with a config.json", "give the folder of a saved safety checker or image classifier",
                file=str(folder), column="gates.safety.source",
            )
        )  # fmt: skip
    problems = check_model_folder(folder, "gates.safety.source")
    found = read_json(folder / "config.json")
    name = str((found.get("architectures") or [""])[0])
    if not (folder / "preprocessor_config.json").is_file():
        problems.append(
            Problem(
                "does not say how it wants its pictures", "put its preprocessor_config.json there (of Stable Diffusion "
                "it lies in the folder feature_extractor)", file=str(folder), column="gates.safety.source",
            )
        )  # fmt: skip
    if name == CHECKER:
        if config.reject:
            problems.append(
                Problem(
                    f"a {CHECKER} has no labels", "remove gates.safety.reject", column="gates.safety.reject",
                )
            )  # fmt: skip
    elif name.endswith("ForImageClassification"):
        labels = {str(v) for v in found.get("id2label", {}).values()}
        unknown = sorted(set(config.reject) - labels)
        if unknown or not config.reject:
            problems.append(
                Problem(
                    f"the classifier has no label {unknown[0]!r}" if unknown else "which labels are unsafe is not said",
                    f"give some of its labels: {', '.join(sorted(labels))}", file=str(folder),
                    column="gates.safety.reject",
                )
            )  # fmt: skip
    else:
        problems.append(
            Problem(
                f"{name or 'it'} is no safety check", f"give the folder of a {CHECKER} or of an image classifier",
                file=str(folder), column="gates.safety.source",
            )
        )  # fmt: skip
    if problems:
        raise InputError(problems)
    fingerprint = fingerprint_folder(folder)
    settings = {"reject": sorted(config.reject), "threshold": config.threshold if config.reject else 0.0}
    card = read_card(folder)
    licence = str(card.get("license_name") or card.get("license") or "")
    return SafetySpec(
        str(folder), name, fingerprint, content_key("safety", {"weights": fingerprint, "epoch": EPOCH, **settings}),
        licence, facts.may_sell(licence),
    )  # fmt: skip


class SafetyCheck:
    """The check that a spec names, loaded. Raises EngineError where the folder cannot be used."""

    def __init__(self, spec: SafetySpec, config: SafetyConfig) -> None:
        self.spec = spec
        self.key = spec.key
        self.reject = config.reject
        self.threshold = config.threshold
        self.device = pick_device(config.device)
        folder = Path(spec.folder)
        if fingerprint_folder(folder, trust_cache=False) != spec.fingerprint:
            raise EngineError(f"{folder} is not what the plan named: changed or damaged; plan again or restore it")
        with memory_errors(f"the safety check {folder.name}"):
            self._model, self._processor = _load(folder, spec.family)
            self._model.to(self.device)

    def check(self, pixels: np.ndarray) -> list[str]:
        """A reason for each picture of uint8 (N, H, W, 3) that must not be published, the empty text for others."""
        import torch

        reasons: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(pixels), _BATCH):
                part = pixels[start : start + _BATCH]
                inputs = self._processor(images=list(part), return_tensors="pt")["pixel_values"].to(self.device)
                reasons += self._concepts(inputs) if self.spec.family == CHECKER else self._labels(inputs)
        return reasons

    def _concepts(self, inputs: Any) -> list[str]:
        """Stable Diffusion's checker says which pictures, not why: the reason is the concept that came closest."""
        # The second argument is what it blackens: a stand-in, as the picture itself is to stay as it is.
        _, flagged = self._model(clip_input=inputs, images=[np.zeros(1)] * len(inputs))
        excess = self._excess(inputs) if any(flagged) else np.zeros((len(inputs), 1))
        return [
            f"the safety checker sees its concept {int(row.argmax())} ({float(row.max()):+.3f} above its threshold)"
            if bad
            else ""
            for bad, row in zip(flagged, excess, strict=True)
        ]

    def _excess(self, inputs: Any) -> np.ndarray:
        """How far each picture's similarity to each concept lies above that concept's threshold."""
        from torch.nn.functional import normalize

        model = self._model
        seen = normalize(model.visual_projection(model.vision_model(inputs)[1]))
        similar = seen @ normalize(model.concept_embeds).T
        return (similar - model.concept_embeds_weights).float().cpu().numpy()

    def _labels(self, inputs: Any) -> list[str]:
        shares = self._model(pixel_values=inputs).logits.float().softmax(dim=-1).cpu().numpy()
        names: Mapping[int, str] = self._model.config.id2label
        columns = [i for i, name in names.items() if name in self.reject]
        return [self._reason(row, columns, names) for row in shares]

    def _reason(self, shares: np.ndarray, columns: Sequence[int], names: Mapping[int, str]) -> str:
        worst = max(columns, key=lambda i: shares[i])
        if float(shares[worst]) < self.threshold:
            return ""
        return f"the classifier sees {names[worst]!r} ({shares[worst]:.0%}, limit {self.threshold:.0%})"


def _load(folder: Path, family: str) -> tuple[Any, Any]:
    import transformers

    try:
        if family == CHECKER:
            from diffusers.pipelines.stable_diffusion import safety_checker

            model_class: Any = safety_checker.StableDiffusionSafetyChecker
        else:
            model_class = getattr(transformers, family)
        model = model_class.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        processor = transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise EngineError(
            f"{folder} cannot be loaded by {family}: {error}; check that model and processor are complete"
        ) from error
    return model.eval().requires_grad_(False), processor
