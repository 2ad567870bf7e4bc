"""A spreadsheet read into assets.

Cells are text exactly as written. Everything wrong with a sheet is found in one go: what concerns the whole file
(or more rows than `max_bad_rows`) is raised, single bad rows below that are skipped and returned.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from assetmill.config import SheetConfig
from assetmill.intake.columns import NO_OVERRIDES, Layout, find_layout, join_overrides, read_overrides
from assetmill.intake.limits import Archive, check_bytes, read_sheet_file
from assetmill.intake.tabular import Table, column_letter, read_delimited, read_parquet
from assetmill.records import Asset, InputError, Overrides, Problem, fold_id

__all__ = ["Sheet", "read_assets", "read_sheet_file"]

_SHIFTED = "quote a text that holds the delimiter or a line break, so that the row has one cell per column"


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a sheet holds. `assets` stand in the order of their first row.

    `bad_rows` are the problems of rows that were skipped (a row may have several), `skipped_ids` the ids such rows
    may belong to, as `fold_id` gives them: those assets are not to be counted as removed. `headers` are the
    columns under their mapped names, `num_rows` counts rows that are not blank, `fingerprint` is the SHA-256 of
    the file's bytes (64 hex digits), `notes` are remarks for people.
    """

    assets: tuple[Asset, ...]
    bad_rows: tuple[Problem, ...]
    headers: tuple[str, ...]
    num_rows: int
    fingerprint: str
    skipped_ids: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


_Group = list[tuple[int, str, tuple[str, ...], Overrides]]
"""The rows of one id: number, id as written, texts in the order of the layout, overrides."""


@dataclass(slots=True)
class _Rows:
    """What the pass over the rows leaves: good rows by folded id, and the problems of the others by row number.

    `spoiled` are the folded ids of bad rows; `skipped` adds every text that may be the id of a shifted row.
    """

    file: str
    sheet: str
    groups: dict[str, _Group] = field(default_factory=dict)
    bad: dict[int, list[Problem]] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    num_rows: int = 0

    def blame(self, row: int, message: str, way_out: str, column: str = "", value: str | None = None) -> None:
        problem = Problem(message, way_out, file=self.file, sheet=self.sheet, row=row, column=column, value=value)
        self.bad.setdefault(row, []).append(problem)


def read_assets(config: SheetConfig, path: Path, data: bytes | None = None) -> Sheet:
    """The assets of a CSV, TSV, XLSX, ODS or Parquet file; `data` are its bytes where they are read already.

    Raises InputError with every problem found: with the file as a whole, or when the share of bad rows is above
    `max_bad_rows`.
    """
    file = str(path)
    if data is None:
        data = read_sheet_file(config, path)
    check_bytes(config, len(data), file)
    table = _open_table(config, data, file)
    problems: list[Problem] = []
    layout, rows = find_layout(config, table, file, problems)
    found = _Rows(file, table.sheet)
    _read_rows(config, table, rows, layout, found, problems)
    assets = _make_assets(config, layout, found)
    if found.num_rows == 0 and not problems:
        way_out = "check that it was written to the end"
        problems.append(Problem("the sheet has no rows of data", way_out, file=file, sheet=table.sheet))
    bad_rows = [problem for _, row in sorted(found.bad.items()) for problem in row]
    num_bad = len(found.bad)
    if found.num_rows and num_bad / found.num_rows > config.max_bad_rows:
        message = (
            f"{num_bad} of {found.num_rows} rows are bad, more than sheet.max_bad_rows allows ({config.max_bad_rows:g})"
        )
        bad_rows.append(Problem(message, "correct them, or raise `sheet.max_bad_rows`", file=file, sheet=table.sheet))
        problems += bad_rows
    elif problems:
        problems += bad_rows
    if problems:
        raise InputError(problems)
    return Sheet(
        assets=tuple(assets),
        bad_rows=tuple(bad_rows),
        headers=layout.names,
        num_rows=found.num_rows,
        fingerprint=hashlib.sha256(data).hexdigest(),
        skipped_ids=frozenset(found.skipped),
        notes=table.notes,
    )


