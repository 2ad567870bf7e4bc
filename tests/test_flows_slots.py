"""Which concurrency limits a flow holds: one for each GPU it uses, by the machine's own numbers."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from assetmill.config import Config

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
import slots

HOST = socket.gethostname()


def config(model: dict[str, Any] | None = None, **run: Any) -> Config:
    plain = {"name": "toys", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
    return Config.model_validate({**plain, "model": model or {}, "run": run})


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch sees a machine with three GPUs; no GPU is used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({}, ["cuda-0"]),
        ({"model": {"device": "cuda:1"}}, ["cuda-1"]),
        ({"execution": "processes"}, ["cuda-0", "cuda-1", "cuda-2"]),
        ({"execution": "processes", "devices": ["cuda:2", "cuda:0"]}, ["cuda-0", "cuda-2"]),
        ({"model": {"device": "cpu"}}, []),
        ({"model": {"engine": "simulated"}}, []),
    ],
)
def test_each_gpu_that_is_used(three_gpus: None, settings: dict[str, Any], held: list[str]) -> None:
    """One process holds its GPU's slot, one worker process per GPU all of theirs, and a CPU is nobody's."""
    assert slots.limits_of(config(**settings)) == tuple(f"{HOST}-{name}" for name in held)


def test_the_machines_own_numbers(three_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nights that are kept to different GPUs don't wait for each other, though both call theirs cuda:0."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6")
    assert slots.limits_of(config()) == (f"{HOST}-cuda-4",)
    assert slots.limits_of(config(execution="processes", devices=["cuda:1"])) == (f"{HOST}-cuda-5",)


def test_a_limit_by_name(three_gpus: None) -> None:
    """`run.device_limit` is what is held instead, on a CPU too."""
    assert slots.limits_of(config(device_limit="night")) == ("night",)
    assert slots.limits_of(config({"device": "cpu"}, device_limit="night")) == ("night",)
