"""Every error becomes an exit code and a message with its way out."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import typer

from assetmill.engines.protocols import EngineError
from assetmill.operate.exits import print_json, run_command
from assetmill.operate.lock import AlreadyRunning
from assetmill.operate.produce import BreakerTripped
from assetmill.records import InputError, Problem
from assetmill.storage.catalog import CatalogHeld
from assetmill.storage.store import CorruptObject, StoreRefused, StoreUnavailable

CODES: list[tuple[BaseException, int]] = [
    (typer.Exit(4), 4),
    (BreakerTripped("too many are black"), 1),
    (BrokenPipeError(), 1),
    (InputError(Problem("no id", "add one", "s.csv", row=3)), 2),
    (CatalogHeld("toys", {"created": "today", "to": 1}), 2),
    (AlreadyRunning("toys", {"pid": 7}, 3.0, 45.0), 3),
    (StoreUnavailable("the disk is full; make room"), 5),
    (StoreRefused("no hard links; use a local disk"), 5),
    (CorruptObject("blobs/x", "truncated"), 5),
    (EngineError("no such weights; pull them"), 5),
    (typer.BadParameter("what?"), 2),
    (RuntimeError("never thought of that"), 70),
    (KeyboardInterrupt(), 130),
    (typer.Abort(), 130),
]


def fail_with(error: BaseException) -> Any:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda v: type(v).__name__ if not isinstance(v, int) else str(v))
def test_codes(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of error has its exit code; its message is on stderr, nothing is on stdout."""
    assert run_command(fail_with(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert str(error) in (caplog.text if code == 70 else err) or code in (4, 1, 130)


def test_results() -> None:
    """A command that returns a number exits with it, any other one with 0."""
    assert run_command(lambda: 4) == 4
    assert run_command(lambda: None) == 0
    assert run_command(lambda: "text") == 0


def test_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked for JSON gets every problem in one object, and people their lines all the same."""
    monkeypatch.setattr(sys, "argv", ["assetmill", "run", "c.yaml", "--json"])
    problems = [Problem("no id", "add one", "s.csv", row=3), Problem("no such column", column="x")]
    assert run_command(fail_with(InputError(problems))) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "InputError", "exit_code": 2, "problems": [str(p) for p in problems]}
    assert "s.csv, row 3: no id; add one" in err


def test_print_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON keeps texts readable and ends with a newline."""
    print_json({"id": "Größe"})
    assert capsys.readouterr().out == '{\n "id": "Größe"\n}\n'
