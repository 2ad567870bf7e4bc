"""Workbooks as rows of text: XLSX and ODS.

`python-calamine` gives the values. Before it sees the file, one streaming pass over the worksheet's XML counts
what is really there (dimension records lie), and finds what calamine leaves out without a word: error values,
formulas that were never calculated, and numbers shown with leading zeros.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from assetmill.config import SheetConfig
from assetmill.intake.limits import Archive, check_text, pack, parse_xml, scan_xml
from assetmill.intake.tabular import Table, column_letter, text_of
from assetmill.intake.workbook_scan import Scan, scan_content, scan_worksheet, shared_text, text_lengths
from assetmill.records import InputError, Problem

_SHOWN = 20
"""Cells named one by one when many have the same fault."""
_OPEN_AND_SAVE = "open it in a spreadsheet program, let it calculate, and save it"


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
    shared = {kind: paths[link] for link, kind in kinds.items() if kind in ("sharedStrings", "styles")}
    # under the names that calamine expects, whatever the workbook calls them
    parts |= {f"xl/{kind}.xml": archive.read(path) for kind, path in shared.items() if path in archive}
    styles, texts = (parts.get(f"xl/{kind}.xml", b"") for kind in ("styles", "sharedStrings"))
    parts[sheets[sheet]] = xml = archive.read(sheets[sheet])
    padding = _padded_styles(styles, file) if styles else {}
    scan = scan_worksheet(config, xml, sheets[sheet], file, sheet, padding)
    lengths = text_lengths(texts, file) if texts else []
    if scan.num_texts * max(lengths, default=0) > config.max_bytes:
        # only now is it worth the time to look which text each cell names
        check_text(config, shared_text(xml, sheets[sheet], file, lengths), file, sheet)
    _refuse_uncached(scan, recalculate, file, sheet)
    return _read_values(config, pack(parts.items()), scan, sheet, list(sheets), file)


def read_ods(config: SheetConfig, archive: Archive) -> Table:
    """A worksheet of an OpenDocument spreadsheet. Raises InputError."""
    file = archive.file
    parts = {name: archive.read(name) for name in ("mimetype", "META-INF/manifest.xml", "content.xml")}
    if b"encryption-data" in parts["META-INF/manifest.xml"]:
        raise InputError(Problem("the workbook is encrypted", "save it without a password", file=file))
    scan_xml(parts["META-INF/manifest.xml"], "META-INF/manifest.xml", file, lambda parser: None)
    scans = scan_content(config, parts["content.xml"], file)
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
    config: SheetConfig, packed: io.BytesIO, scan: Scan, sheet: str, sheets: list[str], file: str
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
    return Table(_texts(rows, scan), sheet=sheet, errors=scan.errors, notes=notes)


def _texts(rows: list[list[Any]], scan: Scan) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(rows, 1):
        cells = [cell if cell.__class__ is str else text_of(cell) for cell in row]
        if scan.padded or scan.times:
            for column, cell in enumerate(cells):
                if (width := scan.padded.get((number, column))) and cell.isdigit():
                    cells[column] = cell.zfill(width)
                elif (number, column) in scan.times:
                    cells[column] = _clock(cell)
        yield number, cells


def _clock(duration: str) -> str:
    """ODS's `PT30H04M05S` as 30:04:05; what is not of that form stays."""
    match = re.fullmatch(r"PT(\d+)H(\d\d)M(\d\d)(?:[.,]\d+)?S", duration)
    return f"{int(match[1])}:{match[2]}:{match[3]}" if match else duration


def _refuse_uncached(scan: Scan, recalculate: bool, file: str, sheet: str) -> None:
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
