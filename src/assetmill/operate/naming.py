"""How published files are called: patterns over the id, the rank and the columns that may leave, and their check."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence

from assetmill.config import Config
from assetmill.deliver.fill import fill, values_of
from assetmill.records import InputError, Problem, asset_key
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.layout import safe_name

NAME_FIELDS = ("id", "rank", "seed", "template")
"""What a name pattern may hold, beside the columns that may leave."""

PLAIN = "image"
"""A rendition of this name adds nothing to its file's name."""


def check_name_pattern(config: Config, headers: Sequence[str]) -> None:
    """Raises InputError when a name pattern, or `publish.columns`, use a column that the sheet lacks or may not use."""
    known = set(headers)
    problems = [
        Problem(
            f"publish.columns names {c!r}, which the sheet lacks",
            f"its columns are {', '.join(sorted(known))}",
            column=c,
        )
        for c in config.publish.columns
        if c not in known
    ]
    allowed = {*NAME_FIELDS, *config.publish.columns}
    for key, pattern in _patterns(config):
        problems += _problems_of(key, pattern, allowed)
    if problems:
        raise InputError(problems)


def check_column(headers: Sequence[str], column: str, key: str) -> None:
    """Raises InputError where a config's key names a column that the sheet doesn't have; an empty name is none."""
    if column and column not in headers:
        raise InputError(
            Problem(f"{key} names {column!r}, which the sheet lacks", f"its columns are {', '.join(sorted(headers))}",
                    column=key)
        )  # fmt: skip


def name_of(pattern: str, entry: CatalogEntry) -> str:
    """The name of an entry's files by a checked pattern, as one part of a key."""
    return safe_name(fill(pattern, values_of(entry)))


def folder_of(asset_id: str) -> str:
    """The folder of an asset's files: its id made safe, and a few digits that keep apart ids that look alike."""
    return f"{safe_name(asset_id)}-{asset_key(asset_id)[:6]}"


def _patterns(config: Config) -> Iterator[tuple[str, str]]:
    yield "publish.name", config.publish.name
    for name, channel in config.publish.channels.items():
        if channel.name is not None:
            yield f"publish.channels.{name}.name", channel.name


def _problems_of(key: str, pattern: str, allowed: set[str]) -> list[Problem]:
    try:
        fields = [(f, spec or "") for _, f, spec, _ in string.Formatter().parse(pattern) if f is not None]
    except ValueError as error:
        return [Problem(f"{key} is not a pattern: {error}", "write it like {id}_{rank}")]
    # Found now, not when a night's pictures are to be published; and no width of a billion.
    problems = [
        Problem(f"{key} uses {{{f}:{spec}}}", "only numbers have digits: write it like {id}_{rank:02d}")
        for f, spec in fields
        if not re.fullmatch(r"(0?[0-9]d?)?" if f in ("rank", "seed") else "", spec)
    ]
    shown = ", ".join("{" + a + "}" for a in sorted(allowed))
    return problems + [
        Problem(f"{key} uses {{{n}}}", f"use {shown}, or add the column to publish.columns")
        for n, _ in fields
        if n not in allowed
    ]
