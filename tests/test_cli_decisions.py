"""Deciding from the command line: what is listed can be decided on, what is decided can be exported and taken back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assetmill.cli import app
from assetmill.records import InputError
from productions import Production, rows


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    made = Production(tmp_path / "toys", rows(2), {"model": {"steps": 2}})
    made.run()
    return made


def call(made: Production, *words: str, name: str = "ada") -> dict[str, Any]:
    """Runs a command, the config put in behind the command's words; gives its JSON."""
    at = 2 if words[0] == "decisions" else 1
    line = [*words[:at], str(made.path), *words[at:], "--json"]
    found = CliRunner().invoke(app, line, env={"ASSETMILL_REVIEWER": name}, catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return dict(json.loads(found.stdout))


def test_what_is_shown_can_be_decided_on(toys: Production) -> None:
    shown = call(toys, "decisions", "show", "000")
    assert (shown["status"], len(shown["pictures"]), shown["pictures"][0]["standing"]) == ("open", 4, "chosen")
    second = shown["pictures"][1]["blob"]
    made = call(toys, "approve", "000", "--picture", "2")
    assert (made["blob"], made["by"], made["shown"]["ranking"][1][0]) == (second, "ada", second)
    shown = call(toys, "decisions", "show", "000")
    assert (shown["status"], shown["pictures"][1]["standing"], shown["number"]) == ("approved", "approved", 1)
    call(toys, "reject", "001", "--picture", call(toys, "decisions", "show", "001")["pictures"][0]["blob"][:12])
    toys.run()
    assert toys.catalog.show("000")[0].blob == second
    assert toys.states() == {"unchanged": 2}


def test_decisions_are_taken_back(toys: Production) -> None:
    call(toys, "approve", "000")
    call(toys, "decisions", "undo", "000", "1")
    assert call(toys, "decisions", "show", "000")["status"] == "open"
    call(toys, "approve", "000", name="bob")
    call(toys, "decisions", "reopen", "000")
    shown = call(toys, "decisions", "show", "000")
    assert [(d["kind"], d["by"], d["undone"]) for d in shown["decisions"]] == [
        ("approve", "ada", True), ("undo", "ada", False), ("approve", "bob", False), ("reopen", "ada", False),
    ]  # fmt: skip


def test_more_is_asked_for_and_checked_before_it_is_on_record(toys: Production) -> None:
    call(toys, "decisions", "reroll", "000", "--seeds", "2", "--positive", "a jug")
    call(toys, "decisions", "vary", "001", "--seeds", "1", "--strength", "0.5")
    assert call(toys, "plan")["overrides"]["000"] == {"seeds": 2, "texts": [{"positive": "a jug"}]}
    with pytest.raises(InputError, match="strength"):
        call(toys, "decisions", "reroll", "000", "--strength", "0.5")
    assert len(call(toys, "decisions", "list")["decisions"]) == 2
    toys.run()
    assert toys.catalog.show("000")[0].positive == "a jug"


def test_a_picture_is_brought_in_and_approved(toys: Production, tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "photo.png"
    Image.effect_noise((48, 48), 90).convert("RGB").save(file)
    made = call(toys, "decisions", "adopt", "001", str(file), "--approve", "--licence", "CC0-1.0")
    assert (made["kind"], made["number"]) == ("approve", 2)
    toys.run()
    assert (toys.catalog.show("001")[0].blob, toys.catalog.show("001")[0].licence) == (made["blob"], "CC0-1.0")


def test_what_names_no_picture_is_refused(toys: Production) -> None:
    for name in ("0", "9", "abcdef", "ab"):
        with pytest.raises(InputError, match="names no picture"):
            call(toys, "approve", "000", "--picture", name)
    with pytest.raises(InputError, match="run first"):
        call(toys, "approve", "no-such-asset")


def test_an_export_is_safe_to_open(toys: Production, tmp_path: Path) -> None:
    call(toys, "decisions", "note", "000", "=HYPERLINK(1)")
    call(toys, "reject", "000", "--reason", "@SUM(A1)", name="bob")
    for ending in ("csv", "json", "jsonl"):
        file = tmp_path / f"out.{ending}"
        assert call(toys, "decisions", "export", "--out", str(file))["decisions"] == 2
        text = file.read_text("utf-8-sig")
        assert "HYPERLINK" in text
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as lines:
        read = list(csv.DictReader(lines))
    assert (read[0]["note"], read[1]["reason"]) == ("'=HYPERLINK(1)", "'@SUM(A1)")
    assert call(toys, "decisions", "export", "--out", str(tmp_path / "a.csv"), "--by", "bob")["decisions"] == 1
    with pytest.raises(InputError, match="ends in"):
        call(toys, "decisions", "export", "--out", str(tmp_path / "out.xlsx"))
