"""What the columns of a sheet mean: their names, the id, and the settings a row may override."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from assetmill.config import SheetConfig, Size
from assetmill.intake.tabular import Table, column_letter
from assetmill.records import OPERATIONS, EngineOverrides, Overrides, Problem

Row = tuple[int, list[str]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each named column stands. `overrides` maps a setting to its place in `names`."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    headers: tuple[str, ...]
    id_place: int | None
    overrides: Mapping[str, int]

    @property
    def width(self) -> int:
        return len(self.headers)

    def header_at(self, place: int) -> str:
        return self.headers[place] if place < self.width and self.headers[place] else column_letter(place)


def find_layout(config: SheetConfig, table: Table, file: str, problems: list[Problem]) -> tuple[Layout, Iterator[Row]]:
    """The columns' names and places, and the rows that follow the header. Adds what is wrong to `problems`."""

    def complain(
        message: str, way_out: str, *, column: str = "", value: str | None = None, row: int | None = None
    ) -> None:
        problems.append(Problem(message, way_out, file=file, sheet=table.sheet, row=row, column=column, value=value))

    rows = table.rows
    line: int | None = None
    if not config.header:
        headers = list(config.names or ())
    elif table.names is not None:
        headers = list(table.names)
    else:
        # what stands above the table in a worksheet is often a blank row or two
        line, cells = next(((n, cells) for n, cells in rows if any(map(str.strip, cells))), (None, []))
        headers = [cell.strip() for cell in cells]
        if faults := table.errors.get(line or 0):
            for place, shown in faults.items():
                complain(
                    "a header is an error value",
                    "write the header out",
                    column=column_letter(place),
                    value=shown,
                    row=line,
                )
    if config.header and config.names:
        complain(
            "`names` are given, but the file has a header row", "remove `sheet.names`, or set `sheet.header: false`"
        )
    for name, count in Counter(filter(None, headers)).items():
        if count > 1:
            where = " and ".join(column_letter(i) for i, header in enumerate(headers) if header == name)
            complain(
                f"the header occurs {count} times, in columns {where}", "rename all but one", column=name, row=line
            )

    mapped = set(config.columns.values())
    pairs = [(header, i) for i, header in enumerate(headers) if header and header not in mapped]
    own = {header for header, _ in pairs}
    for name, header in config.columns.items():
        if header not in headers:
            complain(
                f"the file has no such column (for `{name}`)",
                _nearest(header, headers, "sheet.columns"),
                column=header,
                row=line,
            )
        elif name in own:
            complain(
                f"`sheet.columns` gives this name to {header!r}, but the file has a column of that name too",
                "choose another name in `sheet.columns`, or map the file's own column to another name as well",
                column=name,
                row=line,
            )
        else:
            pairs.append((name, headers.index(header)))
    # in the order of the file, so that what a person sees first stays first
    pairs.sort(key=lambda pair: pair[1])
    names = tuple(name for name, _ in pairs)

    def place_of(name: str, key: str) -> int | None:
        if name in names:
            return names.index(name)
        if renamed := [new for new, header in config.columns.items() if header == name]:
            complain("the column is renamed by `sheet.columns`", f"write {renamed[0]!r} in `{key}`", column=name)
        elif config.columns.get(name) is None:  # else it is reported above
            complain(f"the file has no such column (for `{key}`)", _nearest(name, headers, key), column=name, row=line)
        return None

    id_place = place_of(config.id, "sheet.id")
    overrides: dict[str, int] = {}
    for setting, name in config.overrides.items():
        at = place_of(name, f"sheet.overrides.{setting}")
        if at is not None:
            overrides[setting] = at
    places = tuple(place for _, place in pairs)
    return Layout(names, places, tuple(headers), id_place, overrides), rows


def _nearest(name: str, headers: Sequence[str], key: str) -> str:
    if len(headers) == 1 and (found := [d for d in ";,|\t" if d in headers[0]]):
        return f"the header is one cell, {headers[0][:60]!r}: set `sheet.delimiter` to {found[0]!r}?"
    folded = {header.casefold(): header for header in headers if header}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    known = ", ".join(header for header in headers if header)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    return f"{hint}correct `{key}`; the file has: {known[:400] or 'no headers'}"


# --- overrides ----------------------------------------------------------------------------------------------


