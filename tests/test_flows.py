"""The flow does what `assetmill run` does, on a real Prefect server; the nightly server fires its schedule."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import StoreConfig
from assetmill.operate.lock import hold_lock
from assetmill.operate.runs import list_runs
from assetmill.storage.catalog import open_catalog
from assetmill.storage.store import Store, open_store

ROOT = Path(__file__).parent.parent
SHEET = "id,thing\n" + "".join(f"{n:03d},thing number {n}\n" for n in range(12))
CONFIG = """
name: night
candidates: 4
sheet: {path: sheet.csv, id: id}
prompts: {templates: [thing.j2]}
model: {engine: simulated}
judge: {engine: simulated}
upscale: {engine: lanczos, scale: 2}
run: {chunk: 16}
store: {url: store}
schedule: {cron: "* * * * *", timezone: Europe/Berlin}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "sheet.csv").write_text(SHEET)
    (tmp_path / "thing.j2").write_text("a picture of {{ thing }}\n")
    path = tmp_path / "night.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def store(config: Path) -> Store:
    return open_store(StoreConfig(), str(config.parent / "store"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A Prefect home of our own, so that no test meets a person's server."""
    home = tmp_path_factory.mktemp("prefect")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are stopped when the test ends, however it ends."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def produce(config: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "flows" / "produce.py"), str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)


def report_of(store: Store) -> dict[str, Any]:
    return dict(list(list_runs(store, "night"))[-1].report)


def test_the_flow_makes_and_publishes_the_whole_sheet(config: Path, store: Store, environment: dict[str, str]) -> None:
    """Twelve assets in three chunks come out published, with a server that the flow started and stopped itself."""
    done = produce(config, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    report = report_of(store)
    assert (report["status"], report["pictures"], report["published"], report["chunks"]) == ("done", 48, 12, 3)
    assert open_catalog(store, "night").verify().passed
    assert "contact sheet" in done.stderr


def test_a_second_start_of_the_flow_exits_3_before_prefect_starts(
    config: Path, store: Store, environment: dict[str, str]
) -> None:
    """While someone holds the lock the flow exits 3, names the owner, and leaves no flow run behind."""
    with hold_lock(store, "night", owner={"command": "the other night"}):
        done = produce(config, environment)
    assert done.returncode == 3
    assert "the other night" in done.stderr
    assert "Beginning flow run" not in done.stderr + done.stdout
    assert not list(list_runs(store, "night"))


def test_bad_input_exits_2_with_its_place(config: Path, environment: dict[str, str]) -> None:
    """A missing column is named with file and line, before any server or model."""
    (config.parent / "thing.j2").write_text("a picture of {{ thign }}\n")
    done = produce(config, environment)
    assert done.returncode == 2
    assert "thign" in done.stderr
    assert "thing" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_nightly_server_fires_its_schedule(
    config: Path, store: Store, environment: dict[str, str], processes: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """`flows/nightly.py` starts a real server, and the config's cron makes a run within two minutes or so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "nightly.log").open("wb")
    command = [sys.executable, str(ROOT / "flows" / "nightly.py"), str(config), "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    processes.append(process)
    end = time.monotonic() + 330
    while time.monotonic() < end and not list((tmp_path / "store").glob("runs/night/*/report.json")):
        assert process.poll() is None, (tmp_path / "nightly.log").read_text()[-3000:]
        time.sleep(1)
    log.close()
    (first, *_) = [json.loads(p.read_text()) for p in sorted((tmp_path / "store").glob("runs/night/*/report.json"))]
    assert first["status"] == "done"
    assert open_catalog(store, "night").latest() == 1


def test_nightly_refuses_a_server_that_does_not_answer(config: Path, environment: dict[str, str]) -> None:
    """A given server that is not there is an error with a way out, not a night that never comes."""
    command = [sys.executable, str(ROOT / "flows" / "nightly.py"), str(config), "--server", "http://127.0.0.1:9/api"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 5
    assert "no Prefect server answers" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel to end the child with its parent")
def test_a_killed_run_leaves_no_server_behind(
    environment: dict[str, str], processes: list[subprocess.Popen[bytes]]
) -> None:
    """The server ends with the process that started it, even one that died by SIGKILL."""
    code = (
        "import time; from server import LocalServer; s = LocalServer().__enter__();"
        "print(s._process.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT / "flows",
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    processes.append(owner)
    assert owner.stdout is not None
    server = int(owner.stdout.readline())
    time.sleep(3)  # until the child has asked the kernel
    assert Path(f"/proc/{server}").exists()
    owner.kill()
    owner.stdout.close()
    end = time.monotonic() + 30
    while time.monotonic() < end and _alive(server):
        time.sleep(0.2)
    assert not _alive(server)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
