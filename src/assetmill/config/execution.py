"""Sections of a config: on which devices and machines a run is made."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from assetmill.config.base import Section

Execution = Literal["local", "processes", "ray"]

MAX_PROCESSES = 64

_DEVICE = re.compile(r"cpu|mps|cuda:\d+")


def _check_devices(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("give auto, a number of processes, or a list such as [cuda:0, cuda:1]")
    if isinstance(value, (list, tuple)):
        unknown = [v for v in value if not (isinstance(v, str) and _DEVICE.fullmatch(v))]
        if unknown or not value:
            raise ValueError(f"{unknown or 'an empty list'} names no device; use cpu, mps or cuda:0, cuda:1 and so on")
    return value


def _check_apart(value: Any) -> Any:
    if isinstance(value, tuple) and len(set(value)) < len(value):
        raise ValueError("a device stands there twice; two processes on one GPU only share it (use run.lanes)")
    return value


Devices = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_PROCESSES)] | tuple[str, ...],
    BeforeValidator(_check_devices, json_schema_input_type=Literal["auto"] | int | tuple[str, ...]),
    AfterValidator(_check_apart),
]


class RayConfig(Section):
    """How `run.execution: ray` uses a cluster."""

    address: str | None = Field(
        None, description="`host:port` of a cluster's head, or `auto`; else `RAY_ADDRESS`, else Ray on this machine."
    )
    gpus: float | None = Field(
        None, ge=0, le=64, description="GPUs of each worker; 1 on a cluster that has GPUs, else 0, if left out."
    )
    cpus: float = Field(1, ge=0, le=1024, description="CPU cores of each worker.")
    shared_folder: bool = Field(
        False, description="The store's folder is one and the same on every machine of the cluster (NFS or the like)."
    )
