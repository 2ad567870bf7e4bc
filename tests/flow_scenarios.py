"""Flows of one process on the server at PREFECT_API_URL, for tests/test_flows_server.py: one JSON object on stdout.

python tests/flow_scenarios.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "flows")]

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import (  # noqa: E402
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)

import nightly  # noqa: E402
import produce  # noqa: E402
import slots  # noqa: E402
from assetmill import pipeline  # noqa: E402
from assetmill.operate.lock import hold_lock  # noqa: E402
from assetmill.operate.nights import due_night, mark_done, night_at  # noqa: E402
from assetmill.operate.runs import list_runs  # noqa: E402
from assetmill.storage.store import StoreUnavailable  # noqa: E402
from productions import NAME, Production, rows  # noqa: E402

FAILED_ONCE: list[int] = []


def flow_of(toys: Production, **parameters: Any) -> dict[str, Any]:
    """One flow: the state that Prefect shows, and the report of its run, where it left one."""
    before = {r.id for r in list_runs(toys.store, NAME)}
    state = produce.produce(str(toys.path), return_state=True, **parameters)
    runs = [r.report for r in list_runs(toys.store, NAME) if r.id not in before]
    return {
        "type": state.type.value, "name": state.name, "message": state.message,
        "run": str(state.state_details.flow_run_id), "report": dict(runs[-1]) if runs else None,
        "published": len(toys.published()),
    }  # fmt: skip


def some_items_fail(folder: Path) -> Any:
    return flow_of(Production(folder, rows(4), {"model": {"options": {"poison": "red2"}}}))


def a_budget_is_reached(folder: Path) -> Any:
    settings = {"run": {"chunk": 8, "budget": {"images": 8}, "device_limit": "gpu of a test"},
                "sheet": {"path": "sheet.csv", "id": "id", "overrides": {"priority": "rank"}}}  # fmt: skip
    toys = Production(folder, [{**row, "rank": str(n % 3)} for n, row in enumerate(rows(6))], settings)
    found = flow_of(toys)
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name("gpu of a test")
    return {
        **found,
        "slots": limit.limit,
        "taken": limit.active_slots,
        "made": sorted({a for a, _ in toys.published()}),
    }


def the_sheet_is_missing(folder: Path) -> Any:
    toys = Production(folder)
    (folder / "sheet.csv").unlink()
    return flow_of(toys)


def a_night_is_started_twice(folder: Path) -> Any:
    toys = Production(folder, settings={"schedule": {"cron": "0 0 * * *"}})
    return [flow_of(toys, date="due"), flow_of(toys, date="due"), flow_of(toys, date="due", again=True)]


def three_nights_are_missed(folder: Path) -> Any:
    toys = Production(folder, settings={"schedule": {"cron": "0 0 * * *"}})
    config = toys.job().config
    done = night_at(config.schedule, due_night(config.schedule, datetime.now(UTC)).scheduled - timedelta(days=3))
    mark_done(toys.store, NAME, done, {"status": "done", "run": "01OLD"})
    configs = [(toys.path, config)]
    late = nightly.make_up(configs, nightly.deployments_of(configs))
    with get_client(sync_client=True) as client:
        (waiting,) = client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[NAME])),
            flow_run_filter=FlowRunFilter(
                expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC))
            ),
        )
    found = flow_of(toys, **{k: v for k, v in waiting.parameters.items() if k != "config"})
    return {**found, "late": late, "state": waiting.state_name, "later": nightly.make_up(configs, [None])}


def another_run_works(folder: Path) -> Any:
    toys = Production(folder)
    with hold_lock(toys.store, NAME, owner={"run": "01OTHER"}):
        return flow_of(toys)


def a_store_does_not_answer_once(folder: Path) -> Any:
    make = pipeline.make_one_chunk

    def make_late(run: Any, worker: Any, number: int) -> Any:
        if number == 1 and not FAILED_ONCE:
            FAILED_ONCE.append(number)
            raise StoreUnavailable("the store does not answer")
        return make(run, worker, number)

    pipeline.make_one_chunk, task = make_late, produce.make_chunk
    produce.make_chunk = task.with_options(retry_delay_seconds=[0.2])
    try:
        return {**flow_of(Production(folder, rows(6), {"run": {"chunk": 8}})), "failed": len(FAILED_ONCE)}
    finally:
        pipeline.make_one_chunk, produce.make_chunk = make, task


def a_chunk_takes_too_long(folder: Path) -> Any:
    settings = {"model": {"options": {"seconds": 0.2}, "batch": 2}, "run": {"chunk": 16, "chunk_minutes": 0.02}}
    toys = Production(folder, [*rows(4), {"id": "p", "thing": "pen", "colour": "blue"}], settings)
    return flow_of(toys)


def the_machine_is_shut_down(folder: Path) -> Any:
    toys = Production(folder, rows(40), {"model": {"options": {"seconds": 0.02}}})

    def shut_down() -> None:
        while not list(folder.glob("out/records/*/*/*")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=shut_down, daemon=True).start()
    found = flow_of(toys)
    return {**found, "next": flow_of(toys), "pictures": len(toys.candidates())}


def a_person_cancels_while_it_waits_for_a_slot(folder: Path) -> Any:
    with slots.device_slots(["taken by a test"], Event()) as held:
        stop = Event()
        Timer(0.5, stop.set).start()
        with slots.device_slots(["taken by a test", "free"], stop) as other:
            with slots.device_slots(["free"], Event()) as given_back:
                return {"held": held, "other": other, "given_back": given_back}


SCENARIOS: tuple[Callable[[Path], Any], ...] = (
    some_items_fail, a_budget_is_reached, the_sheet_is_missing, a_night_is_started_twice, three_nights_are_missed,
    another_run_works, a_store_does_not_answer_once, a_chunk_takes_too_long,
    the_machine_is_shut_down, a_person_cancels_while_it_waits_for_a_slot,
)  # fmt: skip


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps({scenario.__name__: scenario(folder / scenario.__name__) for scenario in SCENARIOS}))
