"""Workbooks read as a person reads them, and never lose a row."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pytest

from sheet_files import (
    SHEET,
    as_ods,
    as_xlsx,
    change_sheet,
    problems_of,
    read,
    repack,
    text_cell,
)

TRICKY = (
    "00123",
    "NA",
    "null",
    "None",
    "nan",
    "1E5",
    "TRUE",
    "2024-01-02",
    "1,5",
    "-0",
    "  x ",
    "=1+1",
    "#N/A",
    "ß中🗡",
)


@pytest.mark.parametrize("kind", ["xlsx", "ods"])
def test_texts_of_workbooks_are_read_back_verbatim(kind: str) -> None:
    """Text cells keep leading zeros, NA, TRUE and line breaks."""
    texts = [text for text in TRICKY if text.strip() == text and not text.startswith(("=", "#"))] + ["two\nlines"]
    rows: list[list[Any]] = [["id", "text"], *([f"{i:04}", text] for i, text in enumerate(texts))]
    sheet = read(as_xlsx(rows) if kind == "xlsx" else as_ods([[text_cell(cell) for cell in row] for row in rows]))
    assert [(a.id, a.columns["text"]) for a in sheet.assets] == [tuple(row) for row in rows[1:]]


def test_typed_cells_read_as_a_person_reads_them() -> None:
    """Whole numbers have no point, dates are ISO, truth is TRUE, zero-padded formats keep their zeros."""
    values = [
        123,
        123.0,
        0.1 + 0.2,
        1e-7,
        12345678901234,
        True,
        False,
        dt.date(2024, 1, 2),
        dt.datetime(2024, 1, 2, 3, 4, 5),
    ]
    values += [dt.time(3, 4), dt.timedelta(hours=30), 42, "42", None]
    rows: list[list[Any]] = [["id", "v"], *([f"r{i}", value] for i, value in enumerate(values))]
    sheet = read(as_xlsx(rows, {"B13": "00000", "B14": "00000"}), "s.xlsx")
    assert [a.columns["v"] for a in sheet.assets] == [
        "123", "123", "0.3", "0.0000001", "12345678901234", "TRUE", "FALSE", "2024-01-02", "2024-01-02 03:04:05",
        "03:04:00", "30:00:00", "00042", "42", "",
    ]  # fmt: skip
    assert [a.rows for a in sheet.assets][:2] == [(2,), (3,)]


def test_a_table_that_stands_lower_keeps_its_row_numbers() -> None:
    """Blank rows and columns before the table are skipped, rows are numbered as the program shows them."""
    sheet = read(as_xlsx([[], [], [None, "id", "v"], [None, "a", 1], [], [None, "b", 2]]))
    assert [(a.id, a.rows) for a in sheet.assets] == [("a", (4,)), ("b", (6,))]
    assert sheet.headers == ("id", "v")


def test_a_worksheet_is_chosen_by_name() -> None:
    """`table` picks one; a missing one is named with those there are; the first is read with a remark."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["nothing"])
    second = book.create_sheet("Ärtikel & Co")
    second.append(["id"])
    second.append(["x"])
    stream = io.BytesIO()
    book.save(stream)
    sheet = read(stream.getvalue(), table="Ärtikel & Co")
    assert [a.id for a in sheet.assets] == ["x"]
    (problem,) = problems_of(stream.getvalue(), table="Artikel")
    assert "'Ärtikel & Co'" in problem.way_out
    assert all(p.sheet == "Sheet" for p in problems_of(stream.getvalue()))
    assert "first of 2 worksheets" in read(stream.getvalue(), id="nothing", header=False, names=("nothing",)).notes[0]


def test_error_values_are_bad_cells() -> None:
    """`#N/A` is no text and no gap: the row is bad, with column and value."""
    sheet = read(as_xlsx([["id", "v"], ["a", "#N/A"], ["b", "x"], ["c", "#REF!"]]), max_bad_rows=0.9)
    assert [(p.row, p.column, p.value) for p in sheet.bad_rows] == [(2, "v", "#N/A"), (4, "v", "#REF!")]
    assert all(p.sheet == "Sheet" for p in sheet.bad_rows)


def test_formulas_without_values_are_an_error() -> None:
    """A workbook that was written by a program and never calculated is refused, with the cells."""
    problems = problems_of(as_xlsx([["id", "v"], *([f"a{i}", "=1+1"] for i in range(30))]), max_bad_rows=1.0)
    assert (problems[0].row, problems[0].column) == (2, "B")
    assert len(problems) == 21
    assert "10 more formulas" in problems[-1].message


