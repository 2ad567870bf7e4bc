"""Workbooks as rows of text: XLSX and ODS.

`python-calamine` gives the values. Before it sees the file, one streaming pass over the worksheet's XML counts
what is really there (dimension records lie), and finds what calamine leaves out without a word: error values,
formulas that were never calculated, and numbers shown with leading zeros.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers.expat import XMLParserType

from assetmill.config import SheetConfig
from assetmill.intake.limits import Archive, check_cells, check_text, pack, parse_xml, scan_xml
from assetmill.intake.tabular import Table, column_letter, text_of
from assetmill.records import InputError, Problem

_SHOWN = 20
"""Cells named one by one when many have the same fault."""
_OPEN_AND_SAVE = "open it in a spreadsheet program, let it calculate, and save it"


@dataclass(slots=True)
class _Scan:
    """What one worksheet really holds. Cells are (1-based row, 0-based column)."""

    name: str = ""
    rows: int = 0
    columns: int = 0
    cells: int = 0
    num_texts: int = 0
    text: int = 0
    formulas: int = 0
    errors: dict[int, dict[int, str]] = field(default_factory=dict)
    uncached: list[tuple[int, int]] = field(default_factory=list)
    padded: dict[tuple[int, int], int] = field(default_factory=dict)


def read_xlsx(config: SheetConfig, archive: Archive) -> Table:
    """A worksheet of an Excel workbook. Raises InputError."""
    file = archive.file
    book = parse_xml(archive.read("xl/workbook.xml"), "xl/workbook.xml", file)
    links = parse_xml(archive.read("xl/_rels/workbook.xml.rels"), "xl/_rels/workbook.xml.rels", file)
    kinds = {e.get("Id", ""): e.get("Type", "").rpartition("/")[2] for e in links}
    paths = {e.get("Id", ""): posixpath.normpath(posixpath.join("/xl", e.get("Target", "")))[1:] for e in links}
    sheets: dict[str, str] = {}
    for element in book.iter():
        if _local(element.tag) == "sheet":
            link = next((value for key, value in element.attrib.items() if _local(key) == "id"), "")
            if kinds.get(link) == "worksheet":
                sheets[element.get("name", "")] = paths[link]
    sheet = _choose(config, list(sheets), file)
    recalculate = any(
        _local(e.tag) == "calcPr" and e.get("fullCalcOnLoad", "").lower() in ("1", "true") for e in book.iter()
    )
    parts = {name: archive.read(name) for name in ("_rels/.rels", "xl/workbook.xml", "xl/_rels/workbook.xml.rels")}
    for link, kind in kinds.items():
        if kind in ("sharedStrings", "styles") and paths[link] in archive:
            parts[paths[link]] = archive.read(paths[link])
    styles = next(
        (parts[paths[link]] for link, kind in kinds.items() if kind == "styles" and paths[link] in parts), b""
    )
    texts = next(
        (parts[paths[link]] for link, kind in kinds.items() if kind == "sharedStrings" and paths[link] in parts), b""
    )
    parts[sheets[sheet]] = xml = archive.read(sheets[sheet])
    padding = _padded_styles(styles, file) if styles else {}
    scan = _scan_worksheet(config, xml, sheets[sheet], file, sheet, padding)
    lengths = _text_lengths(texts, file) if texts else []
    if scan.num_texts * max(lengths, default=0) > config.max_bytes:
        # only now is it worth the time to look which text each cell names
        check_text(config, _shared_text(xml, sheets[sheet], file, lengths), file, sheet)
    _refuse_uncached(scan, recalculate, file, sheet)
    return _read_values(config, pack(parts.items()), scan, sheet, list(sheets), file)


def read_ods(config: SheetConfig, archive: Archive) -> Table:
    """A worksheet of an OpenDocument spreadsheet. Raises InputError."""
    file = archive.file
    parts = {name: archive.read(name) for name in ("mimetype", "META-INF/manifest.xml", "content.xml")}
    if b"encryption-data" in parts["META-INF/manifest.xml"]:
        raise InputError(Problem("the workbook is encrypted", "save it without a password", file=file))
    scan_xml(parts["META-INF/manifest.xml"], "META-INF/manifest.xml", file, lambda parser: None)
    scans = _scan_content(config, parts["content.xml"], file)
    sheet = _choose(config, [scan.name for scan in scans], file)
    scan = next(scan for scan in scans if scan.name == sheet)
    _refuse_uncached(scan, False, file, sheet)
    return _read_values(config, pack(parts.items()), scan, sheet, [scan.name for scan in scans], file)


def _choose(config: SheetConfig, sheets: list[str], file: str) -> str:
    if not sheets:
        raise InputError(Problem("the workbook has no worksheet", "add one with the data, or save as CSV", file=file))
    if config.table is None:
        return sheets[0]
    if config.table not in sheets:
        way_out = f"set `sheet.table` to one of: {', '.join(map(repr, sheets[:_SHOWN]))}"
        raise InputError(Problem("the workbook has no such worksheet", way_out, file=file, value=config.table))
    return config.table


def _read_values(
    config: SheetConfig, packed: io.BytesIO, scan: _Scan, sheet: str, sheets: list[str], file: str
) -> Table:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_filelike(packed) as workbook:
            rows = workbook.get_sheet_by_name(sheet).to_python(skip_empty_area=False)
    except (CalamineError, ValueError, OSError) as error:
        way_out = "open it in a spreadsheet program and save it again"
        raise InputError(Problem(f"the workbook cannot be read ({error})", way_out, file=file, sheet=sheet)) from error
    notes: tuple[str, ...] = ()
    if config.table is None and len(sheets) > 1:
        notes = (f"{file}: read the first of {len(sheets)} worksheets, {sheet!r}; choose another with `sheet.table`",)
    return Table(_texts(rows, scan.padded), sheet=sheet, errors=scan.errors, notes=notes)


def _texts(rows: list[list[Any]], padded: Mapping[tuple[int, int], int]) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(rows, 1):
        cells = [cell if cell.__class__ is str else text_of(cell) for cell in row]
        if padded:
            for column, cell in enumerate(cells):
                if (width := padded.get((number, column))) and cell.isdigit():
                    cells[column] = cell.zfill(width)
        yield number, [_duration(cell) if cell.startswith("PT") else cell for cell in cells]


def _duration(cell: str) -> str:
    """ODS's `PT30H04M05S` as 30:04:05; any other text stays."""
    match = re.fullmatch(r"PT(\d+)H(\d\d)M(\d\d)(?:[.,]\d+)?S", cell)
    return f"{int(match[1])}:{match[2]}:{match[3]}" if match else cell


