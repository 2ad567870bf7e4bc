"""Every error becomes one exit code and one message; a bug is said to be one."""

from __future__ import annotations

import json

import pytest
import typer

from assetmill.engines.protocols import EngineError
from assetmill.operate import exits
from assetmill.operate.produce import BreakerTripped
from assetmill.records import InputError, Problem
from assetmill.storage.store import StoreRefused, StoreUnavailable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError(Problem("no such column", "add it")), exits.BAD_INPUT),
        (BreakerTripped("too many black images"), exits.SOME_FAILED),
        (StoreUnavailable("no answer"), exits.UNAVAILABLE),
        (StoreRefused("overwrites"), exits.UNAVAILABLE),
        (EngineError("no weights"), exits.UNAVAILABLE),
        (typer.BadParameter("what?"), exits.BAD_INPUT),
        (typer.Exit(4), exits.BUDGET_REACHED),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), exits.SOME_FAILED),
        (ZeroDivisionError("oops"), exits.BUG),
    ],
    ids=lambda v: type(v).__name__,
)
def test_errors_have_their_code(error: BaseException, code: int) -> None:
    """The table of exit codes holds for every kind of error."""

    def fail() -> None:
        raise error

    assert exits.run_command(fail) == code


def test_messages_reach_people_and_machines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out stands on stderr; with --json the same problems are one object on stdout."""

    def fail() -> None:
        raise InputError([Problem("no such column", "add it", "a.csv", row=3), Problem("empty id", "fill it in")])

    monkeypatch.setattr("sys.argv", ["assetmill", "run", "c.yaml", "--json"])
    assert exits.run_command(fail) == exits.BAD_INPUT
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["exit_code"] == 2
    assert found["problems"] == ["a.csv, row 3: no such column; add it", "empty id; fill it in"]
    assert "add it" in err


def test_a_command_s_number_is_its_code() -> None:
    """Commands that give a number exit with it, all others with 0."""
    assert exits.run_command(lambda: 3) == 3
    assert exits.run_command(lambda: None) == 0
