"""Runs as records in the store: what was started, from which snapshot, how it ended.

A run's folder holds `snapshot.json` (the config, and the hashes of the sheet's and the templates' bytes, kept as
blobs), `plan.json` (the work in chunks) and `report.json` (written last). A run without a report is either going on
or dead; the lock tells which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assetmill.operate.lock import lock_holder
from assetmill.records import InputError, Problem
from assetmill.storage.layout import run_path, runs_prefix
from assetmill.storage.store import MissingObject, Store
from assetmill.storage.ulid import new_ulid, ulid_time


def new_run_id(now: float | None = None) -> str:
    """A ULID: the ids of runs sort by time."""
    return new_ulid(now)


def run_time(run_id: str) -> float:
    """Seconds since the epoch at which a run began, from its id."""
    return ulid_time(run_id)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as `assetmill runs` shows it. `status`: running, crashed, or what its report says."""

    id: str
    started: float
    status: str
    report: Mapping[str, Any]


def write_json(store: Store, config_name: str, run_id: str, name: str, value: Any) -> str:
    """Writes a JSON document into a run's folder, once; gives its key."""
    key = run_path(config_name, run_id, name)
    data = (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
    store.put_if_absent(key, data, media_type="application/json")
    return key


def read_json(store: Store, config_name: str, run_id: str, name: str) -> Any:
    """A JSON document of a run; raises MissingObject, or ValueError when it is damaged."""
    return json.loads(store.get(run_path(config_name, run_id, name)))


def list_runs(store: Store, config_name: str, *, running: str | None = None) -> Iterator[RunInfo]:
    """All runs, oldest first. `running` is the id of the run that holds the lock, if any."""
    names: dict[str, set[str]] = {}
    prefix = runs_prefix(config_name)
    for info in store.list(prefix):
        run_id, _, name = info.key.removeprefix(prefix).partition("/")
        if run_id == "begun":  # markers of chunks, see attempts.py
            continue
        names.setdefault(run_id, set()).add(name)
    for run_id in sorted(names):
        yield describe_run(store, config_name, run_id, names[run_id], running)


def describe_run(store: Store, config_name: str, run_id: str, names: set[str], running: str | None) -> RunInfo:
    """One run's state. A damaged report is said to be damaged; it is never taken for success."""
    if "report.json" in names:
        try:
            report = read_json(store, config_name, run_id, "report.json")
            return RunInfo(run_id, run_time(run_id), str(report.get("status", "unknown")), report)
        except (ValueError, AttributeError, MissingObject) as error:
            return RunInfo(run_id, run_time(run_id), "damaged report", {"error": str(error)})
    return RunInfo(run_id, run_time(run_id), "running" if run_id == running else "crashed", {})


def find_run(store: Store, config_name: str, run_id: str) -> Mapping[str, Any]:
    """A run's report, or what is known of a run without one. `run_id` may be a beginning; InputError if unknown."""
    found = [
        r for r in list_runs(store, config_name, running=holder_run_id(store, config_name)) if r.id.startswith(run_id)
    ]
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise InputError(Problem(f"{what} named {run_id!r}", "see `assetmill runs list CONFIG`"))
    (run,) = found
    return run.report or {"run": run.id, "status": run.status}


def holder_run_id(store: Store, config_name: str) -> str | None:
    """The run that holds the lock, as its lock says, else the newest one without a report; None while it is free."""
    holder = lock_holder(store, config_name)
    if holder is None:
        return None
    if isinstance(holder.get("run"), str):
        return str(holder["run"])
    prefix = runs_prefix(config_name)
    ids: dict[str, bool] = {}
    for info in store.list(prefix):
        run_id, _, name = info.key.removeprefix(prefix).partition("/")
        if run_id != "begun":
            ids[run_id] = ids.get(run_id, False) or name == "report.json"
    newest = max(ids, default=None)
    return newest if newest is not None and not ids[newest] else None
