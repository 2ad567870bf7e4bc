"""The work of `assetmill run` as a Prefect flow: tasks of a few lines over `assetmill.pipeline`.

    python flows/produce.py configs/game-assets.yaml

One task is one chunk of whole assets (64 to 256 images), so that a night of 10,000 images is some 100 task runs.
Between tasks go keys and counts, never pictures or models. Without the decorators this file still works.

How a run ended is in its report; the flow's state follows from that, and a server that dies changes neither.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# A server that died is asked again for some 15 s, not for a minute, at each of the few calls that are left.
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "3")

sys.path.append(str(Path(__file__).parent))  # a worker loads this file by its path

from prefect import flow, get_run_logger, task, unmapped
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from assetmill import pipeline
from assetmill.config import Config, read_config
from assetmill.operate.clusters import demand_server
from assetmill.operate.lock import AlreadyRunning
from assetmill.operate.nights import Night, NightDone, night_named, night_to_make
from assetmill.operate.notify import notice_of_crash, tell, told
from assetmill.operate.produce import BreakerTripped
from assetmill.operate.runs import read_json
from assetmill.operate.stopping import stopped_by_signals
from assetmill.operate.summary import left_text, places_of
from assetmill.records import InputError
from assetmill.storage.store import MissingObject
from showing import Counter, Window
from slots import device_slots, limits_of

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, TaskRun

    from assetmill.operate.produce import ChunkResult


class Workers(Protocol):
    """What makes chunks: this process, or others; `num_slots` at a time."""

    num_slots: int

    def make_one(self, number: int) -> ChunkResult | None: ...


@dataclass(frozen=True, slots=True)
class Live:
    """A run that this process makes. `workers` is None where there is nothing to make, or no longer time to."""

    run: pipeline.Run
    workers: Workers | None
    counter: Counter
    ended: set[int] = field(default_factory=set)


_LIVE: dict[str, Live] = {}
"""Runs of this process with their loaded models, by run id: tasks are handed the id, never the models."""

_STATES = {0: ("COMPLETED", "Completed"), 1: ("FAILED", "PartlyFailed"), 2: ("FAILED", "CatalogHeld"),
           4: ("COMPLETED", "BudgetReached")}  # fmt: skip
"""The flow's state by the exit code of its report; `_END` comes first."""

_END = {"stopped": ("CANCELLED", "Stopped"), "cancelled": ("CANCELLED", "Cancelled"),
        "timed out": ("FAILED", "TimedOut")}  # fmt: skip
"""The flow's state for a run that did not come to its end, by the status of its report."""

_TURN_SECONDS = 5.0
"""How long a chunk lets the one before it go first."""

_CHUNK_FAILED = "a chunk failed"
"""How the reason of a run begins whose chunks were not all made, however often they were tried."""


