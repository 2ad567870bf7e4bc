"""The work of `assetmill run` as a Prefect flow: tasks of a few lines over `assetmill.pipeline`.

    python flows/produce.py configs/game-assets.yaml

One task is one chunk of whole assets (64 to 256 images), so that a night of 10,000 images is some 100 task runs.
Between tasks go keys and counts, never pictures or models. Without the decorators this file still works.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from assetmill import pipeline
from assetmill.operate.produce import BreakerTripped, ChunkWorker
from assetmill.operate.summary import places_of
from assetmill.records import InputError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun
    from prefect.states import State

_RUNNER: Any = ThreadPoolTaskRunner(max_workers=2)  # Any: Prefect types its runners invariantly
"""Two chunks at a time: while one is on the device, the last one is encoded and stored."""

_LIVE: dict[str, tuple[pipeline.Run, ChunkWorker]] = {}
"""Runs of this process with their loaded models, by run id: tasks are handed the id, never the models."""


def _worth_retrying(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """A broken model or bad input stays broken; a store that did not answer may answer in a minute."""
    error = state.result(raise_on_failure=False) if state.is_failed() else None
    return not isinstance(error, BreakerTripped | InputError)


@task(
    name="make-chunk",
    task_run_name="chunk {number}",
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=_worth_retrying,
    persist_result=False,
)
def make_chunk(run_id: str, number: int) -> dict[str, Any]:
    """Makes one chunk of a live run: generate, gate, score, select, upscale, store, commit its segment."""
    run, worker = _LIVE[run_id]
    result = pipeline.make_one_chunk(run, worker, number)
    if result is None:
        return {"chunk": number, "skipped": run.reason or "stopped"}
    return {"chunk": number, "key": result.key, "assets": result.num_assets, "pictures": result.pictures}


@task(name="publish", persist_result=False)
def publish_run(run_id: str) -> dict[str, Any]:
    """Publishes what the run chose, commits the catalog, writes contact sheet and report."""
    return pipeline.finish_run(_LIVE[run_id][0])


def _name_run() -> str:
    """Runs are named by config and date."""
    from prefect.runtime import flow_run

    return f"{Path(flow_run.parameters['config']).stem} {datetime.now():%Y-%m-%d %H:%M}"


@flow(
    name="produce",
    flow_run_name=_name_run,
    task_runner=_RUNNER,
    persist_result=False,
    log_prints=False,
)
def produce(
    config: str, only: list[str] | None = None, limit: int | None = None, force: bool = False, run_id: str | None = None
) -> dict[str, Any]:
    """A config's whole run. `run_id` names a run that this process has begun already (see `main`)."""
    with ExitStack() as stack:
        if run_id is None:
            run = stack.enter_context(live_run(Path(config), only or (), limit, force))
        else:
            run = _LIVE[run_id][0]
        log = get_run_logger()
        log.info("run %s: %d chunks, %d assets to make", run.id, len(run.chunks), len(run.plan.todo))
        futures = make_chunk.map(run_id=unmapped(run.id), number=list(range(len(run.chunks))))
        errors = [f.state.result(raise_on_failure=False) for f in futures if f.wait() or f.state.is_failed()]
        for error in errors:
            run.reason = run.reason or f"a chunk failed: {error}"
        report = publish_run(run.id)
        _show(run, report)
        for error in errors:
            if isinstance(error, BreakerTripped):
                raise error
        return report


@contextmanager
def live_run(config: Path, only: Any = (), limit: int | None = None, force: bool = False) -> Iterator[pipeline.Run]:
    """Takes the lock, plans, loads the models if there is work, and keeps the run live for this process's tasks."""
    job = pipeline.open_job(config, only=only, limit=limit, force=force)
    with pipeline.begin_run(job) as run:
        engines = None
        if run.chunks:
            with run.stages.time("load"):
                engines = pipeline.load_engines(run.job, run.plan)
        worker = run.worker(engines) if engines is not None else None
        _LIVE[run.id] = (run, worker)  # type: ignore[assignment]
        try:
            yield run
        finally:
            del _LIVE[run.id]
            if worker is not None:
                worker.close()


def _show(run: pipeline.Run, report: dict[str, Any]) -> None:
    """The report as artifacts in Prefect's UI."""
    places = places_of(run.job.store, run.job.config, report)
    lines = [f"# {report['config']}: {report['status']}", ""]
    lines += [f"- {name}: `{place}`" for name, place in places.items()]
    create_markdown_artifact("\n".join(lines), key="run", description=f"run {run.id}")
    rows = [{"what": k, "count": v} for k, v in report["states"].items() if v]
    rows += [{"what": k, "count": report[k]} for k in ("pictures", "rejected", "chosen", "files")]
    create_table_artifact(rows, key="counts", description=f"run {run.id}")


def main(arguments: list[str]) -> int:
    """`python flows/produce.py CONFIG [ID…]`. Gives the exit code of `assetmill run`."""
    from rich.console import Console

    from assetmill.operate.exits import run_command
    from assetmill.operate.logs import set_up_logging
    from assetmill.operate.summary import show_report

    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: python flows/produce.py CONFIG [ASSET-ID ...]\n")
        return 2
    set_up_logging()
    logging.getLogger("prefect").propagate = False  # Prefect prints its own lines
    config, only = Path(arguments[0]), arguments[1:]

    def work() -> int:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from server import LocalServer

        with ExitStack() as stack:
            given = PREFECT_API_URL.value()
            # The server starts while sheet and models are read; the lock is held before any task is.
            server = None if given else stack.enter_context(LocalServer())
            run = stack.enter_context(live_run(config, only))
            url = given or (server.wait() if server else "")
            with temporary_settings({PREFECT_API_URL: url}):
                report = produce(str(config), list(only), run_id=run.id)
            show_report(Console(stderr=True), report, places_of(run.job.store, run.job.config, report))
            return int(report["exit_code"])

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