def _refuse_uncached(scan: _Scan, recalculate: bool, file: str, sheet: str) -> None:
    """Formulas without a value would be read as empty cells, and rows of them as no rows."""
    if recalculate and scan.formulas and not scan.uncached:
        message = (
            f"the workbook holds {scan.formulas} formulas and says itself that their values are not yet calculated"
        )
        raise InputError(Problem(message, _OPEN_AND_SAVE, file=file, sheet=sheet))
    if not scan.uncached:
        return
    problems = [
        Problem(
            "a formula was never calculated",
            _OPEN_AND_SAVE,
            file=file,
            sheet=sheet,
            row=row,
            column=column_letter(column),
        )
        for row, column in scan.uncached[:_SHOWN]
    ]
    if (more := len(scan.uncached) - _SHOWN) > 0:
        problems.append(Problem(f"{more} more formulas were never calculated", _OPEN_AND_SAVE, file=file, sheet=sheet))
    raise InputError(problems)


def _local(name: str) -> str:
    return name.rpartition("}")[2].rpartition(":")[2]


# --- XLSX: ECMA-376 part 1, 18.3.1 (worksheets), 18.4 (shared strings), 18.8 (styles) ------------------------


def _scan_worksheet(
    config: SheetConfig, xml: bytes, name: str, file: str, sheet: str, padding: Mapping[str, int]
) -> _Scan:
    scan = _Scan(sheet)
    columns: dict[str, int] = {}
    row, column, kind, style = 0, -1, "", ""
    formula = valued = False
    value: list[str] = []

    def finish_cell() -> None:
        # seen only when the next cell begins: an end handler for every element would double the time
        nonlocal formula, kind
        if kind == "e":
            scan.errors.setdefault(row, {})[column] = "".join(value).strip() or "an error"
        elif formula and not (valued and (kind == "str" or "".join(value).strip())):
            scan.uncached.append((row, column))
        value.clear()
        formula, kind = False, ""

    def handlers(parser: XMLParserType) -> None:
        def start(tag: str, attributes: dict[str, str]) -> None:
            nonlocal row, column, kind, style, formula, valued
            if tag not in ("c", "v", "row", "f"):
                if ":" not in tag:
                    return
                tag = tag.rpartition(":")[2]
            if tag == "c":
                if formula or kind == "e":
                    finish_cell()
                    parser.CharacterDataHandler = None
                kind = attributes.get("t", "")
                valued = False
                if reference := attributes.get("r"):
                    letters = reference.rstrip("0123456789")
                    if (known := columns.get(letters)) is None:
                        known = columns[letters] = _column_index(letters)
                    column, row = known, int(reference[len(letters) :] or 0)
                else:
                    column += 1
                scan.cells += 1
                if row > scan.rows or column >= scan.columns:
                    scan.rows, scan.columns = max(scan.rows, row), max(scan.columns, column + 1)
                    check_cells(config, scan.rows, scan.columns, file, sheet)
                elif scan.cells > config.max_cells:
                    check_cells(config, scan.cells, 1, file, sheet)
                if kind == "s":
                    scan.num_texts += 1
                if padding and kind in ("", "n") and (width := padding.get(attributes.get("s", ""))):
                    scan.padded[row, column] = width
            elif tag == "v":
                valued = True
                if formula or kind == "e":
                    parser.CharacterDataHandler = value.append
            elif tag == "f":
                formula = True
                scan.formulas += 1
            elif tag == "row":
                if formula or kind == "e":
                    finish_cell()
                    parser.CharacterDataHandler = None
                row, column = int(attributes.get("r") or row + 1), -1

        parser.StartElementHandler = start

    try:
        scan_xml(xml, name, file, handlers)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        way_out = "open it in a spreadsheet program and save it again"
        raise InputError(Problem(f"a cell's reference is broken ({error})", way_out, file=file, sheet=sheet)) from error
    if formula or kind == "e":
        finish_cell()
    return scan


