"""What would stop a night is found before it."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assetmill.operate import doctor
from assetmill.operate.doctor import Finding, examine
from certificates import issue
from productions import NAME, Production, rows


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes many seconds here; its own finding is asked for by one test only."""
    found = [Finding(True, "python", "3.11")]
    monkeypatch.setattr(doctor, "_examine_machine", lambda: iter(found))


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(1))


def findings(toys: Production) -> dict[str, Finding]:
    return {f.what: f for f in examine(toys.path)}


def test_all_well(toys: Production) -> None:
    """A sound config is said to be sound: models, store, room on the disk."""
    found = findings(toys)
    assert all(f.ok for f in found.values())
    assert found.keys() >= {"config", "model", "judge", "upscaler", "store", "disk"}
    assert "put-if-absent" in found["store"].found
    assert "GiB free" in found["disk"].found


def test_broken_config(toys: Production) -> None:
    """A config that cannot be read is one finding, with its problems, not an exception."""
    toys.change(candidates=0)
    found = findings(toys)
    assert not found["config"].ok
    assert "candidates" in found["config"].found
    assert "model" not in found


def test_missing_model(toys: Production, tmp_path: Path) -> None:
    """A model or judge that is not there is found, and the others are looked at all the same."""
    toys.change(model={"engine": "diffusers", "source": str(tmp_path / "nowhere")}, judge={"engine": "no-such"})
    found = findings(toys)
    assert [found[w].ok for w in ("model", "judge", "upscaler", "store")] == [False, False, True, True]
    assert found["model"].way_out == "check `model` in the config"


def test_credentials(toys: Production, tmp_path: Path) -> None:
    """A certificate that can sign is said to, one about to expire is found weeks before, a missing one at once."""
    assert "credentials" not in findings(toys)
    toys.change(publish={"credentials": {"certificate": str(tmp_path / "chain.pem"), "key": str(tmp_path / "key.pem")}})
    for days, ok in ((90, True), (5, False)):
        identity = issue(days=(-1, days))
        (tmp_path / "chain.pem").write_bytes(identity.chain)
        (tmp_path / "key.pem").write_bytes(identity.key_pem())
        found = findings(toys)["credentials"]
        assert (found.ok, found.found.split(" for ")[0]) == (ok, "es256, certificate valid")
    (tmp_path / "key.pem").unlink()
    assert "publish.credentials.key: No such file" in findings(toys)["credentials"].found


def test_unusable_store(toys: Production) -> None:
    """A store that cannot be opened is found with the way out."""
    toys.change(store={"url": "sheet.csv/out"})
    found = findings(toys)
    assert not found["store"].ok
    assert "credentials" in found["store"].way_out


def test_little_room(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nearly full disk is found before the night."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert not findings(toys)["disk"].ok


def test_library_changed_under_a_model(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is another one than in the last run that made pictures is told of before any device time."""
    engine = toys.job()
    from assetmill.pipeline import load_engines

    engines = load_engines(engine)
    now = {"numpy": metadata.version("numpy"), "simulated": "1"}
    monkeypatch.setattr(engines.generator, "versions", lambda: now)
    toys.run(engines=engines)
    toys.run()
    assert findings(toys)["libraries since the last run"].found == "unchanged"
    versions: dict[str, Any] = {"numpy": "0.1"}
    monkeypatch.setattr(doctor, "read_json", lambda *_: {"versions": versions})
    found = findings(toys)["libraries since the last run"]
    assert not found.ok
    assert found.found == f"numpy 0.1 → {now['numpy']}"


def test_no_run_yet(toys: Production) -> None:
    """Before the first run there is nothing to compare libraries with."""
    assert "libraries since the last run" not in findings(toys)
    assert not list(toys.store.list(f"runs/{NAME}/"))


def test_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python, every library and the device are looked at; a missing one is found with the way out."""
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)  # what `import torch` finds where it is not installed
    found = {f.what: f for f in doctor._examine_machine()}
    assert found["python"].ok
    assert found["pillow"].found == metadata.version("pillow")
    assert not found["device"].ok
    monkeypatch.setattr(doctor, "_LIBRARIES", ("no-such-library",))
    found = {f.what: f for f in doctor._examine_machine()}
    assert (found["no-such-library"].ok, found["no-such-library"].found) == (False, "not installed")


def test_finding_as_json() -> None:
    """A finding is plain values."""
    assert Finding(False, "disk", "0 GiB free", "make room").as_dict() == {
        "ok": False, "what": "disk", "found": "0 GiB free", "way_out": "make room",
    }  # fmt: skip


def test_a_held_lock_is_found(toys: Production) -> None:
    """A run that goes on would stop the night: doctor says whose it is, and afterwards that the lock is free."""
    from assetmill.operate.lock import hold_lock

    with hold_lock(toys.store, NAME):
        (held,) = [f for f in examine(toys.path) if f.what == "lock"]
    (free,) = [f for f in examine(toys.path) if f.what == "lock"]
    assert (held.ok, "pid" in held.found, free.ok, free.found) == (False, True, True, "free")
