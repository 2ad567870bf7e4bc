"""Decisions as a file for people and other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from assetmill.deliver.export import escape_formula
from assetmill.records import InputError, Problem
from assetmill.storage.reviews import Decision

FORMATS = (".csv", ".json", ".jsonl")

NAMES = tuple(f.name for f in fields(Decision))


def write_decisions(decisions: Sequence[Decision], path: Path) -> None:
    """Writes decisions as the file's ending says. Raises InputError for another ending."""
    path.write_bytes(decisions_as(decisions, path.suffix.lower(), str(path)))


def decisions_as(decisions: Sequence[Decision], ending: str, file: str = "") -> bytes:
    """Decisions as `.csv`, `.json` (one array) or `.jsonl` (a line each). Raises InputError for another ending.

    Nested values are JSON text in a CSV, which begins with a byte order mark, so that spreadsheets read it as UTF-8; a
    text that they would run as a formula gets an apostrophe.
    """
    plain = [d.as_json() for d in decisions]
    if ending == ".json":
        return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    if ending == ".jsonl":
        return "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in plain).encode("utf-8", "replace")
    if ending != ".csv":
        way_out = f"give a name that ends in {', '.join(FORMATS)}"
        raise InputError(Problem(f"decisions are not written as {ending!r}", way_out, file))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(NAMES)
    writer.writerows([_cell(d[name]) for name in NAMES] for d in plain)
    return out.getvalue().encode("utf-8-sig", "replace")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return escape_formula(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) and value else value or ""