def _open_table(config: SheetConfig, data: bytes, file: str) -> Table:
    """Tells the format by the file's first bytes: a wrong ending misleads nobody."""
    if not data.strip():
        raise InputError(Problem("the sheet is empty", "check that it was written to the end", file=file))
    if data.startswith(b"PK\x03\x04"):
        # imported here: defusedxml and calamine are not needed for a CSV
        from assetmill.intake.workbook import read_ods, read_xlsx

        archive = Archive(config, data, file)
        if "xl/workbook.xml" in archive:
            return read_xlsx(config, archive)
        if "content.xml" in archive:
            return read_ods(config, archive)
        raise _not_a_sheet(file, "a zip archive, but neither an .xlsx nor an .ods workbook")
    if data.startswith(b"PAR1"):
        return read_parquet(config, data, file)
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise _not_a_sheet(file, "an old Excel file (.xls), or a workbook with a password")
    if data.startswith((b"%PDF", b"\x1f\x8b", b"\x89PNG", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise _not_a_sheet(file, "a PDF, a picture or a compressed file")
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml)", data[:512], re.IGNORECASE):
        raise _not_a_sheet(file, "an HTML or XML page (a login page saved in place of the sheet?)")
    return read_delimited(config, data, file, [*config.columns.values(), config.id])


def _not_a_sheet(file: str, what: str) -> InputError:
    return InputError(Problem(f"this is {what}", "save the data as .xlsx, .ods, .parquet or CSV in UTF-8", file=file))


# --- rows ---------------------------------------------------------------------------------------------------


def _read_rows(
    config: SheetConfig,
    table: Table,
    rows: Iterator[tuple[int, list[str]]],
    layout: Layout,
    found: _Rows,
    problems: list[Problem],
) -> None:
    """One pass over the rows into `found`. What concerns the file as a whole is added to `problems`."""
    places, width = layout.places, layout.width
    straight = places == tuple(range(width))
    nameless = [i for i, header in enumerate(layout.headers) if not header]
    stray: dict[int, int] = {}
    ragged: dict[int, list[str]] = {}
    known: dict[str, str] = {}
    try:
        for row, cells in rows:
            if (not any(cells) or not any(map(str.strip, cells))) and row not in table.errors:
                continue
            found.num_rows += 1
            if len(cells) != width:
                ragged[row] = cells
                continue
            for place in nameless:
                if cells[place].strip():
                    stray.setdefault(place, row)
            # equal short texts share one object: a sheet's columns repeat themselves
            cells = [known.setdefault(c, c) if len(c) < 32 else c for c in cells]
            values = tuple(cells) if straight else tuple([cells[place] for place in places])
            _read_row(layout, row, values, table.errors, found)
    except InputError as error:
        problems += error.problems
    for place, row in stray.items():
        message, way_out = "the column has texts but no header", "give it a header, or empty it"
        column = column_letter(place)
        problems.append(Problem(message, way_out, file=found.file, sheet=found.sheet, row=row, column=column))
    if ragged:
        _blame_shifted(config, layout, ragged, found, problems)
    found.skipped |= found.spoiled
    found.skipped.discard("")


def _read_row(
    layout: Layout, row: int, values: tuple[str, ...], errors: Mapping[int, Mapping[int, str]], found: _Rows
) -> None:
    if row in errors:
        for place, shown in errors[row].items():
            found.blame(row, "the cell holds an error value", "correct its formula", layout.header_at(place), shown)
    if layout.id_place is None:  # reported already; a row can still be faulty in other ways
        return
    id_name, asset_id = layout.names[layout.id_place], values[layout.id_place]
    folded = fold_id(asset_id)
    if not folded:
        found.blame(row, "the id is empty", "give every row an id, or delete the row", id_name, asset_id)
    elif not asset_id.isprintable() and (hidden := _hidden_character(asset_id)):
        found.blame(row, f"the id holds {hidden}, which nobody can see", "delete it", id_name, asset_id)
    overrides = NO_OVERRIDES
    if layout.overrides:
        overrides = read_overrides(layout, values, partial(found.blame, row))
    if "\0" in "".join(values):
        for place, value in enumerate(values):
            if "\0" in value and place != layout.id_place:
                found.blame(row, "the cell holds a NUL character", "delete it", layout.names[place], value)
    if row in found.bad:
        found.spoiled.add(folded)
    else:
        found.groups.setdefault(folded, []).append((row, asset_id, values, overrides))


def _blame_shifted(
    config: SheetConfig, layout: Layout, ragged: dict[int, list[str]], found: _Rows, problems: list[Problem]
) -> None:
    """Rows with more or fewer cells than there are columns. When most are alike in that, the header is at fault."""
    width = layout.width
    common, count = Counter(map(len, ragged.values())).most_common(1)[0]
    if count * 2 > found.num_rows:
        first = next(row for row, cells in ragged.items() if len(cells) == common)
        what = "the header has" if config.header else "`sheet.names` has"
        message = f"{count} of {found.num_rows} rows have {common} cells where {what} {width}"
        way_out = "name every column once; set `sheet.delimiter` if the cells are not what they should be"
        problems.append(Problem(message, way_out, file=found.file, sheet=found.sheet, row=first))
        ragged = {row: cells for row, cells in ragged.items() if len(cells) != common}
    for row, cells in ragged.items():
        found.blame(row, f"the row has {len(cells)} cells where the header has {width}", _SHIFTED)
        # which of the texts is the id is not certain, so none of them may count as removed
        found.skipped.update(map(fold_id, cells))
        if layout.id_place is not None and layout.places[layout.id_place] < len(cells):
            found.spoiled.add(fold_id(cells[layout.places[layout.id_place]]))


def _hidden_character(text: str) -> str:
    """Names the first control, format or separator character that would make an id unreadable; "" for none."""
    for character in text:
        category = unicodedata.category(character)
        joiner = character in "\u200c\u200d"  # part of how some scripts and emoji are written
        if category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and not joiner):
            return f"the character U+{ord(character):04X}"
    return ""


