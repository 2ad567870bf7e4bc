"""Seconds of calls on a device, and the memory they took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


def time_calls(call: Callable[[], Any], device: torch.device, *, repeats: int, warm_up: int = 1) -> float:
    """Seconds of one call, the device's work included: the median of `repeats` after `warm_up` that don't count."""
    for _ in range(warm_up):
        call()
    synchronize(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


def forget_peak(device: torch.device) -> None:
    """Starts `peak_gib` anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """The most memory that tensors took since `forget_peak`; None where the device doesn't count."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def empty_caches(device: torch.device) -> None:
    """Gives back what compiled code and torch's allocator keep."""
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
