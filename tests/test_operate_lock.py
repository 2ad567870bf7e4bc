"""The lock: one run at a time, and no run blocked by a dead one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import StoreConfig
from assetmill.operate.lock import AlreadyRunning, describe_process, hold_lock, is_dead, lock_holder
from assetmill.storage.store import Store, StoreUnavailable, open_store
from fixtures_s3 import make_bucket

KEY = "locks/rpg.json"
KINDS = ["folder", "moto", pytest.param("ceph", marks=pytest.mark.s3)]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    kind = getattr(request, "param", "folder")
    if kind == "folder":
        config = StoreConfig(url=str(tmp_path / "store"))
    else:
        config = make_bucket(request.getfixturevalue(f"{kind}_endpoint"))
    return open_store(config, config.url)


HOLDER = """
import sys, time
from pathlib import Path
from assetmill.operate.lock import AlreadyRunning, hold_lock
from assetmill.storage.folder import FolderStore
store = FolderStore({root!r})
store.prepare()
print("up", flush=True)
sys.stdin.readline()
try:
    with hold_lock(store, "rpg", owner={{"run": "night-1"}}):
        print("works", flush=True)
        sys.stdin.readline()
except AlreadyRunning as error:
    print(error, flush=True)
"""


def start_holder(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(root=str(root))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def foreign(**changes: Any) -> dict[str, Any]:
    """A lock held on another machine."""
    owner = {**describe_process(), "host": "render-7", "boot": "another boot", "run": "night-0", "user": "ann"}
    return {"token": "theirs", "ttl": 45.0, "released": False, "owner": owner, **changes}


def write(store: Store, document: Any) -> None:
    store.replace(KEY, document if isinstance(document, bytes) else json.dumps(document).encode())


def read(store: Store) -> dict[str, Any]:
    return json.loads(store.get(KEY))


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_one_at_a_time(store: Store) -> None:
    """While one holds the lock another is told who; after its end the next one gets it."""
    with hold_lock(store, "rpg", owner={"run": "night-1"}) as lock:
        assert lock.took_over is None
        with pytest.raises(AlreadyRunning, match=r"rpg is already running \(run night-1.*pid \d+") as raised:
            with hold_lock(store, "rpg"):
                pytest.fail("two at once")
        assert raised.value.owner["run"] == "night-1"
        with hold_lock(store, "shop"):
            pass
    with hold_lock(store, "rpg") as lock:
        assert lock.took_over is None
    assert {info.key for info in store.list("")} == {KEY, "locks/shop.json"}


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_of_many_racing_starts_one_works(store: Store) -> None:
    """Six threads that start at the same moment, on a new lock, a released one and an expired one: one gets it."""
    for state in ("new", "released", "expired"):
        if state == "expired":
            write(store, foreign(ttl=0.001))
            time.sleep(0.01 if store.local_path("x") else 1.1)
        barrier, done = threading.Barrier(6), threading.Event()
        told: list[str] = []

        def start(barrier: threading.Barrier = barrier, done: threading.Event = done, told: list[str] = told) -> None:
            barrier.wait()
            try:
                with hold_lock(store, "rpg"):
                    told.append("works")
                    done.wait(20)
            except AlreadyRunning:
                told.append("told")
            if len(told) == 6:
                done.set()

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(told) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join(20)
        assert sorted(told) == ["told"] * 5 + ["works"], state


def test_of_two_racing_processes_one_works(tmp_path: Path) -> None:
    """Two processes started together: one works, the other says already running and by whom."""
    processes = [start_holder(tmp_path / "store") for _ in range(2)]
    try:
        for process in processes:
            assert hear(process) == "up"
        for process in processes:
            say(process)
        told = sorted((hear(p) for p in processes), key=len)
        assert told[0] == "works"
        assert "already running (run night-1" in told[1]
        for process in processes:
            if process.poll() is None:
                say(process)
            process.wait(20)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    """kill -9 on this machine: the next start works at once and learns whose run ended without an end."""
    root = tmp_path / "store"
    config = StoreConfig(url=str(root))
    store = open_store(config, config.url)
    process = start_holder(root)
    try:
        hear(process)
        say(process)
        assert hear(process) == "works"
        with pytest.raises(AlreadyRunning):
            with hold_lock(store, "rpg"):
                pytest.fail("two at once")
        process.send_signal(signal.SIGKILL)
        time.sleep(0.1)  # dead, and not yet waited for: a zombie is dead too
        start = time.monotonic()
        with hold_lock(store, "rpg") as lock:
            assert time.monotonic() - start < 1
            assert lock.took_over is not None
            assert (lock.took_over["pid"], lock.took_over["run"]) == (process.pid, "night-1")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_a_foreign_holder_is_respected_until_it_expires(store: Store) -> None:
    """A lock of another machine holds for its time to live after its last sign of life, and no longer."""
    write(store, foreign(ttl=45.0))
    with pytest.raises(AlreadyRunning, match=r"user ann, host render-7.*taken over 45 s"):
        with hold_lock(store, "rpg"):
            pytest.fail("it may still live")
    write(store, foreign(ttl=1.0))
    time.sleep(2.1)  # buckets tell whole seconds
    with hold_lock(store, "rpg") as lock:
        assert lock.took_over is not None
        assert lock.took_over["host"] == "render-7"
    assert {info.key for info in store.list("")} == {KEY}


def test_a_disagreeing_clock_decides_nothing(store: Store) -> None:
    """Ages come from the store's clock: what a holder's clock says is never read."""
    document = foreign()
    document["owner"]["started"] = "1999-01-01T00:00:00+00:00"
    write(store, document)
    with pytest.raises(AlreadyRunning):
        with hold_lock(store, "rpg"):
            pytest.fail("it may still live")


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_renewal_keeps_the_lock(store: Store) -> None:
    """A holder that works longer than the time to live keeps its lock."""
    with hold_lock(store, "rpg", ttl=2.0) as lock:
        first = read(store)["beat"]
        time.sleep(3.2)
        assert read(store)["beat"] > first + 1
        document = read(store)
        document["owner"]["boot"] = "another boot"  # so that only its age counts
        with pytest.raises(AlreadyRunning):
            with hold_lock(store, "rpg"):
                pytest.fail("two at once")
        assert not lock.lost.is_set()


def test_a_lock_that_was_taken_over_is_lost(store: Store) -> None:
    """A holder that slept too long learns that it lost the lock, and leaves the new one's alone."""
    with hold_lock(store, "rpg", ttl=0.3) as lock:
        write(store, foreign())
        assert lock.lost.wait(5)
    assert read(store)["token"] == "theirs"
    assert read(store)["released"] is False


