"""One process per device: the same pictures as in one, crashes that cost their own chunk only, a drain that drains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import Config
from assetmill.engines.protocols import EngineError
from assetmill.operate.attempts import Attempts
from assetmill.operate.devices import devices_of, keep_to_device, threads_for
from assetmill.operate.elsewhere import RunPlace, open_worker
from assetmill.operate.produce import BreakerTripped
from assetmill.operate.runs import list_runs
from assetmill.pipeline import plan_job, start_run
from assetmill.records import InputError
from productions import NAME, Production, rows

TWO = {"execution": "processes", "devices": 2}


def toys_of(folder: Path, num_rows: int = 12, devices: Any = 2, **settings: Any) -> Production:
    run = {"chunk": 8, "execution": "processes", "devices": devices, **settings.pop("run", {})}
    return Production(folder, rows(num_rows), {"run": run, **settings})


def config_of(**run: Any) -> Config:
    return Config.model_validate(
        {"name": "x", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]},
         "model": {"engine": "simulated"}, "run": run}
    )  # fmt: skip


# --- a worker opens a run from the store ------------------------------------------------------------------------


def test_a_worker_needs_nothing_but_the_store(tmp_path: Path) -> None:
    """Sheet and templates may be gone: the run's folder says all, and the keys are those of the plan."""
    toys = toys_of(tmp_path, 4)
    job = toys.job()
    run = start_run(job, plan_job(job))
    (tmp_path / "sheet.csv").unlink()
    (tmp_path / "main.j2").unlink()
    place = RunPlace(job.config.store.model_dump(mode="json"), job.config.store_url, NAME, run.id)
    worker = open_worker(place)
    try:
        made = [worker.make(n) for n in range(len(run.chunks))]
    finally:
        worker.close()
    assert [m.result.pictures for m in made if m.result] == [8, 8]
    assert sum(m.checked for m in made) == 16
    assert made[0].stages["generate"].count == 8
    toys.check_whole()
    plain = Production(tmp_path / "plain", rows(4), {"run": {"chunk": 8}})
    plain.run()
    assert {c.request_key: c.blob for c in toys.candidates()} == {c.request_key: c.blob for c in plain.candidates()}


def test_a_chunk_whose_news_was_lost_is_not_made_again(tmp_path: Path) -> None:
    """A second worker finds the records of the first one, also those written after it was opened."""
    toys = toys_of(tmp_path, 2)
    job = toys.job()
    run = start_run(job, plan_job(job))
    place = RunPlace(job.config.store.model_dump(mode="json"), job.config.store_url, NAME, run.id)
    first, second = open_worker(place), open_worker(place)
    try:
        before = first.make(0).result
        after = second.make(0).result
    finally:
        first.close()
        second.close()
    assert before is not None
    assert after is not None
    assert (before.pictures, after.pictures) == (8, 8), "the report counts what nobody had heard of"
    assert before.outcomes == after.outcomes
    toys.check_whole()


def test_a_worker_with_other_weights_refuses(tmp_path: Path) -> None:
    """A machine with another version of a model makes no pictures under the run's keys."""
    toys = toys_of(tmp_path, 1)
    job = toys.job()
    run = start_run(job, plan_job(job))
    path = job.store.local_path(f"runs/{NAME}/{run.id}/snapshot.json")
    assert path is not None
    snapshot = json.loads(path.read_text())
    snapshot["work"]["models"][""]["revision"] = "another"
    path.write_text(json.dumps(snapshot))
    place = RunPlace(job.config.store.model_dump(mode="json"), job.config.store_url, NAME, run.id)
    with pytest.raises(EngineError, match="other weights than the run was planned with: model"):
        open_worker(place)


# --- whole runs -------------------------------------------------------------------------------------------------


def test_two_processes_make_what_one_does(tmp_path: Path) -> None:
    """Same pictures, same catalog; both processes had work; the second run does nothing."""
    toys = toys_of(tmp_path / "two", model={"options": {"seconds": 0.02}})
    report = toys.run()
    assert (report["status"], report["pictures"], report["published"], report["chunks"]) == ("done", 48, 12, 6)
    toys.check_whole()
    one = Production(tmp_path / "one", rows(12), {"model": {"options": {"seconds": 0.02}}})
    one.run()
    assert toys.published() == one.published()
    assert report["stages"]["generate"]["count"] == 48
    assert report["versions"] == {"simulated": "1"}
    assert toys.run()["status"] == "nothing to do"


def test_a_picture_that_kills_its_process_costs_only_its_chunk(tmp_path: Path) -> None:
    """The rest is made and published in the same run; the next run tries the chunk's assets alone, and goes on."""
    toys = toys_of(tmp_path, 6, model={"options": {"crash": "red3 "}})
    report = toys.run()
    assert report["status"] == "done, some items failed"
    assert set(report["troubled"]) == {"002", "003"}
    assert "worker process died" in report["troubled"]["003"]
    assert (report["published"], report["chunks"]) == (4, 2)
    together, alone = Attempts(toys.store, NAME).counts()
    assert sorted(together.values()) == [2, 2]
    assert not alone
    again = toys.run()
    assert set(again["troubled"]) == {"003"}
    assert again["published"] == 1
    together, alone = Attempts(toys.store, NAME).counts()
    assert list(alone.values()) == [1]
    toys.check_whole()