def _column_index(letters: str) -> int:
    index = 0
    for letter in letters:
        if not "A" <= letter <= "Z" or index > 2**20:
            raise ValueError(f"column {letters[:20]!r}")
        index = index * 26 + ord(letter) - 64
    return index - 1


def _text_lengths(xml: bytes, file: str) -> list[int]:
    """The number of characters of each shared string."""
    lengths: list[int] = []

    def handlers(parser: XMLParserType) -> None:
        def start(tag: str, _attributes: dict[str, str]) -> None:
            if tag == "si" or tag.endswith(":si"):
                lengths.append(0)

        def text(data: str) -> None:
            if lengths:
                lengths[-1] += len(data)

        parser.StartElementHandler = start
        parser.CharacterDataHandler = text

    scan_xml(xml, "xl/sharedStrings.xml", file, handlers)
    return lengths


def _shared_text(xml: bytes, name: str, file: str, lengths: list[int]) -> int:
    """How many characters the cells hold when every mention of a shared string is counted."""
    total = 0
    cell: list[str] = []

    def handlers(parser: XMLParserType) -> None:
        def start(tag: str, attributes: dict[str, str]) -> None:
            kind = tag.rpartition(":")[2]
            if kind == "c":
                parser.CharacterDataHandler = None
                cell[:] = [attributes.get("t", "")]
            elif kind == "v" and cell and cell[0] == "s":
                parser.CharacterDataHandler = cell.append

        def end(tag: str) -> None:
            nonlocal total
            if tag.rpartition(":")[2] == "v" and len(cell) > 1:
                index = "".join(cell[1:]).strip()
                total += lengths[int(index)] if index.isdigit() and int(index) < len(lengths) else 0
                cell.clear()

        parser.StartElementHandler = start
        parser.EndElementHandler = end

    scan_xml(xml, name, file, handlers)
    return total


