"""Requests through a generator in full batches, whatever goes wrong: out of memory, poison items, a hanging device."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from assetmill.engines.protocols import EngineError, Generated, Generator, OnStep, OutOfMemory, Paused, Step
from assetmill.records import Request

if TYPE_CHECKING:
    import numpy as np

    from assetmill.engines.protocols import PausingGenerator


@dataclass(frozen=True, slots=True)
class Done:
    """A finished batch: `positions` are those of its requests in the list given to `generate_all`."""

    positions: tuple[int, ...]
    requests: tuple[Request, ...]
    generated: Generated


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that gave no image. `kind` as in FailureRecord: `poison` is not tried again, `transient` is.

    Poison is what the engine itself refuses with an EngineError. Every other exception is transient, so that a night
    with a broken driver or library does not set aside a whole sheet for good.
    """

    position: int
    request: Request
    kind: str
    reason: str


_Part = tuple[tuple[Request, ...], list[Paused] | None]
"""Requests of one forward, and where they stand if they were paused."""


class HungDevice(EngineError):
    """A batch did not come back within its time."""


OnDone = Callable[[Done], None]
WatchStep = Callable[[Sequence[Request], Step], Sequence[int] | None]
"""Like OnStep, told which requests the batch holds: halving changes that."""

_GIVE_UP = 16