def test_a_lock_removed_by_hand_is_lost(store: Store) -> None:
    """Who removes the lock's file ends the claim; its holder is told and writes no new one."""
    with hold_lock(store, "rpg", ttl=0.3) as lock:
        store.delete(KEY)
        assert lock.lost.wait(5)
    assert store.stat(KEY) is None


def test_the_end_releases_only_our_own(store: Store) -> None:
    """Release after a takeover that no renewal noticed yet changes nothing."""
    with hold_lock(store, "rpg"):
        write(store, foreign())
    assert read(store)["token"] == "theirs"


def test_an_error_inside_releases_the_lock(store: Store) -> None:
    """Whatever ends the block, also an interrupt, frees the lock."""
    with pytest.raises(KeyboardInterrupt):
        with hold_lock(store, "rpg"):
            raise KeyboardInterrupt
    assert read(store)["released"] is True


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"owner": null, "ttl": null}'])
def test_an_unreadable_lock_blocks_no_longer_than_a_dead_holder(store: Store, junk: bytes) -> None:
    """Corrupt is not locked for ever: it counts as held by nobody knows whom, until it expires."""
    write(store, junk)
    with pytest.raises(AlreadyRunning, match="owner is unreadable"):
        with hold_lock(store, "rpg"):
            pytest.fail("it may still live")
    path = store.local_path(KEY)
    assert path is not None
    os.utime(path, (time.time() - 50,) * 2)
    with hold_lock(store, "rpg"):
        assert read(store)["owner"]["pid"] == os.getpid()


def test_people_see_who_holds_the_lock(store: Store) -> None:
    """The holder while it lives; nobody before, after, when it is dead, long silent, or unreadable."""
    assert lock_holder(store, "rpg") is None
    with hold_lock(store, "rpg", owner={"run": "night-1"}):
        holder = lock_holder(store, "rpg")
        assert holder is not None
        assert (holder["run"], holder["pid"]) == ("night-1", os.getpid())
    assert lock_holder(store, "rpg") is None
    write(store, foreign())
    assert (lock_holder(store, "rpg") or {})["host"] == "render-7"
    path = store.local_path(KEY)
    assert path is not None
    os.utime(path, (time.time() - 50,) * 2)
    assert lock_holder(store, "rpg") is None
    for junk in (b"", b"[]", b'{"owner": null}', json.dumps(foreign(owner=None)).encode()):
        write(store, junk)
        assert lock_holder(store, "rpg") is None


class FlakyStore:
    """A folder store that does not answer while `down`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.down = False

    def __getattr__(self, name: str) -> Any:
        if self.down and name in ("swap", "stat", "get"):
            raise StoreUnavailable("down for a test")
        return getattr(self._store, name)


def test_a_store_that_is_down_for_a_while_loses_no_lock(store: Store) -> None:
    """Renewal goes on when the store answers again; an end while it is down raises nothing."""
    flaky = FlakyStore(store)
    with hold_lock(flaky, "rpg", ttl=0.3) as lock:  # type: ignore[arg-type]
        flaky.down = True
        time.sleep(0.4)
        flaky.down = False
        beat = read(store)["beat"]
        time.sleep(0.4)
        assert read(store)["beat"] > beat
        assert not lock.lost.is_set()
        flaky.down = True
    assert read(store)["released"] is False


def test_death_is_known_only_of_this_machines_processes() -> None:
    """Another host, boot or container's process is never declared dead; a reused process id is."""
    here = describe_process()
    assert not is_dead(here)
    assert is_dead({**here, "pid": 2**22 + 1})
    assert is_dead({**here, "pid_start": "1"})
    for other in ({"host": "x"}, {"boot": "x"}, {"pid_space": "pid:[1]"}, {"pid": None}, {"boot": ""}):
        assert not is_dead({**here, "pid_start": "1", **other})
    assert not is_dead({})
