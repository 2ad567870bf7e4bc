"""A crew: one worker process per device of this machine, each with its own models and two chunks in hand.

While one of its chunks is on the device the other is encoded and recorded. A process that dies takes at most these two
with it: each is tried once more, alone, on another device where there is one. What dies again is the chunk's fault.

Processes are spawned, never forked: threads and CUDA do not live through a fork. They are called through a pipe. It
breaks with either end: a dead worker is noticed at once, and the workers of a dead driver end by themselves.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from assetmill.engines.protocols import EngineError
from assetmill.operate.devices import keep_to_device
from assetmill.operate.elsewhere import Made, RunPlace, open_worker, plain_error

log = logging.getLogger(__name__)

IN_HAND = 2
"""Chunks that a worker has at a time."""

GIVEN_UP_AFTER = 3
"""Deaths of one device's process in a row, with nothing finished between, after which the device is left alone."""

CLOSE_SECONDS = 20.0
"""How long a worker may take to end when it has nothing left to do."""


class WorkerCrashed(RuntimeError):
    """The process that made a chunk died, `tries` times. Nothing says more than that: it was killed from outside."""

    def __init__(self, number: int, tries: int, where: str) -> None:
        self.number, self.tries = number, tries
        super().__init__(f"chunk {number}: its worker process died {tries} times, the last time on {where}")


class Crew:
    """Worker processes of one run. `make` may be called from as many threads as there are slots."""

    def __init__(self, place: RunPlace, devices: Sequence[str], *, threads: int | None = None) -> None:
        self._workers = [_Worker(place, device, n, threads) for n, device in enumerate(devices)]
        self._free = threading.Condition()
        self._draining = False

    @property
    def num_slots(self) -> int:
        """Chunks that may be under way at a time."""
        return IN_HAND * len(self._workers)

    def open(self) -> None:
        """Starts all processes and waits until their models are loaded. Raises what the first failed one raised."""
        with ThreadPoolExecutor(len(self._workers)) as beside:
            for opening in [beside.submit(worker.start) for worker in self._workers]:
                opening.result()

    def make(self, number: int, *, alone: bool = False) -> Made:
        """Makes chunk `number`; with `alone` nothing else is in its process's hands.

        Raises WorkerCrashed when its process dies, the second time where it was not alone the first time.
        """
        tries, former = 1 if alone else 2, ""
        for attempt in range(1, tries + 1):
            with self._a_worker(alone or attempt > 1, former) as worker:
                try:
                    return worker.make(number)
                except _Died:
                    former = worker.name
                    log.warning("chunk %d: the worker process on %s died", number, worker.name)
        raise WorkerCrashed(number, tries, former)

    def drain(self) -> None:
        """Tells all workers to let the batch on the device end and to drop what is not whole."""
        with self._free:
            self._draining = True
        for worker in self._workers:
            worker.drain()

    def close(self) -> None:
        """Ends the processes. What is under way is dropped."""
        for worker in self._workers:
            worker.ask_to_close()
        for worker in self._workers:
            worker.close()

    # --- inside -----------------------------------------------------------------------------------------------

    @contextmanager
    def _a_worker(self, alone: bool, former: str) -> Iterator[_Worker]:
        """A worker with a free hand, or with both; one that died is started again. Not `former` if there is another."""
        with self._free:
            worker = self._await_worker(alone, former)
        try:
            if not worker.lives:
                worker.start()
                if self._draining:
                    worker.drain()
                with self._free:
                    self._free.notify_all()
            yield worker
        finally:
            with self._free:
                worker.in_hand -= IN_HAND if alone else 1
                self._free.notify_all()

    def _await_worker(self, alone: bool, former: str) -> _Worker:
        claimed: _Worker | None = None
        while True:
            fit = [w for w in self._workers if w.deaths < GIVEN_UP_AFTER]
            if not fit:
                raise EngineError(
                    f"the worker processes on {', '.join(w.name for w in self._workers)} die again and again; look at "
                    "the system's log (out of memory? a broken GPU?), or try `run.execution: local`"
                )
            if not alone:
                free = [w for w in fit if not w.claimed and w.in_hand < IN_HAND and (w.lives or not w.in_hand)]
                if free:
                    worker = min(free, key=lambda w: w.in_hand)
                    worker.in_hand += 1  # nobody else takes one that is dead, while it starts again
                    worker.alone = False
                    return worker
            else:
                if claimed is None or claimed not in fit:
                    others = [w for w in fit if w.name != former and not w.claimed] or [w for w in fit if not w.claimed]
                    if others:
                        claimed = min(others, key=lambda w: w.in_hand)
                        claimed.claimed = True
                if claimed is not None and not claimed.in_hand:
                    claimed.claimed, claimed.in_hand, claimed.alone = False, IN_HAND, True
                    return claimed
            self._free.wait()