def read_overrides(layout: Layout, values: tuple[str, ...], blame: Callable[[str, str, str, str], None]) -> Overrides:
    """What a row says for itself; `blame(message, way_out, column, value)` is called for each invalid text."""
    given: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    for setting, place in layout.overrides.items():
        text = values[place]
        if not text.strip():
            continue
        if setting == "negative":
            given["negative"] = text
            continue
        value, way_out = _parse_override(setting, text)
        if value is None:
            blame(f"this is no {_CALLED.get(setting, setting)}", way_out, layout.names[place], text)
        elif setting == "size":
            given["width"], given["height"] = value
        elif setting in ENGINE_SETTINGS:
            engine[setting] = value
        else:
            given[setting] = value
    if engine:
        given["engine"] = EngineOverrides(**engine)
    return Overrides(**given) if given else NO_OVERRIDES


def join_overrides(rows: Iterable[Overrides]) -> Overrides:
    """What the rows of one asset say together: the first that says something counts."""
    said: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    for overrides in rows:
        for setting in ("seed", "width", "height", "negative", "candidates", "priority"):
            value = getattr(overrides, setting)
            if value is not None and (setting != "priority" or value):
                said.setdefault(setting, value)
        for setting in ENGINE_SETTINGS if overrides.engine is not None else ():
            value = getattr(overrides.engine, setting)
            if value is not None:
                engine.setdefault(setting, value)
    if engine:
        said["engine"] = EngineOverrides(**engine)
    return Overrides(**said)


NO_OVERRIDES = Overrides()
ENGINE_SETTINGS = tuple(f.name for f in fields(EngineOverrides))
_CALLED = {"control_kind": "kind of map", "lora": "list of adapters"}
_WHOLE_NUMBERS = {
    "seed": (0, 2**32 - 1), "candidates": (1, 1024), "priority": (-1_000_000, 1_000_000), "steps": (1, 1000),
}  # fmt: skip
_NUMBERS = {"strength": (0.0, 1.0), "guidance": (0.0, 100.0), "weight": (0.0, 2.0)}
_TEXTS = ("model", "scheduler", "control_kind", "image", "image_to", "mask", "keep", "control", "caption_to")


@lru_cache(maxsize=4096)
def _parse_override(setting: str, text: str) -> tuple[Any, str]:
    """A cell's value for a setting, or None and the way out."""
    if setting == "size":
        way_out = "write pixels from 8 to 16384, as 512 or 512x768 (width x height), or leave the cell empty"
        try:
            return _size_reader().validate_python(text.strip().lower()), ""
        except ValidationError:
            return None, way_out
    if setting in _TEXTS:
        return text.strip(), ""
    if setting == "operation":
        name = text.strip().lower().replace("_", "-").replace(" ", "-")
        return (name, "") if name in OPERATIONS else (None, f"write one of {', '.join(OPERATIONS)}")
    if setting == "lora":
        return _parse_adapters(text)
    if setting in _NUMBERS:
        bottom, top = _NUMBERS[setting]
        number = float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9}", text.strip()) else -1.0
        if bottom <= number <= top and (number or setting != "strength"):
            return number, ""
        above = "above" if setting == "strength" else "from"
        return None, f"write a number {above} {bottom:g} to {top:g}, as 0.6, or leave the cell empty"
    low, high = _WHOLE_NUMBERS[setting]
    if re.fullmatch(r"[-+]?[0-9]{1,15}", text.strip()) and low <= int(text) <= high:
        return int(text), ""
    return None, f"write a whole number from {low} to {high}, or leave the cell empty"


def _parse_adapters(text: str) -> tuple[tuple[tuple[str, float], ...] | None, str]:
    """`style.safetensors:0.8; sharp.safetensors` as files and weights; a weight left out is 1."""
    found: list[tuple[str, float]] = []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        match = re.fullmatch(r"(.+?\.[A-Za-z]+)(?:\s*:\s*(-?[0-9]{0,3}(?:\.[0-9]{0,6})?))?", part)
        if match is None or (match[2] is not None and not re.search("[0-9]", match[2])):
            return None, "write files with weights, as `style.safetensors:0.8; sharp.safetensors`"
        found.append((match[1], float(match[2]) if match[2] else 1.0))
    return tuple(found), ""


@lru_cache(maxsize=1)
def _size_reader() -> TypeAdapter[tuple[int, int]]:
    return TypeAdapter(Size)