def test_black_pictures_stop_all_processes(tmp_path: Path) -> None:
    """The breaker counts over all processes, and what is whole is kept."""
    toys = toys_of(tmp_path, 24, model={"options": {"black": 0.9}}, gates={"regenerate": 0})
    with pytest.raises(BreakerTripped, match=r"gates\.max_rejected"):
        toys.run()
    (run,) = list_runs(toys.store, NAME)
    assert "max_rejected" in run.report["reason"]
    assert run.report["chunks"] < 12
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))


def test_a_budget_holds_over_all_processes(tmp_path: Path) -> None:
    """The driver admits chunks: no more images are begun than the budget has."""
    toys = toys_of(tmp_path, run={"budget": {"images": 24}})
    report = toys.run()
    assert (report["exit_code"], report["pictures"], report["left"]) == (4, 24, 6)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_sigterm_drains_all_processes(tmp_path: Path) -> None:
    """The batch on each device ends, what is whole is published, and no process is left behind."""
    toys = toys_of(tmp_path, 40, model={"options": {"seconds": 0.05}})
    command = [sys.executable, "-m", "assetmill", "run", str(toys.path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 100
    while time.monotonic() < end and not list(toys.store.list(f"records/{NAME}/")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as a service manager does: all of them get it
    out, errors = process.communicate(timeout=100)
    report = json.loads(out)
    assert report["status"] == "stopped", errors
    assert report["reason"] == "stopped by SIGTERM"
    assert 0 < report["chunks"] < 20
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))
    _await_end(process.pid)
    toys.check_whole()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_of_a_killed_driver_end(tmp_path: Path) -> None:
    """SIGKILL of the driver breaks the pipes: no worker goes on by itself."""
    toys = toys_of(tmp_path, 40, model={"options": {"seconds": 0.05}})
    command = [sys.executable, "-m", "assetmill", "run", str(toys.path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 100
    while time.monotonic() < end and not list(toys.store.list(f"records/{NAME}/")):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    _await_end(process.pid)
    toys.check_whole()


def _await_end(group: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and _alive_in(group):
        time.sleep(0.1)
    assert not _alive_in(group)


def _alive_in(group: int) -> list[int]:
    """Processes of a group that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_worker_that_cannot_load_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    """What a worker raises comes out of the run, with the machine and process it happened in."""
    toys = toys_of(tmp_path, 4, model={"options": {"poison": "a "}})
    report = toys.run()  # poisoned items are failures of their own
    assert report["outcomes"] == {"failed": 4}
    toys = toys_of(tmp_path / "ray", 2, run={"execution": "ray"})
    with pytest.raises(InputError, match=r"flows/produce\.py"):
        toys.run()


# --- devices ----------------------------------------------------------------------------------------------------


def test_which_devices() -> None:
    """A number is that many processes; a list is taken as it is; without a GPU `auto` is one process."""
    assert devices_of(config_of(execution="processes", devices=3)) == ("", "", "")
    assert devices_of(config_of(execution="processes", devices=["cpu"])) == ("cpu",)
    assert devices_of(config_of(execution="processes")) == ("",)
    with pytest.raises(EngineError, match="cuda:1"):
        devices_of(config_of(execution="processes", devices=["cuda:0", "cuda:1"]))


@pytest.mark.parametrize("devices", [[], ["gpu"], ["cuda:0", "cuda:0"], 0, True])
def test_devices_that_are_none_are_refused(devices: Any) -> None:
    """A misspelt, doubled or empty list is an error of the config."""
    with pytest.raises(ValueError, match="devices"):
        config_of(execution="processes", devices=devices)


def test_a_fixed_gpu_and_several_processes_contradict() -> None:
    """`model.device: cuda:1` would name a GPU that no worker sees."""
    with pytest.raises(ValueError, match=r"judge\.device"):
        Config.model_validate(
            {"name": "x", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]},
             "judge": {"device": "cuda:1"}, "run": TWO}
        )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "before", "after"),
    [("cuda:1", None, "1"), ("cuda:1", "4, 5", "5"), ("cpu", "4,5", ""), ("", "4,5", "4,5")],
)
def test_a_process_sees_its_device_only(device: str, before: str | None, after: str) -> None:
    """GPUs are counted among those that the driver sees."""
    environment = {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    keep_to_device(device, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == after


def test_processes_share_the_cores() -> None:
    """Torch's threads of all processes together fill the machine once."""
    assert threads_for(config_of(), 1) is None
    assert threads_for(config_of(threads=3), 4) == 3
    shared = threads_for(config_of(), 2)
    assert shared is not None
    assert 1 <= shared <= max(1, (os.cpu_count() or 1) // 2)