def test_formulas_whose_values_are_stale_by_the_files_own_word_are_an_error() -> None:
    """Some writers put 0 in place of every result and ask for calculation on load."""
    data = as_xlsx([["id", "v"], ["a", "=1+1"]])
    cached = change_sheet(data, b"<v />", b"<v>0</v>")
    assert "not yet calculated" in problems_of(cached)[0].message
    calm = repack(cached, {"xl/workbook.xml": lambda part: part.replace(b' fullCalcOnLoad="1"', b"")})
    assert read(calm).assets[0].columns["v"] == "0"


def test_a_formula_with_an_empty_text_is_calculated() -> None:
    """`=""` has a value, the empty text."""
    data = change_sheet(
        as_xlsx([["id", "v"], ["a", "=1+1"]]), b'<c r="B2"><f>1+1</f><v />', b'<c r="B2" t="str"><f>""</f><v></v>'
    )
    calm = repack(data, {"xl/workbook.xml": lambda part: part.replace(b' fullCalcOnLoad="1"', b"")})
    assert read(calm).assets[0].columns["v"] == ""


def test_a_lying_dimension_record_loses_no_rows() -> None:
    """The record says one row, the sheet holds three: three are read."""
    data = as_xlsx([["id"], ["a"], ["b"], ["c"]])
    assert len(read(change_sheet(data, b'ref="A1:A4"', b'ref="A1:A2"')).assets) == 3
    assert len(read(change_sheet(data, b'ref="A1:A4"', b'ref="A1:XFD1048576"')).assets) == 3


HEAD = [text_cell("id"), text_cell("v")]


def test_ods_values_read_as_a_person_reads_them() -> None:
    """Numbers, dates, durations and truth values of LibreOffice; its million trailing blank rows are nothing."""
    values = [
        'office:value-type="float" office:value="123"', 'office:value-type="date" office:date-value="2024-01-02"',
        'office:value-type="time" office:time-value="PT30H04M05S"',
        'office:value-type="boolean" office:boolean-value="true"',
    ]  # fmt: skip
    rows = [HEAD, *([text_cell(f"r{i}"), f"<table:table-cell {value}/>"] for i, value in enumerate(values))]
    rows.append([text_cell("text"), text_cell("PT30H04M05S")])
    blank = '<table:table-row table:number-rows-repeated="1048000"><table:table-cell ' + (
        'table:number-columns-repeated="16384"/></table:table-row>'
    )
    sheet = read(as_ods(rows, blank), "s.ods")
    assert [a.columns["v"] for a in sheet.assets] == ["123", "2024-01-02", "30:04:05", "TRUE", "PT30H04M05S"]
    assert sheet.num_rows == 5


def test_ods_errors_and_uncached_formulas_are_found() -> None:
    """The same two faults that XLSX has."""
    attributes = 'table:formula="of:=NA()" office:value-type="string" calcext:value-type="error"'
    wrong = f"<table:table-cell {attributes}><text:p>#N/A</text:p></table:table-cell>"
    sheet = read(as_ods([HEAD, [text_cell("a"), wrong], [text_cell("b"), text_cell("x")]]), max_bad_rows=0.5)
    assert [(p.row, p.column, p.value) for p in sheet.bad_rows] == [(2, "v", "#N/A")]
    bare = '<table:table-cell table:formula="of:=1+1"/>'
    (problem,) = problems_of(as_ods([HEAD, [text_cell("a"), bare]]), max_bad_rows=1.0)
    assert (problem.row, problem.column, problem.sheet) == (2, "B", "Blatt 1")


def test_shared_texts_are_found_under_any_name() -> None:
    """Where the workbook says its texts are, there they are read."""
    link = b'<Relationship Id="rId99" Type="http://x/sharedStrings" Target="texts/odd.xml"/></Relationships>'
    rows = b'<row><c t="inlineStr"><is><t>id</t></is></c></row><row><c t="s"><v>0</v></c></row>'
    data = repack(as_xlsx([["id"]]), {
        SHEET: b"<worksheet><sheetData>" + rows + b"</sheetData></worksheet>",
        "xl/texts/odd.xml": b"<sst><si><t>007</t></si></sst>",
        "xl/_rels/workbook.xml.rels": lambda part: part.replace(b"</Relationships>", link),
    })  # fmt: skip
    assert [(a.id, a.rows) for a in read(data).assets] == [("007", (2,))]
