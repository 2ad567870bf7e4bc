"""On a real Prefect server: deployments and their worker, how flows end, and a server that dies before its flow.

One server for the whole file; whoever finds it dead starts it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import read_config
from assetmill.operate.runs import list_runs
from productions import NAME, Production, rows
from test_operate_notify import Webhook

ROOT = Path(__file__).parent.parent
SHIPPED = ("game-assets", "product-shots")

pytestmark = pytest.mark.timeout(600)  # minutes on a machine that has other work

sys.path.append(str(ROOT / "flows"))
from server import LocalServer  # noqa: E402


class Prefect:
    """A server, the environment of its clients, and what it knows."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.environment = {**os.environ, "PREFECT_API_URL": server.url, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    def ask(self, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.server.url}/{path}", data, headers)) as answer:
            return json.loads(answer.read() or "null")

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.ask("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {a["key"]: a for a in found}

    def start(self, deployment: str, **parameters: Any) -> str:
        """A flow run of a deployment, for its worker; its id."""
        asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"deployments/{deployment}/create_flow_run", **asked)["id"])

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env={**self.environment, **more}, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server with a home of its own, so that no test meets a person's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        with LocalServer() as server:
            server.wait()
            yield Prefect(server)


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    yield found
    found.server.shutdown()
    found.server.server_close()


# --- deployments --------------------------------------------------------------------------------------------------


