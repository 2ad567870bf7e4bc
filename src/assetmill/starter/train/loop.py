"""What every training stage shares: a clock that survives restarts, checkpoints, curves, averaged weights.

A stage trains for a number of minutes, not for a number of steps: the learning rate is a function of the
share of the time used, so that a slow machine ends with a finished, if weaker, model.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Stage:
    """Where and how long one model is trained.

    `out` holds data, checkpoints, curves and, at the end, the weights; `minutes` of training time over
    all restarts; `save_every` seconds between checkpoints.
    """

    name: str
    out: Path
    minutes: float
    device: str = "cpu"
    resume: bool = True
    save_every: float = 120.0

    @property
    def checkpoint(self) -> Path:
        """The file that holds the stage's whole state."""
        return self.out / "checkpoints" / f"{self.name}.pt"

    @property
    def curve(self) -> Path:
        """The stage's log: one JSON object a line."""
        return self.out / "curves" / f"{self.name}.jsonl"


@dataclass
class Progress:
    """Time and steps used so far by a stage; `state` are the things saved and restored with it."""

    stage: Stage
    state: dict[str, Any]
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    _sums: dict[str, list[float]] = field(default_factory=dict)
    _saved: float = 0.0
    _logged: float = 0.0

    def __post_init__(self) -> None:
        for folder in (self.stage.checkpoint.parent, self.stage.curve.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if self.stage.resume and self.stage.checkpoint.is_file():
            saved = torch.load(self.stage.checkpoint, map_location=self.stage.device, weights_only=True)
            for name, thing in self.state.items():
                thing.load_state_dict(saved[name])
            self.step, self.samples, self.seconds = saved["step"], saved["samples"], saved["seconds"]
        self._saved = self._logged = self.seconds

    @property
    def share(self) -> float:
        """The share of the stage's time that is used, in [0, 1]."""
        return min(1.0, self.seconds / (60 * self.stage.minutes))

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the time is over; saves and logs on the way and at the end."""
        while self.share < 1.0:
            start = time.monotonic()
            yield self.step
            self.step += 1
            self.seconds += time.monotonic() - start
            if self.seconds - self._logged > 15:
                self.log()
            if self.seconds - self._saved > self.stage.save_every:
                self.save()
        self.log()
        self.save()

    def count(self, samples: int, **values: float) -> None:
        """Add one step's samples and losses to the running means."""
        self.samples += samples
        for name, value in values.items():
            self._sums.setdefault(name, []).append(float(value))

    def log(self, **values: float) -> None:
        """Append the means since the last line (and `values`) to the curve."""
        line = {"step": self.step, "samples": self.samples, "seconds": round(self.seconds, 1)}
        line |= {name: round(sum(seen) / len(seen), 5) for name, seen in self._sums.items()}
        line |= values
        with self.stage.curve.open("a") as curve:
            curve.write(json.dumps(line) + "\n")
        self._sums.clear()
        self._logged = self.seconds

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        saved = {name: thing.state_dict() for name, thing in self.state.items()}
        saved |= {"step": self.step, "samples": self.samples, "seconds": self.seconds}
        write_atomically(saved, self.stage.checkpoint)
        self._saved = self.seconds


def write_atomically(value: Any, file: Path) -> None:
    """Save with torch under a temporary name, then rename: a reader never sees half a file."""
    draft = file.with_suffix(f".{os.getpid()}.draft")
    torch.save(value, draft)
    draft.replace(file)


def decayed_rate(peak: float, share: float, *, warm: float = 0.02, floor: float = 0.01) -> float:
    """Return the learning rate at a share of the time: linear warm-up, then half a cosine to `floor`."""
    if share < warm:
        return peak * max(share / warm, 0.05)
    turn = (share - warm) / (1 - warm)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * turn)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the rate, times the group's own `factor` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


class AveragedWeights:
    """An exponential mean of a module's weights with a short warm-up (it forgets the first steps)."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.num_updates = 0
        self.mean = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Take the module's present weights into the mean."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        state = module.state_dict()
        floats = [name for name, value in self.mean.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.mean[name] for name in floats], [state[name] for name in floats], 1 - decay)
        for name in self.mean.keys() - set(floats):
            self.mean[name].copy_(state[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the number of updates."""
        return {"mean": self.mean, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved mean."""
        self.mean, self.num_updates = dict(state["mean"]), state["num_updates"]
