"""What commands share: their common arguments, opening what a config names, and showing facts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assetmill.operate.exits import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from assetmill.storage.catalog import Catalog
    from assetmill.storage.store import Store

_UNWRAPPED = 4096
"""Columns of what is no terminal."""

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Config file (YAML).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="Only this asset (repeatable).")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first assets of the sheet.")]
Force = Annotated[
    bool, typer.Option("--force", help="Go past max_removed and max_changed; try exhausted and failed assets again.")
]
Version = Annotated[int | None, typer.Option(min=1, help="A catalog version; the latest if left out.")]

Reason = Annotated[str, typer.Option("--reason", help="Why; kept on record.")]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who; the user's name if left out.")]


def who(by: str | None) -> str:
    """Who does this, for the record."""
    from assetmill.operate.lock import describe_process

    return by if by is not None else str(describe_process()["user"])


def stderr_console() -> Console:
    """Where people read. Only a terminal has an edge to wrap at: in a pipe or file a row stays a line, a URL whole."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNWRAPPED
    return console


def open_store_of(config_path: Path, *, read_only: bool = True) -> tuple[str, Store]:
    from assetmill.config import read_config
    from assetmill.storage.store import open_store

    config = read_config(config_path)
    return config.name, open_store(config.store, config.store_url, read_only=read_only)


def open_catalog_of(config_path: Path, *, read_only: bool = True) -> Catalog:
    from assetmill.storage.catalog import open_catalog

    name, store = open_store_of(config_path, read_only=read_only)
    return open_catalog(store, name)


def read_file(path: Path) -> bytes:
    from assetmill.records import InputError, Problem

    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(Problem(str(error.strerror), "correct the path", file=str(path))) from error


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as lines for people: `xmp dc:title x-default`. What a terminal would obey is made harmless."""
    lines: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines |= flat(value, f"{prefix}{name} ")
        elif isinstance(value, (list, tuple)):
            lines |= flat({str(n): v for n, v in enumerate(value, 1)}, f"{prefix}{name} ")
        else:
            text = "" if value is None else str(value)
            lines[prefix + str(name)] = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    return lines


def print_facts(title: str, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        from assetmill.operate.console import facts_table

        stderr_console().print(facts_table(title, facts))