def test_a_deployment_is_made_and_a_worker_runs_it(prefect: Prefect, webhook: Webhook, tmp_path: Path) -> None:
    """`prefect deploy --all` makes both deployments as their configs say; a process worker publishes a catalog.

    A flow whose process is killed is told by its worker.
    """
    prefect.ask("work_pools/", name="nights", type="process")
    deployed = prefect.run("-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "flows/prefect.yaml")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    deployments = {d["name"]: d for d in prefect.ask("deployments/filter")}
    assert sorted(deployments) == sorted(SHIPPED)
    for name, found in deployments.items():
        config = read_config(ROOT / found["parameters"]["config"])
        (schedule,) = found["schedules"]
        assert (config.name, found["work_pool_name"]) == (name, "nights")
        assert schedule["schedule"]["cron"] == config.schedule.cron
        assert schedule["schedule"]["timezone"] == config.schedule.timezone
        assert found["global_concurrency_limit"]["limit"] == 1
        fields = found["parameter_openapi_schema"]["properties"]
        assert all(field.get("description") for field in fields.values()), fields

    toys = Production(tmp_path / "toys", rows(6), {"run": {"chunk": 8}})
    made = prefect.start(deployments["game-assets"]["id"], config=str(toys.path), date="due")
    killer = Production(tmp_path / "killer", settings={"name": "killer", "model": {"options": {"crash": "red2"}}})
    killed = prefect.start(deployments["product-shots"]["id"], config=str(killer.path))
    worker = ("-m", "prefect", "worker", "start", "--pool", "nights", "--type", "process", "--run-once")
    done = prefect.run(*worker, ASSETMILL_NOTIFY_URL=webhook.url)
    run = prefect.ask("flow_runs/filter", flow_runs={"id": {"any_": [made]}})[0]
    assert run["state_type"] == "COMPLETED", done.stdout + done.stderr
    assert run["name"].startswith(f"{NAME} ")
    assert toys.states() == {"unchanged": 6}
    toys.check_whole()
    (report,) = [r.report for r in list_runs(toys.store, NAME)]
    assert report["night"]
    artifacts = prefect.artifacts(run["id"])
    assert {"progress", "run", "counts", "contact-sheet"} <= set(artifacts)
    assert artifacts["progress"]["data"] == 100
    assert artifacts["contact-sheet"]["data"].startswith("data:image/webp;base64,")
    assert "latest.json" in artifacts["run"]["data"]
    told = sorted(post["text"].splitlines()[0] for post in webhook.posts)
    assert told == [f"✅ *{NAME}*, night of {report['night']}: done", "❌ *killer*: no report"]
    assert prefect.ask("flow_runs/filter", flow_runs={"id": {"any_": [killed]}})[0]["state_type"] == "CRASHED"
    webhook.posts.clear()


# --- how flows end ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ends(prefect: Prefect, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of the scenarios of flow_scenarios.py, and what the webhook was told of them."""
    folder = tmp_path_factory.mktemp("scenarios")
    done = prefect.run("tests/flow_scenarios.py", str(folder), ASSETMILL_NOTIFY_URL=webhook.url)
    assert done.returncode == 0, done.stderr[-4000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "told": [post["text"] for post in webhook.posts]}


def test_a_partly_failed_flow_is_not_completed(ends: dict[str, Any]) -> None:
    """One asset that cannot be made: the others are published, the flow failed in part, the webhook says so."""
    found = ends["some_items_fail"]
    assert (found["type"], found["name"], found["published"]) == ("FAILED", "PartlyFailed", 3)
    assert found["report"]["exit_code"] == 1
    assert any("done, some items failed" in text and "1 troubled" in text for text in ends["told"])


def test_what_a_budget_leaves_is_said(ends: dict[str, Any], prefect: Prefect) -> None:
    """The first ones by priority are published; report, state and picture in the UI say how much is left."""
    found = ends["a_budget_is_reached"]
    assert (found["type"], found["name"]) == ("COMPLETED", "BudgetReached")
    assert found["message"] == "budget reached: 8 images; left: 4 assets, 16 images to make"
    assert (found["report"]["exit_code"], found["report"]["left"], found["report"]["images_left"]) == (4, 4, 16)
    assert found["made"] == ["002", "005"]
    assert "left for the next run: 4 assets, 16 images to make" in prefect.artifacts(found["run"])["run"]["data"]


def test_a_slot_is_held_and_given_back(ends: dict[str, Any]) -> None:
    """The device's limit is made with one slot, which is free again; who waits for one can be told to stop."""
    assert (ends["a_budget_is_reached"]["slots"], ends["a_budget_is_reached"]["taken"]) == (1, 0)
    assert ends["a_person_cancels_while_it_waits_for_a_slot"] == {
        "held": True, "other": False, "given_back": True,
    }  # fmt: skip


def test_a_flow_that_ends_without_a_report_is_told(ends: dict[str, Any]) -> None:
    """A missing sheet: the flow failed, and the webhook knows why."""
    assert (ends["the_sheet_is_missing"]["type"], ends["the_sheet_is_missing"]["report"]) == ("FAILED", None)
    assert any("no report\nInputError" in text and "the sheet does not exist" in text for text in ends["told"])


def test_a_night_is_made_once(ends: dict[str, Any]) -> None:
    """The second start of a date does nothing and says so, `again` works; a start beside another is no run."""
    first, second, again = ends["a_night_is_started_twice"]
    assert (first["name"], second["name"], again["name"]) == ("Completed", "NightDone", "Completed")
    assert second["report"] is None
    assert f"run {first['report']['run']}" in second["message"]
    other = ends["another_run_works"]
    assert (other["type"], other["name"], other["report"]) == ("FAILED", "AlreadyRunning", None)
    assert "01OTHER" in other["message"]


def test_nights_missed_while_nothing_served_are_made_up_for(ends: dict[str, Any]) -> None:
    """`nightly.py` starts one run for three missed nights, and none when they are made up for."""
    found = ends["three_nights_are_missed"]
    assert (found["late"], found["state"], found["later"]) == ([NAME], "Scheduled", [])
    assert (found["name"], len(found["report"]["missed"])) == ("Completed", 2)


def test_chunks_are_tried_again_and_have_their_time(ends: dict[str, Any]) -> None:
    """A store that did not answer once costs a second try; what takes too long waits, and the others are made."""
    found = ends["a_store_does_not_answer_once"]
    assert (found["name"], found["failed"], found["report"]["pictures"]) == ("Completed", 1, 24)
    late = ends["a_chunk_takes_too_long"]
    assert (late["type"], late["name"], late["published"]) == ("FAILED", "ChunksFailed", 1)
    assert late["report"]["left"] == 4


def test_sigterm_drains_a_flow(ends: dict[str, Any]) -> None:
    """A machine that shuts down: what is whole is published, the flow is cancelled, and the next one makes the rest."""
    found = ends["the_machine_is_shut_down"]
    assert (found["type"], found["name"], found["report"]["exit_code"]) == ("CANCELLED", "Stopped", 1)
    assert found["message"].startswith("stopped by SIGTERM; left: ")
    assert found["published"] + found["report"]["left"] == 40
    assert found["report"]["left"] > 0
    assert (found["next"]["name"], found["next"]["published"], found["pictures"]) == ("Completed", 40, 160)


# --- a dead server ------------------------------------------------------------------------------------------------


def wait_for(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_server_that_dies_costs_no_work(prefect: Prefect, tmp_path: Path) -> None:
    """Killed mid-run, with a slot held and two chunks under way: the work goes on to its end, and the process too."""
    settings = {"model": {"options": {"seconds": 0.05}}, "run": {"chunk": 16, "device_limit": "gpu"}}
    toys = Production(tmp_path, rows(16), settings)
    flow = subprocess.Popen(
        [sys.executable, str(ROOT / "flows" / "produce.py"), str(toys.path)],
        env={**prefect.environment, "PREFECT_CLIENT_MAX_RETRIES": "1"},  # the test need not wait for three
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: list((tmp_path / "out").glob("records/*/*/*")), flow)
        process = prefect.server._process
        assert process is not None
        process.kill()
        process.wait()
        died = time.monotonic()
        _, said = flow.communicate(timeout=120)
    finally:
        flow.kill()
    assert flow.returncode == 0, said[-4000:]
    print(f"ended {time.monotonic() - died:.1f} s after its server")
    assert toys.states() == {"unchanged": 16}
    toys.check_whole()
    assert len(toys.candidates()) == 64
