"""Where engines run: device, number format, threads and memory. torch is imported by the functions, never on import."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from assetmill.engines.protocols import EngineError, OutOfMemory

if TYPE_CHECKING:
    import torch

    from assetmill.config import ModelConfig
    from assetmill.engines.protocols import ModelSpec

DTYPES = ("float32", "float16", "bfloat16")

_MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",  # the CPU allocator
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED and cuDNN's
    "int_max",  # kernels that count in 32 bits, say upsampling: a tensor of 2**31 elements is too large for them
    "numeric_limits<int32_t>",
)
"""In RuntimeErrors that a smaller batch mends."""


def pick_device(wish: str = "auto") -> torch.device:
    """The device of a config: `auto` takes the first CUDA device, else the CPU.

    Raises EngineError for a name torch doesn't know and for a device this machine lacks.
    """
    import torch

    if wish == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise EngineError(f"device {wish!r} is unknown; use auto, cpu, cuda or cuda:1 and so on") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise EngineError(f"device {wish!r} is not here ({count} CUDA devices); use device: auto or cpu")
        return torch.device("cuda", device.index or 0)
    if device.type not in ("cpu", "mps"):
        raise EngineError(f"device {wish!r} is not supported; use auto, cpu, mps or cuda:N")
    return device


def pick_dtype(wish: str, device: torch.device) -> torch.dtype:
    """The number format of a config: `auto` is float32 on a CPU; on a GPU bfloat16, or float16 where it lacks that.

    bfloat16 comes first because float16 overflows in SDXL's decoder, which then falls back to float32. A GPU that only
    emulates bfloat16 (before Ampere) lacks it: there it is slower than float16.
    """
    import torch

    if wish == "auto":
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):  # torch asks the current device
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if wish not in DTYPES:
        raise EngineError(f"dtype {wish!r} is unknown; use auto, {', '.join(DTYPES)}")
    if wish == "float16" and device.type == "cpu":
        raise EngineError("dtype float16 does not run on a CPU; use dtype: float32 or bfloat16 there")
    return getattr(torch, wish)


def available_cores() -> int:
    """Cores this process may use: those of its affinity mask, not of the whole machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


_LANE_GIB = 1.0
"""Models larger than this are not copied: on a CPU they are bound by memory, and gain more from threads."""

_MOST_LANES = 8


def count_lanes(spec: ModelSpec, config: ModelConfig) -> int:
    """How many copies of a model pay: one per core for small models on a CPU, else 1.

    Measured on two cores at 64 x 64: two copies of one thread each make 2.0 times as many pictures a second as one copy
    does with one thread or with two (small operators leave little to share out).
    """
    if spec.engine != "diffusers" or spec.gib > _LANE_GIB or pick_device(config.device).type != "cpu":
        return 1
    return max(1, min(available_cores(), _MOST_LANES))


def set_threads(count: int | None, lanes: int = 1) -> int:
    """Sets and returns the number of threads that torch computes with on each lane; the cores shared out if None.

    A single lane leaves the last core to encoders and writers: with all cores taken, any other load makes each step
    wait for its slowest thread, and two torch threads on two busy cores are many times slower than one.
    """
    import torch

    cores = available_cores()
    count = count or max(1, cores // lanes if lanes > 1 else cores - 1)
    torch.set_num_threads(count)
    return count


def free_gib(device: torch.device) -> float:
    """Free memory in GiB: of the GPU, else of the machine (infinite where the system doesn't say)."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # what torch's allocator keeps but doesn't use is free for us
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / 2**30
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) / 2**20
    except OSError:
        pass
    return float("inf")


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turns every shape of running out of memory into OutOfMemory, naming what was tried, and frees the cache."""
    import torch

    failed = False
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        failed = True
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _MEMORY_SIGNS):
            raise
        failed = True
    if failed:
        # outside of the except block: the traceback kept the batch's tensors alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(f"{what} did not fit into memory; use a smaller batch, size or dtype")


def free_memory() -> None:
    """Gives back what models held that nobody refers to any more. Does not import torch."""
    gc.collect()  # pipelines hold themselves in cycles
    loaded: Any = sys.modules.get("torch")
    if loaded is not None and loaded.cuda.is_available():
        loaded.cuda.empty_cache()


def to_bytes(pixels: torch.Tensor) -> Any:
    """Floats in [0, 1] (N, 3, H, W) as a numpy uint8 array (N, H, W, 3), converted on their device. NaN gives 0."""
    import torch

    rounded = pixels.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_floats(pixels: Any, device: torch.device) -> torch.Tensor:
    """uint8 (N, H, W, 3), or floats (N, 3, H, W) in [0, 1], as float32 (N, 3, H, W) on the device, in steps of 1/255.

    Floats are rounded to 8 bits first: a picture has the same score whether it comes from the generator or is read
    from the store.
    """
    import torch

    tensor = torch.as_tensor(pixels)
    if tensor.ndim != 4:
        raise ValueError(
            f"pictures have shape {tuple(tensor.shape)}; expected (N, H, W, 3) uint8 or (N, 3, H, W) floats"
        )
    if tensor.dtype == torch.uint8:
        if tensor.shape[-1] != 3:
            raise ValueError(f"uint8 pictures have shape {tuple(tensor.shape)}; expected (N, H, W, 3)")
        return tensor.to(device).permute(0, 3, 1, 2).float().div(255)
    if tensor.shape[1] != 3 or not tensor.is_floating_point():
        raise ValueError(f"{tensor.dtype} pictures have shape {tuple(tensor.shape)}; expected floats (N, 3, H, W)")
    return tensor.to(device).float().clamp(0, 1).mul(255).round().div(255)