def _worth_retrying(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """A broken model or bad input stays broken; a store that did not answer may answer in a minute.

    What ran out of time may still be on the device: it waits for the next run, so that nothing is made twice.
    """
    if state.name == "TimedOut":
        return False
    error = state.result(raise_on_failure=False) if state.is_failed() else None
    return not isinstance(error, BreakerTripped | InputError)


@task(
    name="make-chunk",
    task_run_name="chunk {number}",
    retries=2,
    retry_delay_seconds=[5, 15],  # a run that is told to stop meanwhile still ends within 30 s
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
    persist_result=False,
)
def make_chunk(run_id: str, number: int) -> dict[str, Any]:
    """Makes one chunk of a live run: generate, gate, score, select, upscale, store, commit its segment."""
    live = _LIVE[run_id]
    run = live.run
    _await_turn(live, number)
    try:
        result = live.workers.make_one(number) if live.workers is not None else None
    finally:
        live.ended.add(number)
    if result is None:
        return {"chunk": number, "skipped": run.reason or "stopped"}
    return {"chunk": number, "key": result.key, "assets": result.num_assets, "pictures": result.pictures}


def _await_turn(live: Live, number: int) -> None:
    """Chunks begin in their order, the most wanted first, so that a budget leaves the least wanted ones.

    Threads start in that order too, but may overtake one another between there and here.
    """
    run, until = live.run, time.monotonic() + _TURN_SECONDS
    while number and not (run.reason or number - 1 in live.ended or run.chunks[number - 1].key in run.begun):
        if time.monotonic() > until:
            return
        time.sleep(0.01)


@task(name="publish", persist_result=False)
def publish_run(run_id: str) -> dict[str, Any]:
    """Publishes what the run chose, commits the catalog, writes contact sheet and report."""
    return pipeline.finish_run(_LIVE[run_id].run)


def _name_run() -> str:
    """Runs are named by config and date: the night's where one was asked for, else that of the scheduled start."""
    from prefect.runtime import flow_run

    path = Path(flow_run.parameters["config"])
    try:
        config = read_config(path)
        name, schedule = config.name, config.schedule
    except InputError:
        return f"{path.stem} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"
    wanted = flow_run.parameters.get("date")
    if wanted and wanted != "due":
        return f"{name} {wanted}"
    from zoneinfo import ZoneInfo

    return f"{name} {flow_run.scheduled_start_time.astimezone(ZoneInfo(schedule.timezone)):%Y-%m-%d %H:%M}"


def _tell_death(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's own word that a flow's process died: nobody else can tell any more."""
    path = Path(flow_run.parameters.get("config", "unknown"))
    try:
        config = read_config(path)
    except InputError:
        config = None
    tell(notice_of_crash(config.name if config else path.stem, f"the process died: {state.message}"), config)


@flow(
    name="produce",
    flow_run_name=_name_run,
    persist_result=False,
    log_prints=False,
    on_crashed=[_tell_death],
)
def produce(
    config: str,
    only: list[str] | None = None,
    limit: int | None = None,
    force: bool = False,
    date: str | None = None,
    again: bool = False,
    run_id: str | None = None,
) -> State[Any]:
    """Makes, ranks, upscales and publishes what is left to do of a config's sheet.

    Args:
        config: Config file (YAML), by its path on the machine that works.
        only: Only the assets with these ids; removes nothing.
        limit: Only the first assets of the sheet; removes nothing.
        force: Go past max_removed and max_changed; try exhausted and failed assets again.
        date: As the night of this date (2026-11-27), or `due`; scheduled runs know theirs. A night is made once.
        again: Also when the night of that date is done.
        run_id: A run that this process has begun already; leave it empty.
    """
    with ExitStack() as stack:
        if run_id is not None:
            run = _LIVE[run_id].run
        else:
            try:
                run = stack.enter_context(_told_run(Path(config), only or (), limit, force, date, again))
            except NightDone as done:
                return State(type="COMPLETED", name="NightDone", message=str(done))
            except AlreadyRunning as other:
                return State(type="FAILED", name="AlreadyRunning", message=str(other))
        stack.enter_context(stopped_by_signals(run))  # Prefect's own handler would drop what is on its way
        get_run_logger().info("run %s: %d chunks, %d assets to make", run.id, len(run.chunks), len(run.plan.todo))
        report = _make(run)
        return _state_of(report)


def _make(run: pipeline.Run) -> dict[str, Any]:
    """All chunks of a live run as tasks, then publishing; shown while it goes on. Raises BreakerTripped."""
    window = Window()
    with window.progress(run, _LIVE[run.id].counter):
        errors = make_chunks(run)
    for error in errors:
        run.reason = run.reason or f"{_CHUNK_FAILED}: {error}"
    report = publish_run(run.id)
    window.report(run, report)
    for error in errors:
        if isinstance(error, BreakerTripped):
            raise error
    return report


def make_chunks(run: pipeline.Run) -> list[BaseException]:
    """All chunks of a live run as tasks, as many at a time as its workers have slots. Gives what went wrong."""
    workers, numbers, settings = _LIVE[run.id].workers, list(range(len(run.chunks))), run.job.config.run
    if workers is None:
        return []
    if settings.execution == "ray":
        from on_ray import make_with

        return make_with(workers, numbers)
    chunk = (
        make_chunk.with_options(timeout_seconds=settings.chunk_minutes * 60) if settings.chunk_minutes else make_chunk
    )
    threads: Any = ThreadPoolTaskRunner(max_workers=workers.num_slots)  # Any: Prefect types its runners for coroutines
    with threads as runner:
        futures = runner.map(chunk, {"run_id": unmapped(run.id), "number": numbers})
        return [f.state.result(raise_on_failure=False) for f in futures if f.wait() or f.state.is_failed()]


def _state_of(report: dict[str, Any]) -> State[Any]:
    """The state that Prefect shows: only a run that did all it set out to do is completed without a word."""
    status, reason = report["status"], report["reason"]
    kind, name = _END.get(status) or _STATES[report["exit_code"]]
    if reason.startswith(_CHUNK_FAILED):
        kind, name = "FAILED", "ChunksFailed"
    left = f"left: {left_text(report)}" if report["left"] else ""
    told = (reason,) if reason.startswith(status) else (status, reason)
    return State(type=kind, name=name, message="; ".join(filter(None, (*told, left))))


@contextmanager
def live_run(
    config: Path, only: Any = (), limit: int | None = None, force: bool = False, night: Night | None = None,
    again: bool = False, hold_slot: bool = True,
) -> Iterator[pipeline.Run]:  # fmt: skip
    """Takes the lock, plans, loads the models if there is work, and keeps the run live for this process's tasks.

    Where the config or a GPU wants a slot (see `slots`), it is waited for under the lock and before any model loads;
    on a server that nobody else uses there is no need.
    """
    job = pipeline.open_job(config, only=only, limit=limit, force=force)
    if job.config.run.execution == "ray":
        demand_server(job.config, PREFECT_API_URL.value())
    with pipeline.begin_run(job, night=night, again=again) as run, ExitStack() as stack:
        stack.enter_context(stopped_by_signals(run))
        workers, counter = None, Counter()
        limits = limits_of(job.config) if hold_slot and run.chunks else ()
        if stack.enter_context(device_slots(limits, run.stop)) and run.chunks:
            workers = stack.enter_context(_workers_of(run, counter))
            pipeline.announce(run, counter)
        _LIVE[run.id] = Live(run, workers, counter)
        try:
            yield run
        finally:
            del _LIVE[run.id]


def _workers_of(run: pipeline.Run, counter: Counter) -> AbstractContextManager[Workers]:
    """What makes a run's chunks, models loaded: this process, one per device, or a Ray cluster."""
    if run.job.config.run.execution != "ray":
        return pipeline.open_workers(run, counter)
    from on_ray import ray_workers

    return ray_workers(run, counter)


@contextmanager
def _told_run(
    path: Path, only: Any = (), limit: int | None = None, force: bool = False, date: str | None = None,
    again: bool = False, hold_slot: bool = True,
) -> Iterator[pipeline.Run]:  # fmt: skip
    """A live run whose end is told to the config's webhook: by its report, or by the error that left none."""
    with told(path) as ended:
        ended.config = config = read_config(path)
        night = _night_of(config, date)
        ended.night = night.name if night is not None else ""
        with live_run(path, only, limit, force, night, again, hold_slot) as run:
            ended.store = run.job.store
            yield run
            ended.report = read_json(run.job.store, config.name, run.id, "report.json")


def _night_of(config: Config, date: str | None) -> Night | None:
    """The night of a run: the one asked for, or that of its scheduled start; none for one started by hand."""
    now = datetime.now(UTC)
    if date:
        return night_named(config.schedule, date, now)
    context = FlowRunContext.get()
    scheduled = context.flow_run if context is not None else None
    if scheduled is None or not scheduled.auto_scheduled or scheduled.expected_start_time is None:
        return None
    return night_to_make(config.schedule, scheduled.expected_start_time, now)


def main(arguments: list[str]) -> int:
    """`python flows/produce.py CONFIG [ID…]`. Gives the exit code of `assetmill run`."""
    from assetmill.operate.exits import run_command
    from assetmill.operate.logs import set_up_logging

    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: python flows/produce.py CONFIG [ASSET-ID ...]\n")
        return 2
    set_up_logging()
    logging.getLogger("prefect").propagate = False  # Prefect prints its own lines
    return run_command(lambda: produce_here(Path(arguments[0]), arguments[1:]))


def produce_here(config: Path, only: list[str]) -> int:
    """The flow in this process, on the server at PREFECT_API_URL or on one that lives as long as it. Gives the code."""
    from prefect.settings import temporary_settings
    from rich.console import Console

    from assetmill.operate.summary import show_report
    from server import LocalServer

    with ExitStack() as stack:
        given = PREFECT_API_URL.value()
        # The server starts while sheet and models are read; the lock is held before any task is.
        server = None if given or _is_for_ray(config) else stack.enter_context(LocalServer())
        if server is not None:
            stack.enter_context(temporary_settings({PREFECT_API_URL: server.url}))
        run = stack.enter_context(_told_run(config, only, hold_slot=server is None))
        if server is not None:
            server.wait()
        store, name = run.job.store, run.job.config.name
        try:
            state = produce(str(config), list(only), run_id=run.id, return_state=True)
            problem = None if state.is_completed() else state.result(raise_on_failure=False)
        except Exception as error:  # noqa: BLE001 - what it means for the run, the report tells
            logging.getLogger("assetmill.flows").warning("Prefect could not be told how the run ended: %s", error)
            problem = error
        try:
            report = read_json(store, name, run.id, "report.json")
        except MissingObject as missing:
            raise (problem if isinstance(problem, Exception) else missing) from None
        show_report(Console(stderr=True), report, places_of(store, run.job.config, report))
        return int(report["exit_code"])


def _is_for_ray(path: Path) -> bool:
    """Whether a config's workers are on other machines, which a server of this process is no use to."""
    try:
        return read_config(path).run.execution == "ray"
    except InputError:
        return False  # said with its place when the run begins


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