def _padded_styles(xml: bytes, file: str) -> dict[str, int]:
    """Cell styles whose number format is only zeros (`00000`), with the number of digits they show."""
    tree = parse_xml(xml, "xl/styles.xml", file)
    formats = {
        e.get("numFmtId", ""): len(e.get("formatCode", ""))
        for e in tree.iter()
        if _local(e.tag) == "numFmt" and re.fullmatch(r"0{2,32}", e.get("formatCode", ""))
    }
    styles = next((e for e in tree if _local(e.tag) == "cellXfs"), None)
    if not formats or styles is None:
        return {}
    return {str(i): formats[xf.get("numFmtId", "")] for i, xf in enumerate(styles) if xf.get("numFmtId", "") in formats}


# --- ODS: OpenDocument 1.3 part 3, 9.1 (tables) and 19.385 (values) ------------------------------------------


def _scan_content(config: SheetConfig, xml: bytes, file: str) -> list[_Scan]:
    """What the tables of a document really hold: repeated cells and rows are counted as often as they repeat."""
    scans: list[_Scan] = []
    row = column = 0
    height = width = 1
    faults: list[tuple[int, str]] = []  # (column, what) of the current row; "" for an uncached formula
    text = error = 0
    shown: list[str] = []

    def handlers(parser: XMLParserType) -> None:
        def start(tag: str, attributes: dict[str, str]) -> None:
            nonlocal row, column, height, width, error, text
            if tag == "table:table":
                scans.append(_Scan(attributes.get("table:name", "")))
                row = 0
            elif not scans:
                return
            elif tag == "table:table-row":
                height, column, text = max(int(attributes.get("table:number-rows-repeated", 1)), 1), 0, 0
            elif tag in ("table:table-cell", "table:covered-table-cell"):
                width = max(int(attributes.get("table:number-columns-repeated", 1)), 1)
                kind = attributes.get("office:value-type")
                shown.clear()
                error = attributes.get("calcext:value-type") == "error"
                if "table:formula" in attributes or error or kind is not None:
                    content()
                    if kind is None and not error:
                        faults.extend((column + i, "") for i in range(min(width, _SHOWN)))
                    text += len(attributes.get("office:string-value", "")) * width

        def content() -> None:
            scan = scans[-1]
            scan.rows, scan.columns = max(scan.rows, row + height), max(scan.columns, column + width)
            scan.cells += width * height
            check_cells(config, scan.rows, scan.columns, file, scan.name)

        def characters(data: str) -> None:
            nonlocal text
            text += len(data) * width
            if error:
                shown.append(data)

        def end(tag: str) -> None:
            nonlocal row, column
            if not scans:
                return
            scan = scans[-1]
            if tag in ("table:table-cell", "table:covered-table-cell"):
                if error:
                    what = "".join(shown).strip() or "an error"
                    faults.extend((column + i, what) for i in range(min(width, _SHOWN)))
                column += width
            elif tag == "table:table-row":
                scan.text += text * height
                check_text(config, scan.text, file, scan.name)
                for at, what in faults:
                    for number in range(row + 1, row + 1 + height):
                        if what:
                            scan.errors.setdefault(number, {})[at] = what
                        else:
                            scan.uncached.append((number, at))
                faults.clear()
                row += height

        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = characters

    try:
        scan_xml(xml, "content.xml", file, handlers)
    except ValueError as error_:
        if isinstance(error_, InputError):
            raise
        way_out = "open it in a spreadsheet program and save it again"
        raise InputError(Problem(f"a repeat count is broken ({error_})", way_out, file=file)) from error_
    return scans
