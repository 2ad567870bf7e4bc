"""Runs as records: what began and how it ended; and runs that die at any call of the store."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.operate.lock import hold_lock
from assetmill.operate.runs import describe_run, find_run, holder_run_id, list_runs, new_run_id, run_time, write_json
from assetmill.pipeline import run_job
from assetmill.records import InputError
from productions import NAME, Production, rows

# --- run ids ------------------------------------------------------------------------------------------------


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_ids_sort_by_time(one: float, other: float) -> None:
    """Run ids are ULIDs: 26 characters, in the order of time, which can be read back to the millisecond."""
    first, second = new_run_id(one), new_run_id(other)
    assert len(first) == 26
    assert abs(run_time(first) - one) < 0.0011
    if abs(one - other) > 0.002:
        assert (first < second) == (one < other)
    assert new_run_id(one) != first


# --- how runs ended -----------------------------------------------------------------------------------------


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(2))


def test_finished_runs_are_listed(toys: Production) -> None:
    """Runs are listed oldest first with what their report says; the markers of chunks are no run."""
    first, second = toys.run(), toys.run()
    toys.store.put_if_absent(f"runs/{NAME}/begun/abc/{first['run']}", b"{}")
    found = list(list_runs(toys.store, NAME))
    assert [(r.id, r.status) for r in found] == [(first["run"], "done"), (second["run"], "nothing to do")]
    assert found[0].report["pictures"] == 8
    assert found[0].started <= found[1].started


def test_crashed_and_running(toys: Production) -> None:
    """A run without a report is running while its holder lives, and has crashed when nobody holds the lock."""
    toys.run()
    late = new_run_id()
    write_json(toys.store, NAME, late, "snapshot.json", {})
    assert holder_run_id(toys.store, NAME) is None
    assert [r.status for r in list_runs(toys.store, NAME)] == ["done", "crashed"]
    with hold_lock(toys.store, NAME):
        holder = holder_run_id(toys.store, NAME)
        assert holder == late
        assert [r.status for r in list_runs(toys.store, NAME, running=holder)] == ["done", "running"]
        assert find_run(toys.store, NAME, late) == {"run": late, "status": "running"}


def test_finished_newest_run_is_not_running(toys: Production) -> None:
    """Whoever holds the lock before its first record is not mistaken for the last finished run."""
    toys.run()
    with hold_lock(toys.store, NAME):
        assert holder_run_id(toys.store, NAME) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_report(toys: Production, data: bytes) -> None:
    """A damaged report is said to be damaged, and is taken neither for success nor for a crash."""
    run_id = new_run_id()
    toys.store.put_if_absent(f"runs/{NAME}/{run_id}/report.json", data)
    (found,) = list_runs(toys.store, NAME)
    assert (found.id, found.status) == (run_id, "damaged report")
    assert found.report["error"]
    assert toys.run()["exit_code"] == 0, "it stops nothing"


def test_report_gone_meanwhile(toys: Production) -> None:
    """A report that vanishes between listing and reading is told of, not raised."""
    assert describe_run(toys.store, NAME, new_run_id(), {"report.json"}, None).status == "damaged report"


def test_find(toys: Production) -> None:
    """A run is found by the beginning of its id; unknown and ambiguous ones are refused with the way to look."""
    report = toys.run()
    assert find_run(toys.store, NAME, report["run"][:20]) == report
    with pytest.raises(InputError, match=r"no run named 'x'.*runs list"):
        find_run(toys.store, NAME, "x")
    toys.run()
    with pytest.raises(InputError, match="2 runs named '01"):
        find_run(toys.store, NAME, "01")


# --- death at every call of the store -----------------------------------------------------------------------


class Died(BaseException):
    """What no `except Exception` catches."""


class Dying:
    """A store whose process dies at call number `last`, before or after the call had its effect; dead it stays."""

    def __init__(self, store: Any, last: int | None, *, after: bool = False) -> None:
        self._store, self._last, self._after = store, last, after
        self._lock = threading.Lock()
        self.url = store.url
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def count() -> bool:
            with self._lock:
                self.calls += 1
                if self._last is not None and self.calls > self._last:
                    raise Died
                return self.calls == self._last

        def through(*args: Any, **options: Any) -> Any:
            dies = count()
            if dies and not self._after:
                raise Died
            result = call(*args, **options)
            result = list(result) if isinstance(result, Iterator) else result
            if dies:
                raise Died
            return result

        return call if name == "local_path" else through


def run_dying(toys: Production, last: int | None, *, after: bool = False) -> int:
    """A run that dies at that call of the store; gives how many calls there were."""
    job = toys.job()
    job.store = Dying(toys.store, last, after=after)  # type: ignore[assignment]
    with contextlib.suppress(Died):
        run_job(job)
    # Dead processes are told by their pid, and ours lives on: in its place somebody removes the lock.
    toys.store.delete(f"locks/{NAME}.json")
    return job.store.calls  # type: ignore[attr-defined, no-any-return]


NUM_DEATHS = 24


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[tuple[str, int], str]]:
    """How many calls a whole run makes, and what it publishes."""
    toys = dying_production(tmp_path_factory.mktemp("reference"))
    calls = run_dying(toys, None)
    assert calls > NUM_DEATHS
    return calls, toys.published()


def dying_production(folder: Path) -> Production:
    return Production(folder, rows(3), {"candidates": 2, "run": {"chunk": 2}, "model": {"batch": 2}})


@pytest.mark.parametrize("number", range(NUM_DEATHS))
def test_death_at_a_store_call(tmp_path: Path, reference: tuple[int, dict[tuple[str, int], str]], number: int) -> None:
    """Wherever a run dies, the next one finishes it: nothing is lost or doubled, the catalog is never torn."""
    calls, published = reference
    # Half of them before the call had its effect, half after, spread over the whole run.
    last = 1 + (number // 2 * 2 + number % 2) * (calls - 1) // (NUM_DEATHS - 1)
    toys = dying_production(tmp_path)
    run_dying(toys, last, after=bool(number % 2))
    before = toys.catalog
    assert before.verify().passed
    assert toys.published() in ({}, published), "all of a version or nothing of it"
    recorded = {c.request_key: c.blob for c in toys.candidates()}
    report = toys.run()
    assert report["exit_code"] == 0
    assert report["pictures"] == 6 - len(recorded), "what has a record is not made again"
    assert {c.request_key: c.blob for c in toys.candidates()}.items() >= recorded.items()
    toys.check_whole()
    assert toys.published() == published
    assert toys.states() == {"unchanged": 3}


def test_deaths_in_a_row(tmp_path: Path, reference: tuple[int, dict[tuple[str, int], str]]) -> None:
    """Runs that die one after the other come through in the end, a few records further each time."""
    calls, published = reference
    toys = dying_production(tmp_path)
    for last in range(20, calls, 9):
        run_dying(toys, last)
        assert toys.catalog.verify().passed
    toys.run()
    toys.check_whole()
    assert toys.published() == published
