"""What a model needs is told from its files, with what would help, before any of them is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from assetmill.config import ModelConfig
from assetmill.engines import memory
from assetmill.engines.memory import check_memory, needed_gib
from assetmill.engines.protocols import ModelSpec, OutOfMemory, Part

MIB = 2**18
"""So many float32 numbers are a MiB."""


def write(folder: Path, name: str, mib: int, dtype: type = np.float32) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.zeros((mib, MIB), dtype)}, folder / name)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    write(tmp_path / "m" / "unet", "diffusion_pytorch_model.safetensors", 6)
    write(tmp_path / "m" / "unet", "diffusion_pytorch_model.fp16.safetensors", 6, np.float16)
    write(tmp_path / "m" / "vae", "diffusion_pytorch_model.fp16.safetensors", 2, np.float16)
    write(tmp_path / "net", "diffusion_pytorch_model.safetensors", 4)
    return ModelSpec(
        "m", "diffusers", 1, "r", "stable-diffusion", "mit", True, ("text-to-image",), 64, 64, 1, 1.0, gib=1.0,
        folder=str(tmp_path / "m"),
    )  # fmt: skip


def test_weights_are_counted_in_the_format_they_run_in(spec: ModelSpec, tmp_path: Path) -> None:
    """Two formats of one part count once, half precision halves, offloading needs the largest part."""
    config = ModelConfig()
    assert needed_gib(spec, config) * 1024 == pytest.approx(8)
    assert needed_gib(spec, config, "bfloat16") * 1024 == pytest.approx(4)
    assert needed_gib(spec, ModelConfig(offload=True)) * 1024 == pytest.approx(6)
    part = Part("control", "edge", str(tmp_path / "net"), "0" * 64)
    assert needed_gib(replace(spec, parts=(part,)), config) * 1024 == pytest.approx(12)
    assert needed_gib(replace(spec, folder="", gib=3.0), config) == 3.0


def test_too_little_memory_is_told_before_loading(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how much is needed and free, and only what would help."""
    monkeypatch.setattr(memory, "free_gib", lambda device: 5 / 1024)
    config = ModelConfig(device="cpu")
    with pytest.raises(
        OutOfMemory, match=r"m needs about 0.0 GiB in float32 on cpu, 0.0 GiB are free: try model.dtype"
    ):
        check_memory(spec, config)
    monkeypatch.setattr(memory, "free_gib", lambda device: 1 / 1024)
    with pytest.raises(OutOfMemory) as caught:
        check_memory(spec, config)
    assert "bfloat16" not in str(caught.value)
    assert "a smaller model, or end what else uses the memory" in str(caught.value)
    monkeypatch.setattr(memory, "free_gib", lambda device: 9 / 1024)
    check_memory(spec, config)
