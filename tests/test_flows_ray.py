"""The flow on a Ray cluster: a node that dies costs what was in its hands; what a cluster needs is said before."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import Config
from assetmill.operate.clusters import check_reach, count_workers, machines_of
from assetmill.operate.runs import list_runs
from assetmill.records import InputError
from productions import NAME, Production, rows

ROOT = Path(__file__).parent.parent
PRODUCE = ROOT / "flows" / "produce.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A Prefect home of our own, and no server or cluster that a person has."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_"))}
    return {**kept, "PREFECT_HOME": str(tmp_path / "prefect"), "DO_NOT_TRACK": "1"}


@contextmanager
def cluster(environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "ray_cluster.py")], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("{"):
                yield process, json.loads(line)
                break
        else:
            pytest.fail("the cluster did not start")
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's test cluster")
def test_a_killed_node_loses_and_doubles_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    """Two nodes work, one is killed: the other makes the rest, no picture is on record twice, the catalog is whole."""
    run = {"chunk": 8, "execution": "ray"}
    toys = Production(tmp_path, rows(40), {"run": run, "model": {"options": {"seconds": 0.05}}})
    with cluster(environment) as (nodes, at), (tmp_path / "log").open("w+") as log:
        command = [sys.executable, str(PRODUCE), str(toys.path)]
        where = {**environment, "PREFECT_API_URL": at["api"], "RAY_ADDRESS": at["ray"]}
        flow = subprocess.Popen(command, env=where, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 200
            while time.monotonic() < end and flow.poll() is None and len(list(toys.store.list(f"records/{NAME}/"))) < 4:
                time.sleep(0.1)
            assert flow.poll() is None, (tmp_path / "log").read_text()[-5000:]
            assert nodes.stdin is not None
            nodes.stdin.write("kill\n")
            nodes.stdin.flush()
            code = flow.wait(150)
        finally:
            flow.kill()
            flow.wait()
    text = (tmp_path / "log").read_text()
    (only,) = list_runs(toys.store, NAME)
    report = only.report
    assert code == 0, text[-5000:]
    assert (report["status"], report["pictures"], report["published"]) == ("done", 160, 40)
    assert report["chunks"] == 20
    assert len(report["workers"]) == 2, "both nodes made chunks"
    again = set(re.findall(r"chunk (\d+): the worker process on Ray worker", text))
    assert 1 <= len(again) <= 2, "only what was in its hands is made again"
    toys.check_whole()
    assert len(toys.published()) == 40
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))


def test_without_a_server_nothing_is_started(tmp_path: Path, environment: dict[str, str]) -> None:
    """On Ray a missing PREFECT_API_URL would start one server per worker: exit code 2, with the way out."""
    toys = Production(tmp_path, rows(2), {"run": {"execution": "ray"}})
    command = [sys.executable, str(PRODUCE), str(toys.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "PREFECT_API_URL is not set" in done.stderr
    assert not list(toys.store.list("runs/"))


# --- what a cluster must have ---------------------------------------------------------------------------------


def config_of(store: Mapping[str, Any], **ray: Any) -> Config:
    return Config.model_validate(
        {"name": "x", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}, "store": store,
         "run": {"execution": "ray", "ray": ray}}
    )  # fmt: skip


def test_several_machines_need_one_store_and_one_server() -> None:
    """A folder that is not declared shared, and a server on loopback, are refused, both at once; a bucket is not."""
    check_reach(config_of({"url": "out"}), "http://127.0.0.1:4200/api", ["10.0.0.1"])
    with pytest.raises(InputError) as found:
        check_reach(config_of({"url": "out"}), "http://127.0.0.1:4200/api", ["10.0.0.1", "10.0.0.2"])
    assert len(found.value.problems) == 2
    assert "shared_folder" in str(found.value)
    check_reach(config_of({"url": "out"}, shared_folder=True), "http://10.0.0.1:4200/api", ["10.0.0.1", "10.0.0.2"])
    check_reach(config_of({"url": "s3://bucket/x"}), "http://10.0.0.1:4200/api", ["10.0.0.1", "10.0.0.2"])


def test_room_is_counted_node_by_node() -> None:
    """A worker is on one node: two nodes with half a GPU each have no room for one that needs a whole."""
    nodes = [
        {"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 16.0, "GPU": 4.0}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 3.0, "GPU": 8.0}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.3", "Resources": {"CPU": 8.0}},
        {"Alive": False, "NodeManagerAddress": "10.0.0.4", "Resources": {"CPU": 8.0, "GPU": 8.0}},
    ]
    assert machines_of(nodes) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert count_workers(nodes, 1, 1) == 4 + 3
    assert count_workers(nodes, 0.5, 1) == 8 + 3
    assert count_workers(nodes, 0, 2) == 8 + 1 + 4
    assert count_workers(nodes, 1, 32) == 0
