"""A run ends early in good order: when a person says so on any machine, and when its time is over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from assetmill.operate import stopping
from assetmill.operate.runs import find_run, holder_run_id, list_runs
from assetmill.operate.stopping import cancel_run, stopped_by_signals, watched
from assetmill.records import InputError
from assetmill.storage.store import StoreUnavailable
from productions import NAME, Production, rows


def slow(folder: Path, **run: object) -> Production:
    settings = {"model": {"options": {"seconds": 0.02}, "batch": 4}, "run": {"chunk": 4, **run}}
    return Production(folder, rows(400), settings)


def test_cancel_ends_a_run_of_another_process(tmp_path: Path) -> None:
    """`runs cancel` from elsewhere: within 30 s what is whole is published, exit code 1, the next run goes on."""
    toys = slow(tmp_path)
    command = [sys.executable, "-m", "assetmill", "run", str(toys.path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(toys.folder.glob("out/records/*/*/*.jsonl")):
        time.sleep(0.05)
    running = holder_run_id(toys.store, NAME)
    assert running is not None
    with pytest.raises(InputError, match="no run named"):
        cancel_run(toys.store, NAME, "00000", by="ann")
    asked = [sys.executable, "-m", "assetmill", "runs", "cancel", str(toys.path), running[:10], "--by", "ann",
             "--reason", "wrong sheet", "--json"]  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["run"]) == (0, running), done.stderr
    began = time.monotonic()
    out, err = process.communicate(timeout=90)
    assert time.monotonic() - began < 30
    report = json.loads(out)
    assert (process.returncode, report["status"]) == (1, "cancelled"), err
    assert report["reason"] == "cancelled by ann: wrong sheet"
    assert 0 < report["published"] < 400
    assert report["left"] == 400 - report["assets"]
    assert [r.status for r in list_runs(toys.store, NAME)] == ["cancelled"]
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))
    toys.check_whole()
    with pytest.raises(InputError, match="not going on: cancelled"):
        cancel_run(toys.store, NAME, running, by="ann")
    with pytest.raises(InputError, match="no run of toys is going on"):
        cancel_run(toys.store, NAME, None, by="ann")


def test_a_run_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """`run.max_minutes`: it drains, publishes what is whole, and says what is left; the next run goes on."""
    toys = slow(tmp_path, max_minutes=0.03)
    report = toys.run()
    assert (report["status"], report["exit_code"]) == ("timed out", 1)
    assert report["reason"] == "timed out: 0.03 minutes are over"
    assert 0 < report["assets"] < 400
    toys.check_whole()
    assert find_run(toys.store, NAME, report["run"])["left"] == 400 - report["assets"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"by": 3, "reason": null}'])
def test_a_mark_counts_however_it_looks(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged mark is a person's wish all the same; a store that does not answer is not one."""
    monkeypatch.setattr(stopping, "POLL_SECONDS", 0.05)
    store = Production(tmp_path).store
    run = SimpleNamespace(id="01RUN", reason="", stop=threading.Event())
    store.put_if_absent(f"runs/{NAME}/01RUN/cancel.json", data)
    with watched(run, store, NAME):
        assert run.stop.wait(10)
    assert run.reason.startswith("cancelled")

    silent = SimpleNamespace(stat=lambda key: (_ for _ in ()).throw(StoreUnavailable("gone")))
    other = SimpleNamespace(id="01RUN", reason="", stop=threading.Event())
    with watched(other, silent, NAME):  # type: ignore[arg-type]
        assert not other.stop.wait(0.3)


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    """A flow that runs in a thread changes no handlers and works."""
    run = SimpleNamespace(id="01RUN", reason="", stop=threading.Event())
    worked: list[bool] = []

    def work() -> None:
        with stopped_by_signals(run):
            worked.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert worked == [True]
