"""What people see on a terminal: bars, tables, sizes and times."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from assetmill.operate.console import ConsoleProgress, facts_table, human_bytes, human_seconds, make_table


def show(*things: object, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal, color_system=None)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (2**30, "1.0 GiB"), (2**41, "2.0 TiB")],
)  # fmt: skip
def test_bytes(count: int, text: str) -> None:
    """Sizes are shown in powers of 1024."""
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (89, "89.0 s"), (90, "2 min"), (3725, "62 min"), (7300, "2 h 2 min")]
)
def test_seconds(seconds: float, text: str) -> None:
    """Times are shown as precisely as they matter."""
    assert human_seconds(seconds) == text


def test_tables_show_texts_as_they_are() -> None:
    """Brackets in ids are no markup, and an empty cell stays empty."""
    said = show(make_table("assets", ("id", "score"), [("[red]x[/red]", 0.5), ("y", None)]))
    assert "[red]x[/red]" in said
    assert "None" not in said


def test_facts() -> None:
    """Facts that say nothing are left out; a No is said."""
    said = show(facts_table("run", {"made": 3, "failed": 0, "why": "", "list": [], "agrees": False, "sure": True}))
    assert "made" in said
    assert "failed" not in said
    assert "why" not in said
    assert ["agrees", "│", "False"] in [line.split() for line in said.splitlines()]
    assert "True" in said


def test_progress_on_a_terminal() -> None:
    """On a terminal each stage has a bar, which grows when the work does."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with ConsoleProgress(console) as progress:
        progress.start("images", 4)
        progress.advance("images", 2)
        progress.start("images", 2)
        progress.start("nothing", 0)
        progress.advance("unknown")
        progress._progress.refresh()
        (task,) = progress._progress.tasks
        assert (task.description, task.completed, task.total) == ("images", 2, 6)
    assert "2/6" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("terminal", "enabled"), [(False, True), (True, False)])
def test_progress_elsewhere(terminal: bool, enabled: bool) -> None:
    """In a night's log, and where JSON is asked for, no bar is drawn."""
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with ConsoleProgress(console, enabled=enabled) as progress:
        progress.start("images", 4)
        progress.advance("images", 4)
    assert "images" not in console.file.getvalue()  # type: ignore[attr-defined]
