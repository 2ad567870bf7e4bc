"""Segmentation models come through rembg's own sessions, from a file that is pinned by its hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import CutoutConfig
from assetmill.engines.protocols import EngineError, SegmenterSpec
from assetmill.engines.registry import load_segmenter, resolve_segmenter
from assetmill.engines.segment import MODELS, RembgSegmenter
from assetmill.records import InputError
from tiny_segmenters import save_segmenter


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segmenter(tmp_path_factory.mktemp("segmenter") / "tiny.onnx")


def config(source: Path | None, **settings: Any) -> CutoutConfig:
    return CutoutConfig(**{"engine": "rembg", "model": "u2net", "source": source, **settings})


def resolve(settings: CutoutConfig, base: Path = Path()) -> SegmenterSpec:
    spec = resolve_segmenter(settings, lambda path: base / path)
    assert spec is not None
    return spec


def test_the_dark_disc_is_found(weights: Path) -> None:
    """A real session finds the object of a picture of any shape, at the picture's own size."""
    settings = config(weights)
    segmenter = load_segmenter(resolve(settings), settings)
    assert isinstance(segmenter, RembgSegmenter)
    pixels = np.full((90, 120, 3), 240, np.uint8)
    rows, columns = np.indices((90, 120))
    disc = np.hypot(rows - 45, columns - 60) < 30
    pixels[disc] = (20, 60, 20)
    alpha = segmenter.segment(pixels)
    assert (alpha.shape, alpha.dtype) == ((90, 120), np.uint8)
    assert ((alpha > 127) == disc).mean() > 0.99
    assert np.array_equal(alpha, segmenter.segment(pixels))


def test_a_model_that_sees_nothing(tmp_path: Path) -> None:
    """Where a model gives one value everywhere there is no object, and no warning either."""
    settings = config(save_segmenter(tmp_path / "blind.onnx", steepness=0.0))
    segmenter = load_segmenter(resolve(settings), settings)
    assert segmenter is not None
    assert not segmenter.segment(np.full((32, 32, 3), 128, np.uint8)).any()


def test_the_key_is_that_of_the_weights(weights: Path, tmp_path: Path) -> None:
    """The key follows the file's bytes and the kind of model, not the file's place; the licence is that of the kind."""
    spec = resolve(config(weights))
    copy = tmp_path / "other.onnx"
    copy.write_bytes(weights.read_bytes())
    assert resolve(config(copy)).key == spec.key
    assert resolve(config(copy, model="silueta")).key != spec.key
    assert resolve(config(save_segmenter(tmp_path / "x.onnx", steepness=9.0))).key != spec.key
    assert (spec.licence, spec.commercial, spec.model) == ("apache-2.0", True, "u2net")
    assert resolve(config(copy, model="bria-rmbg")).commercial is False


def test_pins_hold(weights: Path, tmp_path: Path) -> None:
    """A file with another hash than the config's is refused, and one that changed after the plan is not loaded."""
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert resolve(config(weights, sha256=right)).fingerprint == right
    with pytest.raises(InputError, match=f"its SHA-256 is {right} .*; restore the file, or set cutout.sha256"):
        resolve(config(weights, sha256="0" * 64))
    path = tmp_path / "changing.onnx"
    path.write_bytes(weights.read_bytes())
    settings = config(path)
    spec = resolve(settings)
    save_segmenter(path, steepness=3.0)
    with pytest.raises(EngineError, match="is not what the plan named"):
        load_segmenter(spec, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "gone.onnx"}, "there is no such file"),
        ({"source": "model.pth"}, "is not an ONNX file"),
        ({"source": "pointer.onnx"}, "is a Git LFS pointer"),
        ({"model": "sam"}, "'sam' is not a model that cuts one object out"),
        ({"model": "withoutbg"}, "'withoutbg' is not a model that cuts one object out"),
        ({}, "cutout.engine rembg names no model file; set cutout.source to an .onnx file"),
        ({"model": "u2net_custom", "download": True}, "'u2net_custom' is for files of one's own; set cutout.source"),
        ({"engine": "scissors"}, "the engine 'scissors' is unknown; use one of key, rembg, none"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What cannot be used is said when a job is opened, with the way out; nothing is fetched unasked."""
    (tmp_path / "model.pth").write_bytes(b"\x80\x04")
    (tmp_path / "pointer.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError) as caught:
        resolve(config(**{"source": None, **settings}), tmp_path)
    assert message in re.sub(r" \(value '.*?'\)", "", str(caught.value))


def test_broken_files_and_devices(weights: Path, tmp_path: Path) -> None:
    """A file that is no model, and a device that is not here, end with the reason; there is no quiet fallback."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    settings = config(path)
    with pytest.raises(EngineError, match=r"broken\.onnx cannot be loaded as 'u2net'"):
        load_segmenter(resolve(settings), settings)
    for device, message in (("cuda:0", "needs onnxruntime-gpu"), ("tpu", "device 'tpu' is unknown")):
        settings = config(weights, device=device)
        with pytest.raises(EngineError, match=message):
            load_segmenter(resolve(settings), settings)


def test_download_uses_what_rembg_has(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `download`, a model that rembg keeps already is used without asking anybody."""
    home = tmp_path / "rembg"
    folder = home / "models" / "u2netp"
    folder.mkdir(parents=True)
    (folder / "u2netp.onnx").write_bytes(weights.read_bytes())
    monkeypatch.setenv("U2NET_HOME", str(home))
    spec = resolve(config(None, model="u2netp", download=True))
    assert spec.file == str(folder / "u2netp.onnx")


def test_every_kind_is_one_of_rembgs() -> None:
    """The kinds that a config may name are local ones that rembg has."""
    from rembg.sessions import sessions

    assert set(MODELS) <= set(sessions)
    assert all(sessions[name].is_local() for name in MODELS)


def test_keyed_cutouts_need_no_model() -> None:
    """`key` and `none` name nothing to load."""
    assert resolve_segmenter(CutoutConfig(), Path) is None
    assert resolve_segmenter(CutoutConfig(engine="none"), Path) is None
    assert load_segmenter(None, CutoutConfig()) is None
