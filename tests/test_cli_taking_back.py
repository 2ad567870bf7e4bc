"""The commands that find, take back and give back: their options, output and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assetmill import cli
from productions import Production, rows
from storage_samples import damage

Say = Callable[..., tuple[int, Any]]


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    toys = Production(tmp_path / "p", rows(2), {"candidates": 2, "publish": {"columns": ["colour"]}})
    toys.run()
    return toys


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, toys: Production) -> Say:
    """Runs `assetmill catalog COMMAND CONFIG … --json` in this process; gives its exit code and its object."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(command: str, *arguments: object, as_json: bool = True) -> tuple[int, Any]:
        texts = ["catalog", command, str(toys.path), *map(str, arguments), *(["--json"] if as_json else [])]
        monkeypatch.setattr(sys, "argv", ["assetmill", *texts])
        capfd.readouterr()
        code = cli.run_command(lambda: cli.app(texts, standalone_mode=False))
        out, err = capfd.readouterr()
        return code, json.loads(out) if as_json else err

    return run


def test_there_and_back(toys: Production, say: Say) -> None:
    """Recall, look at the bans, lift, roll back and release, each with who and why on record."""
    code, found = say("recall", "--asset", "001", "--reason", "a letter", "--dry-run")
    assert (code, found["ban"], len(found["takedown"])) == (0, None, 1)
    code, found = say("recall", "--asset", "001", "--reason", "a letter", "--by", "ann")
    assert (code, found["assets"], found["version"]) == (0, ["001"], 2)
    code, listed = say("bans")
    assert [(b["value"], b["reason"], b["by"], b["lifted"]) for b in listed["bans"]] == [
        ("001", "a letter", "ann", None)
    ]
    code, lifted = say("lift", listed["bans"][0]["id"], "--by", "bob")
    assert (code, lifted) == (0, {found["ban"]["id"]: "asset 001"})
    assert say("bans")[1] == {"bans": []}
    assert say("bans", "--all")[1]["bans"][0]["lifted"]["by"] == "bob"
    assert say("rollback", 1, "--reason", "wrong colours", "--by", "ann")[0] == 0
    held = toys.catalog.held()
    assert held is not None
    assert (held["reason"], held["by"]) == ("wrong colours", "ann")
    code, released = say("release", "--reason", "fine after all")
    assert (code, released["was_held"]["reason"]) == (0, "wrong colours")
    assert toys.catalog.held() is None


def test_tables_for_people(say: Say) -> None:
    """Without --json the same is shown as tables."""
    assert "published/master/001-" in say("query", "--asset", "001", as_json=False)[1]
    code, text = say("recall", "--model", "simulated", as_json=False)
    assert code == 0
    assert "to take down" in text
    assert text.count("published/master/") == 2
    assert "simulated" in say("bans", as_json=False)[1]


def test_query(say: Say) -> None:
    """Values of one key are alternatives, different keys must all hold."""
    assert say("query")[1]["variants"] == 2
    assert say("query", "--asset", "000", "--asset", "001", "--licence", "apache*")[1]["variants"] == 2
    assert say("query", "--asset", "000", "--where", "colour=red1")[1]["variants"] == 0
    ((found,)) = say("query", "--where", "colour=*1")[1]["found"]
    assert (found["asset_id"], found["live"]) == ("001", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recall",), "0 keys are given; give one of --model, --adapter"),
        (("recall", "--asset", "1", "--model", "x"), "2 keys are given"),
        (("recall", "--model", "*"), "needs a value"),
        (("lift", "ZZZ"), "no ban that holds now"),
        (("query", "--where", "colour"), "--where needs a column and a value"),
        (("query", "--where", "price=1"), "no entry has a column 'price'"),
        (("rollback", 9), "has no version 9"),
    ],
)
def test_bad_input(say: Say, arguments: tuple[object, ...], message: str) -> None:
    """Exit code 2, with what is wrong and the way out."""
    code, said = say(*arguments)
    assert code == 2
    assert message in said["problems"][0]


def test_gc(toys: Production, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`assetmill gc` lists; with --delete it deletes; with damage it says so and exits with 1."""
    toys.change(retention={"losers": 0, "grace_hours": 0})

    def gc(*options: str) -> tuple[int, dict[str, Any]]:
        texts = ["gc", str(toys.path), *options, "--json"]
        monkeypatch.setattr(sys, "argv", ["assetmill", *texts])
        capfd.readouterr()
        code = cli.run_command(lambda: cli.app(texts, standalone_mode=False))
        return code, json.loads(capfd.readouterr().out)

    code, found = gc()
    assert (code, found["deleted"], found["objects"]) == (0, False, 2)
    assert [(s["kind"], len(s["keys"])) for s in found["sweeps"]] == [("losers", 2)]
    assert all(toys.store.stat(key) for key in found["sweeps"][0]["keys"])
    code, found = gc("--delete")
    assert (code, found["deleted"], found["objects"]) == (0, True, 2)
    assert not any(toys.store.stat(key) for key in found["sweeps"][0]["keys"])
    assert gc()[1]["objects"] == 0
    damage(toys.store.root / next(toys.store.list("records/")).key)
    assert gc()[0] == 1
