"""Dispatch: files are made while the device works, nothing hangs on it, and errors come out at the end."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from assetmill.operate import dispatch
from assetmill.operate.press import Press
from assetmill.storage.store import StoreUnavailable
from productions import Production, rows


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(6), {"candidates": 2, "run": {"chunk": 4}})


def test_files_are_there_before_the_run_ends(toys: Production) -> None:
    """What a chunk chose is published while later chunks are made: the end of the run makes no file again."""
    report = toys.run()
    assert (report["files"], report["files_made"]) == (6, 0), "all were made by the dispatcher"
    assert report["stages"]["upload"]["count"] == 6
    toys.check_whole()


def test_what_a_run_knows_and_what_its_records_say_give_the_same_files(toys: Production) -> None:
    """With all settings in files and sidecars, nothing made by the dispatcher is made anew from the records."""
    toys.templates = {
        "main.j2": "---\naxes: {size: [small], finish: [flat, shaded]}\n---\na {{ size }} {{ finish }} {{ thing }}\n"
    }
    toys.change(publish={"channels": {"web": {"embed": "full", "sidecar": True}}})
    report = toys.run()
    assert report["files_made"] == 0
    assert len(list(toys.store.list("published/"))) == 2 * 6, "a picture and a sidecar of each"
    toys.check_whole()


def test_no_publish_dispatches_nothing(toys: Production) -> None:
    """With --no-publish, and while the catalog is held, no file leaves."""
    toys.run(publish_now=False)
    assert not list(toys.store.list("published/"))
    toys.run()
    toys.catalog.rollback(1)
    files = len(list(toys.store.list("published/")))
    toys.change(seed=8)
    assert toys.run()["status"] == "catalog held"
    assert len(list(toys.store.list("published/"))) == files


def test_what_finds_no_room_is_left_to_the_end(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue never holds the device up: the end of the run makes what was left out."""
    monkeypatch.setattr(dispatch, "WAITING", 0)
    report = toys.run()
    assert (report["files"], report["files_made"]) == (6, 6)
    toys.check_whole()


def test_a_store_that_fails_meanwhile_is_asked_again(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is down while the run goes on stops the dispatcher only."""
    put = Press._put

    def down(self: Press, *arguments: Any) -> None:
        if threading.current_thread().name.startswith("dispatch"):
            raise StoreUnavailable("down")
        put(self, *arguments)

    monkeypatch.setattr(Press, "_put", down)
    report = toys.run()
    assert (report["status"], report["files"], report["files_made"]) == ("done", 6, 6)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_its_threads_yield(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's threads go first: the dispatcher's are nicer, those of the end of the run are not."""
    found: dict[str, set[int]] = {}
    put = Press._put

    def note(self: Press, *arguments: Any) -> None:
        name = threading.current_thread().name.split("_")[0]
        found.setdefault(name, set()).add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        put(self, *arguments)

    monkeypatch.setattr(Press, "_put", note)
    toys.run()
    assert found == {"dispatch": {min(os.getpriority(os.PRIO_PROCESS, 0) + dispatch.NICE, 19)}}


def test_a_failed_file_keeps_its_asset_back(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asset whose file cannot be stored stays out of the version, is reported, and comes the next time."""
    put = Press._put

    def broken(self: Press, key: str, *arguments: Any) -> None:
        if "/002-" in key:
            raise ValueError("no room for an apple")
        put(self, key, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Press, "_put", broken)
        report = toys.run()
    assert (report["exit_code"], report["published"]) == (1, 5)
    assert report["troubled"] == {"002": "not published: no room for an apple"}
    assert "002" not in {asset for asset, _ in toys.published()}
    report = toys.run()
    assert (report["exit_code"], report["published"], report["pictures"]) == (0, 1, 0)
