"""Which devices of this machine get a worker process of their own, and how a process is kept to its device."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from assetmill.config import Config
from assetmill.engines.protocols import EngineError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_of(config: Config) -> tuple[str, ...]:
    """The device of each worker process, as `run.devices` says; empty texts where the config's own settings decide.

    `auto` is every GPU that this process sees, or one process on a machine without. Raises EngineError for a GPU that
    is not there.
    """
    wish = config.run.devices
    if isinstance(wish, int):
        return ("",) * wish
    if wish == "auto":
        return tuple(f"cuda:{n}" for n in range(_count_gpus(config))) or ("",)
    if any(device.startswith("cuda:") for device in wish):
        count = _count_gpus(config)
        missing = [d for d in wish if d.startswith("cuda:") and int(d.removeprefix("cuda:")) >= count]
        if missing:
            raise EngineError(
                f"run.devices names {', '.join(missing)}, but this machine shows {count} GPUs; see `assetmill doctor`"
            )
    return tuple(wish)


def keep_to_device(device: str, environment: MutableMapping[str, str] | None = None) -> None:
    """Lets the libraries of this process see one device only. Call it before any of them is loaded.

    A GPU's number counts those that the process sees: with CUDA_VISIBLE_DEVICES=4,5 `cuda:1` is the GPU 5.
    """
    environment = os.environ if environment is None else environment
    if device.startswith("cuda:"):
        number = int(device.removeprefix("cuda:"))
        seen = [part.strip() for part in environment.get(VISIBLE, "").split(",") if part.strip()]
        environment[VISIBLE] = seen[number] if seen else str(number)
    elif device == "cpu":
        environment[VISIBLE] = ""


def threads_for(config: Config, num_processes: int) -> int | None:
    """Threads of each lane in a process: the config's, else its share of the cores; None for one process alone."""
    from assetmill.engines.devices import available_cores

    if config.run.threads is not None or num_processes == 1:
        return config.run.threads
    return max(1, available_cores() // num_processes)


def _count_gpus(config: Config) -> int:
    if config.model.engine == "simulated" and not config.models:
        return 0  # it needs none, and looking costs the seconds of an import of torch
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
