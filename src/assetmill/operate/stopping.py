"""How a run is told to end early: by a signal, by a person on any machine, by its time. It always drains.

Draining lets the batch on the device end, records and publishes what is whole, and drops the rest for the next run.
A person's wish is a mark in the run's folder, `cancel.json`, that the run looks for every few seconds: it needs
nothing but the store, so it works across machines.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from assetmill.operate.runs import find_run, holder_run_id, read_json, write_json
from assetmill.records import InputError, Problem
from assetmill.storage.layout import run_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, StoreUnavailable

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0
"""How often a run looks for its cancel mark."""

CANCELLED, TIMED_OUT = "cancelled", "timed out"
"""How the reasons of runs begin that a person or their time ended; their reports have these as status."""


class Stoppable(Protocol):
    """What can be told to stop: a `pipeline.Run`."""

    id: str
    reason: str
    stop: threading.Event


def stop_run(run: Stoppable, reason: str) -> None:
    """Tells a run to drain. The first reason counts."""
    run.reason = run.reason or reason
    run.stop.set()


def stop_on_signal(run: Stoppable) -> None:
    """From now on SIGTERM and the first Ctrl-C drain this run, and a second one kills. In the main thread only."""

    def stop(number: int, _frame: Any) -> None:
        stop_run(run, f"stopped by {signal.Signals(number).name}")
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


@contextmanager
def stopped_by_signals(run: Stoppable) -> Iterator[None]:
    """The same while the block runs. In another thread than the main one nothing changes: only that gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop_on_signal(run)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watched(run: Stoppable, store: Store, config_name: str, max_minutes: float | None = None) -> Iterator[None]:
    """Looks, while the block runs, whether the run was cancelled or has used up its time, and drains it then."""
    ended = threading.Event()
    until = time.monotonic() + max_minutes * 60 if max_minutes is not None else float("inf")

    def watch() -> None:
        while not ended.wait(min(POLL_SECONDS, max(until - time.monotonic(), 0.01))):
            why = _asked_to_stop(store, config_name, run.id)
            if not why and time.monotonic() >= until:
                why = f"{TIMED_OUT}: {max_minutes:g} minutes are over"
            if why:
                log.warning("run %s drains: %s", run.id, why)
                stop_run(run, why)
                return

    thread = threading.Thread(target=watch, name=f"watch-{config_name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(POLL_SECONDS)


def cancel_run(store: Store, config_name: str, run_id: str | None, *, by: str, reason: str = "") -> str:
    """Asks the run that is going on to drain and end; gives its id. `run_id` may be a beginning.

    InputError when no run is going on, or another one than asked for. Asking twice is asking once.
    """
    running = holder_run_id(store, config_name)
    if run_id is not None and (running is None or not running.startswith(run_id)):
        status = find_run(store, config_name, run_id).get("status", "unknown")
        raise InputError(Problem(f"run {run_id} is not going on: {status}", "see `assetmill runs list CONFIG`"))
    if running is None:
        raise InputError(Problem(f"no run of {config_name} is going on", "see `assetmill runs list CONFIG`"))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(store, config_name, running, "cancel.json", {"schema": 1, "by": by, "at": at, "reason": reason})
    return running


def _asked_to_stop(store: Store, config_name: str, run_id: str) -> str:
    """Who cancelled a run and why, in words; empty when nobody did. A mark that cannot be read is one."""
    with suppress(StoreUnavailable):  # the run's own work finds out whether that lasts
        if store.stat(run_path(config_name, run_id, "cancel.json")) is None:
            return ""
        try:
            mark = read_json(store, config_name, run_id, "cancel.json")
            by, why = str(mark["by"]), str(mark.get("reason") or "")
        except (MissingObject, CorruptObject, ValueError, KeyError, TypeError, AttributeError):
            return CANCELLED
        return f"{CANCELLED} by {by}{': ' + why if why else ''}"
    return ""
