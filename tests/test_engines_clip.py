"""The open_clip judge: preprocessing as the model's own, texts encoded once, scores that last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import JudgeConfig
from assetmill.engines.clip import ClipJudge, prepare
from assetmill.engines.devices import to_floats
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_judge, resolve_judge
from tiny_models import write_tiny_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("judges") / "clip")


@pytest.fixture(scope="module")
def judge(clip_folder: Path) -> ClipJudge:
    config = JudgeConfig(source=str(clip_folder), device="cpu")
    loaded = load_judge(resolve_judge(config, Path), config)
    assert isinstance(loaded, ClipJudge)
    return loaded


def make_pictures(count: int = 4, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth random pictures that stay off black and white."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(60, 196, (count, 6, 6, 3), dtype=np.uint8)
    resized = [Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR) for picture in coarse]
    return np.stack([np.asarray(picture) for picture in resized])


def test_scores_are_cosines_as_open_clip_gives_them(judge: ClipJudge, clip_folder: Path) -> None:
    """Scores equal the cosine that open_clip's own model, transform and tokenizer give, picture by picture."""
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    pictures, texts = make_pictures(), ["a red mug", "a key", "", "a red mug"]
    with torch.no_grad():
        seen = model.eval().encode_image(torch.stack([transform(Image.fromarray(p)) for p in pictures]))
        theirs = torch.cosine_similarity(seen, model.encode_text(tokenize(texts))).numpy()
    judged = judge.judge(pictures, texts)
    np.testing.assert_allclose(judged.scores, theirs, atol=2e-3)
    assert judged.scores.dtype == judged.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(judged.embeddings, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (32, 32), (16, 24)])
def test_preparing_equals_the_models_transform(resize_mode: str, size: Any, height: int, width: int) -> None:
    """Resizing, cropping and normalising on the device equal open_clip's Pillow transform up to a grey level."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    config = {
        "size": size, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic",
        "resize_mode": resize_mode, "fill_color": 0,
    }  # fmt: skip
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    pictures = make_pictures(2, height, width)
    theirs = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
    ours = prepare(to_floats(pictures, torch.device("cpu")), config)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 1.5 / 255 / 0.2


def test_device_and_stored_pictures_score_alike(judge: ClipJudge) -> None:
    """Floats from a generator's device and the bytes that were stored of them have the same score."""
    import torch

    torch.manual_seed(0)
    floats = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 6), (48, 48), mode="bicubic").clamp(0, 1)
    stored = floats.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    texts = ["a", "b", "a"]
    np.testing.assert_array_equal(judge.judge(floats, texts).scores, judge.judge(stored, texts).scores)


def test_texts_once_and_batches(judge: ClipJudge) -> None:
    """Each distinct text is encoded once and remembered; the batch size changes scores by rounding only."""
    pictures, texts = make_pictures(6), ["one text", "two texts"] * 3
    first = judge.judge(pictures, texts)
    seen: list[int] = []
    real = judge._model.encode_text
    judge._model.encode_text = lambda tokens: seen.append(len(tokens)) or real(tokens)
    try:
        np.testing.assert_allclose(judge.judge(pictures, texts).scores, first.scores, atol=1e-6)
        judge.judge(pictures, ["three"] * 6)
        assert seen == [1]
        judge.batch = 2
        np.testing.assert_allclose(judge.judge(pictures, texts).scores, first.scores, atol=1e-5)
    finally:
        judge._model.encode_text = real
        judge.batch = 64


def test_nan_and_nothing(judge: ClipJudge) -> None:
    """A picture with NaN scores NaN with a zero embedding and spoils no other; no pictures give no scores."""
    import torch

    floats = torch.rand(2, 3, 48, 48)
    floats[1, 0, 0, 0] = torch.nan
    judged = judge.judge(floats, ["a", "b"])
    assert np.isfinite(judged.scores[0])
    assert np.isnan(judged.scores[1])
    assert not judged.embeddings[1].any()
    assert judge.judge(floats[:0], []).scores.shape == (0,)
    with pytest.raises(ValueError, match="2 pictures but 1 texts"):
        judge.judge(floats, ["a"])


def test_out_of_memory_halves(judge: ClipJudge) -> None:
    """A batch that doesn't fit is halved, down to one picture."""
    import torch

    pictures, texts = make_pictures(5), ["a"] * 5
    expected = judge.judge(pictures, texts).scores
    real = judge._model.encode_image

    def small_only(inputs: Any) -> Any:
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(inputs)

    judge._model.encode_image = small_only
    try:
        np.testing.assert_allclose(judge.judge(pictures, texts).scores, expected, atol=1e-5)
    finally:
        judge._model.encode_image = real


def test_weights_that_cannot_be_used(clip_folder: Path, tmp_path: Path) -> None:
    """Changed weights, weights of another architecture and unknown tags are told with the way out."""
    import os
    import shutil

    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    spec = resolve_judge(JudgeConfig(source=str(folder)), Path)
    weights = folder / "open_clip_model.safetensors"
    state, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(EngineError, match="changed or damaged"):
        ClipJudge(spec, device="cpu")
    config = JudgeConfig(source="RN50", pretrained=str(clip_folder / "open_clip_model.safetensors"))
    with pytest.raises(EngineError, match="open_clip cannot load RN50"):
        load_judge(resolve_judge(config, Path), config)
    config = JudgeConfig(source="ViT-B-32", pretrained="no_such_tag")
    with pytest.raises(EngineError, match=r"its tags: .*laion2b"):
        load_judge(resolve_judge(config, Path), config)
