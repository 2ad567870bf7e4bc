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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from assetmill.engines.protocols import EngineError
from assetmill.operate.devices import keep_to_device
from assetmill.operate.elsewhere import Made, RunPlace, open_worker, plain_error

log = logging.getLogger(__name__)

IN_HAND = 2
"""Chunks that a worker has at a time."""

GIVEN_UP_AFTER = 3
"""Deaths of one device's process in a row, with nothing finished between, after which the device is left alone."""

LOOK_SECONDS = 0.5
"""How often who waits for a worker looks whether one came back by itself."""

CLOSE_SECONDS = 20.0
"""How long a worker may take to end when it has nothing left to do."""


class WorkerCrashed(RuntimeError):
    """The process that made a chunk died, `tries` times. Nothing says more than that: it was killed from outside."""

    def __init__(self, number: int, tries: int, where: str) -> None:
        self.number, self.tries = number, tries
        super().__init__(f"chunk {number}: its worker process died {tries} times, the last time on {where}")


class Died(Exception):
    """A worker's process is gone, and what it was asked for with it."""


class Hand(Protocol):
    """A worker process as its crew sees it.

    `starts` counts how often it came to life. A dead one that `returns` comes back by itself, or is `gone` for good;
    another is started by whoever wants it next.
    """

    name: str
    starts: int
    lives: bool
    returns: bool
    gone: bool

    def start(self) -> None:
        """Brings it to life, models loaded. Raises EngineError."""

    def make(self, number: int) -> Made:
        """Makes a chunk. Raises Died, or what the worker raised."""

    def drain(self) -> None: ...
    def ask_to_close(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Post:
    """What a crew notes of a worker: chunks in its hands, who waits to have it alone, its deaths in a row."""

    worker: Hand
    in_hand: int = 0
    claimed: bool = False
    deaths: int = 0
    _counted: int = 0

    def note_death(self) -> None:
        """Counts a death once, however many chunks it took along."""
        if self._counted != self.worker.starts:
            self._counted = self.worker.starts
            self.deaths += 1

    @property
    def fit(self) -> bool:
        return self.deaths < GIVEN_UP_AFTER and not self.worker.gone

    @property
    def ready(self) -> bool:
        """Alive, or dead with nobody at work on starting it again."""
        return self.fit and (self.worker.lives or not (self.in_hand or self.worker.returns))


class Crew:
    """Worker processes of one run. `make` may be called from as many threads as there are slots."""

    def __init__(self, workers: Sequence[Hand]) -> None:
        self._posts = [_Post(worker) for worker in workers]
        self._free = threading.Condition()
        self._draining = False

    @property
    def num_slots(self) -> int:
        """Chunks that may be under way at a time."""
        return IN_HAND * len(self._posts)

    def open(self) -> None:
        """Starts all processes and waits until their models are loaded. Raises what the first failed one raised."""
        with ThreadPoolExecutor(len(self._posts)) as beside:
            for opening in [beside.submit(post.worker.start) for post in self._posts]:
                opening.result()

    def make(self, number: int, *, alone: bool = False) -> Made:
        """Makes chunk `number`; with `alone` nothing else is in its process's hands.

        Raises WorkerCrashed when its process dies, the second time where it was not alone the first time.
        """
        tries, former = 1 if alone else 2, ""
        for attempt in range(1, tries + 1):
            with self._a_worker(alone or attempt > 1, former) as post:
                if post is None:
                    return Made(number, None)
                try:
                    made = post.worker.make(number)
                    post.deaths = 0
                    return made
                except Died:
                    former = post.worker.name
                    log.warning("chunk %d: the worker process on %s died", number, former)
                    if not alone:  # else it says something about that chunk, not about the device
                        post.note_death()
        raise WorkerCrashed(number, tries, former)

    def drain(self) -> None:
        """Tells all workers to let the batch on the device end and to drop what is not whole."""
        with self._free:
            self._draining = True
            self._free.notify_all()
        for post in self._posts:
            post.worker.drain()

    def close(self) -> None:
        """Ends the processes. What is under way is dropped."""
        for post in self._posts:
            post.worker.ask_to_close()
        for post in self._posts:
            post.worker.close()

    # --- inside -----------------------------------------------------------------------------------------------

    @contextmanager
    def _a_worker(self, alone: bool, former: str) -> Iterator[_Post | None]:
        """A worker with a free hand, or with both; one that died is started again. Not `former` if there is another.

        None when the crew drains before one is free.
        """
        with self._free:
            post = self._await_alone(former) if alone else self._await_beside()
        if post is None:
            yield None
            return
        try:
            if not post.worker.lives and not post.worker.returns:
                post.worker.start()
                if self._draining:
                    post.worker.drain()
                with self._free:
                    self._free.notify_all()
            yield post
        finally:
            with self._free:
                post.in_hand -= IN_HAND if alone else 1
                self._free.notify_all()

    def _await_beside(self) -> _Post | None:
        while not self._draining:
            self._demand_one()
            free = [p for p in self._posts if p.ready and not p.claimed and p.in_hand < IN_HAND]
            if free:
                post = min(free, key=lambda p: p.in_hand)
                post.in_hand += 1  # nobody else takes one that is dead, while it starts again
                return post
            self._free.wait(LOOK_SECONDS)
        return None

    def _await_alone(self, former: str) -> _Post | None:
        claimed: _Post | None = None
        while not self._draining:
            self._demand_one()
            if claimed is not None and not claimed.fit:
                claimed.claimed, claimed = False, None
            if claimed is None:
                open_ = [p for p in self._posts if p.fit and not p.claimed and (p.worker.lives or not p.worker.returns)]
                others = [p for p in open_ if p.worker.name != former] or open_
                if others:
                    claimed = min(others, key=lambda p: p.in_hand)
                    claimed.claimed = True
            if claimed is not None and not claimed.in_hand and claimed.ready:
                claimed.claimed, claimed.in_hand = False, IN_HAND
                return claimed
            self._free.wait(LOOK_SECONDS)
        if claimed is not None:
            claimed.claimed = False
        return None

    def _demand_one(self) -> None:
        """Raises EngineError when no worker is left that could ever make a chunk."""
        if not any(post.fit for post in self._posts):
            raise EngineError(
                f"the worker processes on {', '.join(p.worker.name for p in self._posts)} die again and again; look at "
                "the system's log (out of memory? a broken GPU?), or try `run.execution: local`"
            )


class ProcessHand:
    """One process of this machine and the pipe to it."""

    def __init__(self, place: RunPlace, device: str, number: int, threads: int | None) -> None:
        self.name = device or f"process {number + 1}"
        self.starts = 0
        self.lives = self.returns = self.gone = False
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
                self.starts += 1
            threading.Thread(target=self._listen, args=(self._pipe,), name=f"listen {self.name}", daemon=True).start()
            try:
                ready.result()
            except Died:
                raise EngineError(
                    f"the worker process on {self.name} died while it loaded its models (out of memory?)"
                ) from None

    def make(self, number: int) -> Made:
        """Makes a chunk. Raises Died, or what the worker raised."""
        future: Future[Any] = Future()
        with self._lock:
            if not self.lives:
                raise Died
            self._tickets += 1
            self._waiting[self._tickets] = future
            self._send("make", self._tickets, number)
        made: Made = future.result()
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
            pipe.close()
        for future in left.values():
            future.set_exception(Died())


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
