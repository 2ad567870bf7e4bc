"""The separate safety check: reasons as the real checkers give verdicts, and pictures that stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import SafetyConfig
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_safety, resolve_safety
from assetmill.records import InputError
from tiny_judges import write_classifier, write_safety_checker


@pytest.fixture(scope="session")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safety_checker(tmp_path_factory.mktemp("safety") / "checker")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("safety") / "classifier")


def load(folder: Path, **settings: Any) -> Any:
    config = SafetyConfig(source=str(folder), device="cpu", **settings)
    return load_safety(resolve_safety(config, Path), config)


def make_pictures(count: int = 40) -> np.ndarray:
    """Pictures unlike each other: stripes, gradients and noise in many colours."""
    random = np.random.default_rng(1)
    base = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return base.repeat(12, axis=1).repeat(12, axis=2)


def test_the_checker_of_stable_diffusion(checker: Path) -> None:
    """Reasons stand where the real checker's own call flags a picture, name the nearest concept, and nothing is
    blackened."""
    import torch
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import AutoImageProcessor

    check, pictures = load(checker), make_pictures()
    excess = check._excess(check._processor(images=list(pictures), return_tensors="pt")["pixel_values"])
    # thresholds that part these pictures, as those of the real weights part safe ones from others
    model = StableDiffusionSafetyChecker.from_pretrained(checker)
    limit = float(np.median(excess.max(axis=1))) + 0.9
    for each in (model, check._model):
        each.concept_embeds_weights.data.fill_(limit)
    inputs = AutoImageProcessor.from_pretrained(checker)(list(pictures), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        _, flagged = model(clip_input=inputs, images=torch.from_numpy(pictures.copy()))
    before = pictures.copy()
    reasons = check.check(pictures)
    np.testing.assert_array_equal(pictures, before)
    assert [bool(r) for r in reasons] == list(flagged)
    assert 0 < sum(flagged) < len(flagged)
    assert all("sees its concept" in r for r in reasons if r)
    assert check.check(pictures[:0]) == []
    assert [bool(check.check(p[None])[0]) for p in pictures[:6]] == list(flagged[:6])


def test_a_classifier(classifier: Path) -> None:
    """A picture is rejected where the probability of an unsafe label reaches the threshold; the reason says which."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    pictures = make_pictures()
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    inputs = AutoImageProcessor.from_pretrained(classifier)(list(pictures), return_tensors="pt")
    with torch.no_grad():
        shares = model(**inputs).logits.softmax(-1)[:, 1].numpy()
    threshold = float(np.sort(shares)[len(shares) // 2]) + 1e-6
    reasons = load(classifier, reject=("nsfw",), threshold=threshold).check(pictures)
    assert [bool(r) for r in reasons] == [bool(s >= threshold) for s in shares]
    assert 0 < sum(map(bool, reasons)) < len(pictures)
    assert all(r.startswith("the classifier sees 'nsfw' (") for r in reasons if r)


def test_what_cannot_be_used(checker: Path, classifier: Path, tmp_path: Path) -> None:
    """Folders that are no check, labels it lacks, and a classifier without labels are refused with the way out."""
    import shutil

    odd = Path(shutil.copytree(checker, tmp_path / "odd"))
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "architectures": ["CLIPModel"]}))
    bare = Path(shutil.copytree(checker, tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    for settings, message in [
        ({"source": str(tmp_path / "gone")}, "no folder with a config.json"),
        ({"source": str(odd)}, "CLIPModel is no safety check"),
        ({"source": str(bare)}, "feature_extractor"),
        ({"source": str(checker), "reject": ("nsfw",)}, "has no labels"),
        ({"source": str(classifier)}, "which labels are unsafe is not said.*normal, nsfw"),
        ({"source": str(classifier), "reject": ("porn",)}, "no label 'porn'"),
    ]:
        with pytest.raises(InputError, match=message):
            resolve_safety(SafetyConfig(**settings), Path)
    assert resolve_safety(SafetyConfig(), Path) is None
    assert load_safety(None, SafetyConfig()) is None


def test_keys_and_changes(checker: Path, classifier: Path, tmp_path: Path) -> None:
    """Threshold and labels are part of the key; weights that changed since the plan are found."""
    import shutil

    def key(**settings: Any) -> str:
        spec = resolve_safety(SafetyConfig(source=str(classifier), **settings), Path)
        assert spec is not None
        return spec.key

    assert len({key(reject=("nsfw",)), key(reject=("normal",)), key(reject=("nsfw",), threshold=0.9)}) == 3
    folder = Path(shutil.copytree(checker, tmp_path / "copy"))
    config = SafetyConfig(source=str(folder), device="cpu")
    spec = resolve_safety(config, Path)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(EngineError, match="changed or damaged"):
        load_safety(spec, config)
