"""Where a run's time goes: seconds, counts and bytes by stage, added up from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stage:
    """Totals of one stage. `seconds` of stages that run in threads may add up to more than the wall time."""

    seconds: float = 0.0
    count: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Stages:
    """All stages of a run, in the order in which they were first seen."""

    stages: dict[str, Stage] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, seconds: float, count: int = 0, num_bytes: int = 0) -> None:
        with self._lock:
            stage = self.stages.setdefault(name, Stage())
            stage.seconds += seconds
            stage.count += count
            stage.bytes += num_bytes

    def take(self) -> dict[str, Stage]:
        """What has added up until now, for another process to add to its own; counting starts again from nothing."""
        with self._lock:
            taken, self.stages = self.stages, {}
        return taken

    def merge(self, taken: Mapping[str, Stage]) -> None:
        """Adds what `take` of another process gave."""
        for name, stage in taken.items():
            self.add(name, stage.seconds, stage.count, stage.bytes)

    @contextmanager
    def time(self, name: str, count: int = 0) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start, count)

    def seconds(self, name: str) -> float:
        with self._lock:
            return self.stages[name].seconds if name in self.stages else 0.0

    def count(self, name: str) -> int:
        with self._lock:
            return self.stages[name].count if name in self.stages else 0

    def num_bytes(self, name: str) -> int:
        with self._lock:
            return self.stages[name].bytes if name in self.stages else 0

    def as_dict(self) -> dict[str, dict[str, float | int]]:
        with self._lock:
            return {
                name: {"seconds": round(s.seconds, 3), "count": s.count, "bytes": s.bytes}
                for name, s in self.stages.items()
            }
