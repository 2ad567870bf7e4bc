"""Devices, number formats, memory errors, and pictures between device and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from assetmill.engines.devices import (
    available_cores,
    free_gib,
    memory_errors,
    pick_device,
    pick_dtype,
    set_threads,
    to_bytes,
    to_floats,
)
from assetmill.engines.protocols import EngineError, OutOfMemory
from assetmill.engines.recent import RecentTensors


def test_devices_and_dtypes() -> None:
    """`auto` picks what is there; unknown and absent devices and formats are refused with what to write."""
    import torch

    auto = pick_device()
    assert auto.type == ("cuda" if torch.cuda.is_available() else "cpu")
    cpu = pick_device("cpu")
    assert pick_dtype("auto", cpu) is torch.float32
    assert pick_dtype("bfloat16", cpu) is torch.bfloat16
    for wish in ("gpu", "cuda:99", "meta"):
        with pytest.raises(EngineError, match="use"):
            pick_device(wish)
    for wish in ("float8", "float16"):
        with pytest.raises(EngineError, match="use"):
            pick_dtype(wish, cpu)
    assert free_gib(cpu) > 0


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_gpu_without_bfloat16_units(monkeypatch: pytest.MonkeyPatch, native: bool, expected: str) -> None:
    """On a GPU that only emulates bfloat16 `auto` is float16, and the GPU asked is the one that will be used."""
    import torch

    asked: list[torch.device] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        asked.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    second = torch.device("cuda", 1)
    assert pick_dtype("auto", second) is getattr(torch, expected)
    assert asked == [second]


def test_threads_are_set_on_purpose() -> None:
    """The number of threads is what the caller says, all available cores if it doesn't."""
    import torch

    before = torch.get_num_threads()
    try:
        assert set_threads(1) == torch.get_num_threads() == 1
        assert set_threads(None) == max(1, available_cores() - 1)
    finally:
        torch.set_num_threads(before)


def test_memory_errors() -> None:
    """Every shape of running out of memory becomes OutOfMemory; other errors pass through."""
    import torch

    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("upsample_nearest2d only supports output tensors with less than INT_MAX elements, but got [64]"),
        RuntimeError("Expected output.numel() <= std::numeric_limits<int32_t>::max() to be true, but got false."),
    ):
        with pytest.raises(OutOfMemory, match="the thing did not fit"), memory_errors("the thing"):
            raise error
    with pytest.raises(RuntimeError, match="shape"), memory_errors("the thing"):
        raise RuntimeError("shape mismatch")


def test_bytes_and_floats() -> None:
    """Bytes survive the way to device floats and back; NaN becomes 0; other shapes and types are refused."""
    import torch

    cpu = torch.device("cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    floats = to_floats(pixels, cpu)
    assert floats.shape == (2, 3, 5, 7)
    np.testing.assert_array_equal(to_bytes(floats), pixels)
    torch.testing.assert_close(to_floats(floats + 0.001, cpu), floats)
    assert to_bytes(torch.full((1, 3, 2, 2), torch.nan)).max() == 0
    for wrong in (np.zeros((5, 7, 3), np.uint8), np.zeros((1, 5, 7, 4), np.uint8), np.zeros((1, 3, 5, 7), np.int64)):
        with pytest.raises(ValueError, match="expected"):
            to_floats(wrong, cpu)


def test_recent_tensors() -> None:
    """The least recently used groups go first, by bytes; a group above the limit is not kept."""
    import torch

    recent = RecentTensors(100)
    for name in "abc":
        recent.put(name, {"x": torch.zeros(10)})
    assert [recent.get(name) is not None for name in "abc"] == [False, True, True]
    recent.get("b")
    recent.put("d", {"x": torch.zeros(10)})
    assert [recent.get(name) is not None for name in "bcd"] == [True, False, True]
    recent.put("d", {"x": torch.zeros(5)})
    assert (len(recent), recent.num_bytes) == (2, 60)
    recent.put("e", {"x": torch.zeros(30)})
    assert recent.get("e") is None