def generate_all(
    generator: Generator,
    requests: Sequence[Request],
    *,
    batch: int | None = None,
    references: Mapping[str, np.ndarray] | None = None,
    on_done: OnDone,
    on_step: WatchStep | None = None,
    timeout: float | None = None,
    pause_at: float | None = None,
    resume: Sequence[Paused] | None = None,
) -> list[Failed]:
    """Generates all requests, bucket by bucket, and returns those that failed; each picture goes to `on_done` once.

    `batch` is the largest number of images per forward; the generator's own estimate if None. A batch that runs out
    of memory is halved, with the same seeds and so the same pictures, and the smaller size is kept for its bucket. A
    batch that fails otherwise is split to find the item at fault: at size 1 it becomes a Failed and the others go on.
    Exceptions raised by `on_done` are the caller's and pass through.

    `timeout` is in seconds per batch: its requests fail as transient; if the device does not come back within as long
    again, so do all that are left, because nothing else can be run on it.

    `pause_at` and `resume` (a Paused per request) sample one stretch only, as PausingGenerator says.

    Raises EngineError when the first 16 requests, of more than one prompt, all fail with one and the same reason: that
    is the engine, not the requests.
    """
    failed: list[Failed] = []
    num_done = 0
    with _Runner(generator, references, on_step, timeout, pause_at) as runner:
        for positions in bucketed(requests):
            first = requests[positions[0]]
            size = batch or generator.fitting_batch(first.width, first.height)
            waiting = deque(_parts(positions, size))
            while waiting:
                part = waiting.popleft()
                group = tuple(requests[p] for p in part)
                try:
                    generated = runner.generate(group, [resume[p] for p in part] if resume else None)
                except OutOfMemory as error:
                    if len(part) == 1:
                        failed.append(Failed(part[0], group[0], "transient", str(error)))
                        _give_up(failed, num_done, error)
                    else:
                        size = max(1, len(part) // 2)
                        rest = [p for other in (part, *waiting) for p in other]
                        waiting = deque(_parts(rest, size))
                    continue
                except HungDevice as error:
                    failed += [Failed(p, r, "transient", str(error)) for p, r in zip(part, group, strict=True)]
                    if not runner.recover():
                        gone = {f.position for f in failed}
                        reason = f"not tried: {error}"
                        left = _after(requests, positions, waiting)
                        failed += [Failed(p, requests[p], "transient", reason) for p in left if p not in gone]
                        return failed
                    continue
                except Exception as error:  # noqa: BLE001  (an engine may raise anything; the item carries the reason)
                    if len(part) == 1:
                        failed.append(Failed(part[0], group[0], _kind(error), _reason(error)))
                        _give_up(failed, num_done, error)
                    else:
                        waiting.extendleft(reversed(_parts(part, -(-len(part) // 2))))
                    continue
                num_done += len(part)
                on_done(Done(tuple(part), group, generated))
    return failed


def bucketed(requests: Sequence[Request]) -> list[list[int]]:
    """Positions of requests that may share a batch, in the order in which their buckets first occur."""
    buckets: dict[Any, list[int]] = {}
    for position, request in enumerate(requests):
        buckets.setdefault(request.bucket, []).append(position)
    return list(buckets.values())


# --- inside -------------------------------------------------------------------------------------------------


class _Runner:
    """Runs a generator on one thread of its own, so that the caller can stop waiting (and still hears signals)."""

    def __init__(
        self,
        generator: Generator,
        references: Mapping[str, np.ndarray] | None,
        on_step: WatchStep | None,
        timeout: float | None,
        pause_at: float | None,
    ) -> None:
        self.pause_at = pause_at
        self.generator = generator
        self.references = references
        self.on_step = on_step
        self.timeout = timeout
        self._work: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Generated | BaseException] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> _Runner:
        if self.timeout is not None:
            # a daemon: a hanging device must not keep the process from ending
            self._thread = threading.Thread(target=self._loop, name="assetmill-generate", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._work.put(None)

    def generate(self, group: tuple[Request, ...], paused: list[Paused] | None = None) -> Generated:
        if self._thread is None:
            return self._generate(group, paused)
        self._work.put((group, paused))
        try:
            result = self._results.get(timeout=self.timeout)
        except queue.Empty:
            raise HungDevice(
                f"a batch of {len(group)} took longer than {self.timeout:g} s; raise model.timeout if it should"
            ) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def recover(self) -> bool:
        """Waits for a batch that was given up on, and drops what it gave. False if the device stays away."""
        try:
            self._results.get(timeout=self.timeout)
        except queue.Empty:
            return False
        return True

    def _generate(self, group: tuple[Request, ...], paused: list[Paused] | None) -> Generated:
        if paused or self.pause_at is not None:
            generator = cast("PausingGenerator", self.generator)
            return generator.generate_part(group, references=self.references, resume=paused, pause_at=self.pause_at)
        on_step: OnStep | None = None
        if self.on_step is not None:
            watch = self.on_step

            def on_step(step: Step) -> Sequence[int] | None:
                return watch(group, step)

        return self.generator.generate(group, references=self.references, on_step=on_step)

    def _loop(self) -> None:
        while (part := self._work.get()) is not None:
            try:
                self._results.put(self._generate(*part))
            except BaseException as error:  # noqa: BLE001  (raised again where the caller waits)
                self._results.put(error)


def _parts(positions: Sequence[int], size: int) -> list[list[int]]:
    return [list(positions[start : start + size]) for start in range(0, len(positions), size)]


def _after(requests: Sequence[Request], positions: list[int], waiting: deque[list[int]]) -> list[int]:
    """All positions not yet tried: what waits in this bucket, and the buckets after it."""
    left = [p for part in waiting for p in part]
    buckets = bucketed(requests)
    index = next(i for i, bucket in enumerate(buckets) if bucket[0] == positions[0])
    return left + [p for bucket in buckets[index + 1 :] for p in bucket]


def _kind(error: Exception) -> str:
    """What an engine refuses stays refused; anything else (a broken driver or library) may be gone next time."""
    return "poison" if isinstance(error, EngineError) else "transient"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"


def _give_up(failed: Sequence[Failed], num_done: int, error: Exception) -> None:
    if num_done or len(failed) < _GIVE_UP:
        return
    if len({f.reason for f in failed}) == 1 and len({f.request.positive for f in failed}) > 1:
        raise EngineError(f"the first {len(failed)} requests failed in the same way: {_reason(error)}") from error