# --- assets -------------------------------------------------------------------------------------------------


def _make_assets(config: SheetConfig, layout: Layout, found: _Rows) -> list[Asset]:
    """Assets in the order of the sheet; ids that collide, and folded rows that contradict, join the bad rows."""
    assets = []
    names = layout.names
    for folded, group in found.groups.items():
        if len(group) == 1 and folded not in found.spoiled:
            row, asset_id, values, overrides = group[0]
            columns = dict(zip(names, values, strict=True))
            assets.append(Asset(asset_id, columns, (row,), overrides=overrides))
        elif not config.fold:
            if len(group) > 1:
                _blame_collision(group, config.id, found)
                found.skipped.add(folded)
            else:  # the other row of this id was bad for another reason
                row, asset_id, *_ = group[0]
                found.blame(
                    row, "another row that was skipped has this id too", "correct that row", config.id, asset_id
                )
        elif folded in found.spoiled:
            row, asset_id, *_ = group[0]
            found.blame(
                row,
                "another row of this asset is bad, so none of its rows is used",
                "correct that row",
                config.id,
                asset_id,
            )
        elif contradictions := _contradictions(group, layout):
            found.skipped.add(folded)
            for row, name, value, first in contradictions:
                found.blame(
                    row, f"row {first} of the same asset says otherwise", "give it in one row only", name, value
                )
        else:
            assets.append(_fold(group, names, layout))
    return assets


def _blame_collision(group: _Group, column: str, found: _Rows) -> None:
    for row, asset_id, *_ in group:
        others = [(r, other) for r, other, *_ in group[:6] if r != row][:5]
        at = ", ".join(f"row {r} ({other[:40]!r})" if other != asset_id else f"row {r}" for r, other in others)
        more = f" and {len(group) - 6} more" if len(group) > 6 else ""
        way_out = (
            "give each its own id (upper and lower case count as the same), or set `sheet.fold: true` to join them"
        )
        found.blame(row, f"the id is also that of {at}{more}", way_out, column, asset_id)


def _contradictions(group: _Group, layout: Layout) -> list[tuple[int, str, str, int]]:
    """Rows whose override differs from an earlier one of the same asset: (row, column, text, earlier row)."""
    out = []
    for place in layout.overrides.values():
        said: tuple[int, str] | None = None
        for row, _, values, _ in group:
            text = values[place].strip()
            if text and said is None:
                said = (row, text)
            elif text and said is not None and text != said[1]:
                out.append((row, layout.names[place], text, said[0]))
    return out


def _fold(group: _Group, names: tuple[str, ...], layout: Layout) -> Asset:
    columns: dict[str, str] = {}
    several: dict[str, tuple[str, ...]] = {}
    for place, name in enumerate(names):
        distinct = tuple(dict.fromkeys(values[place] for _, _, values, _ in group if values[place]))
        columns[name] = distinct[0] if distinct else ""
        if len(distinct) > 1 and place != layout.id_place:
            several[name] = distinct
    own = join_overrides(overrides for *_, overrides in group)
    return Asset(group[0][1], columns, tuple(row for row, *_ in group), several, own)