class _Died(Exception):
    """The process is gone."""


class _Worker:
    """One process and the pipe to it. `in_hand`, `claimed` and `alone` are the crew's notes."""

    def __init__(self, place: RunPlace, device: str, number: int, threads: int | None) -> None:
        self.name = device or f"process {number + 1}"
        self.in_hand = 0
        self.claimed = False
        self.alone = False
        self.deaths = 0
        self.lives = False
        self._arguments = (place, device, threads)
        self._waiting: dict[int, Future[Any]] = {}
        self._tickets = 0
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._pipe: Connection | None = None
        self._process: Any = None

    def start(self) -> None:
        """Starts the process and waits for its models, unless it lives. Raises EngineError where it cannot."""
        with self._starting:
            if self.lives:
                return
            if self._process is not None:
                self._process.join()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self._arguments), name=self.name)
            self._process.start()
            theirs.close()  # else a dead worker would not break the pipe
            ready: Future[Any] = Future()
            with self._lock:
                self._waiting[0] = ready
                self.lives = True
            threading.Thread(target=self._listen, args=(self._pipe,), name=f"listen {self.name}", daemon=True).start()
            try:
                ready.result()
            except _Died:
                raise EngineError(
                    f"the worker process on {self.name} died while it loaded its models (out of memory?)"
                ) from None

    def make(self, number: int) -> Made:
        """Makes a chunk. Raises _Died, or what the worker raised."""
        future: Future[Any] = Future()
        with self._lock:
            if not self.lives:
                raise _Died
            self._tickets += 1
            self._waiting[self._tickets] = future
            self._send("make", self._tickets, number)
        made: Made = future.result()
        self.deaths = 0
        return made

    def drain(self) -> None:
        with self._lock:
            if self.lives:
                self._send("drain")

    def ask_to_close(self) -> None:
        with self._lock:
            if self.lives:
                self._send("close")

    def close(self) -> None:
        if self._process is None:
            return
        self._process.join(CLOSE_SECONDS)
        if self._process.is_alive():
            log.warning("the worker process on %s does not end: it is killed", self.name)
            self._process.kill()
            self._process.join()
        self._process.close()
        self._process = None

    # --- inside -----------------------------------------------------------------------------------------------

    def _send(self, *message: Any) -> None:
        assert self._pipe is not None
        with suppress(OSError):  # it died just now: the listener says so to those who wait
            self._pipe.send(message)

    def _listen(self, pipe: Connection) -> None:
        """Hands out what the process says, until it is gone."""
        while True:
            try:
                ticket, value, error = pipe.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._waiting.pop(ticket)
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)
        with self._lock:
            left, self._waiting = self._waiting, {}
            self.lives = False
            if any(left) and not self.alone:  # else it says something about that chunk, not about the device
                self.deaths += 1
            pipe.close()
        for future in left.values():
            future.set_exception(_Died())


# --- in the worker process ------------------------------------------------------------------------------------


def _serve(pipe: Connection, place: RunPlace, device: str, threads: int | None) -> None:
    """Opens the run and makes chunks as they are asked for, until told to close or the driver is gone."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group: the driver decides what is finished.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_to_device(device)
    from assetmill.operate.logs import set_up_logging

    set_up_logging(run_id=place.run)
    sending = threading.Lock()

    def say(ticket: int, value: Any, error: Exception | None = None) -> None:
        with sending, suppress(OSError):
            pipe.send((ticket, value, error))

    try:
        worker = open_worker(place, threads=threads)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the driver says it
        say(0, None, plain_error(error))
        return
    say(0, None)

    def make(ticket: int, number: int) -> None:
        try:
            say(ticket, worker.make(number))
        except BaseException as error:  # noqa: BLE001
            say(ticket, None, plain_error(error))

    with ThreadPoolExecutor(IN_HAND, thread_name_prefix="chunk") as chunks:
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                os._exit(1)  # the driver is dead: what is whole is on record, and nobody waits for the rest
            if message[0] == "make":
                chunks.submit(make, *message[1:])
                continue
            worker.stop.set()
            if message[0] == "close":
                break
    worker.close()
