"""What a worksheet unfolds to is known before anything unfolds it."""

from __future__ import annotations

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
    timed_problem,
)


def test_one_far_cell_is_refused_at_once() -> None:
    """1.4 KB that claim seventeen billion cells are refused before any grid is made."""
    small = as_xlsx([["id"], ["a"]])
    data = change_sheet(small, b"</sheetData>", b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>')
    problem = timed_problem(data)
    assert "1,048,576 rows" in problem.message
    assert "max_cells" in problem.way_out
    prefixed = change_sheet(data, b'<c r="XFD1048576"><v>1</v></c>', b'<x:c xmlns:x="u" r="XFD1048576"/>')
    assert "1,048,576 rows" in timed_problem(prefixed).message


def test_texts_that_repeat_cannot_swell() -> None:
    """One long shared string named by thousands of cells is counted as often as it is named."""
    small = as_xlsx([["id", "v"], ["a", "b"]])
    cells_ = b"".join(
        b'<row r="%d"><c r="A%d"><v>%d</v></c><c r="B%d" t="s"><v>0</v></c></row>' % (i, i, i, i)
        for i in range(2, 2002)
    )
    head = (
        b'<row r="1"><c r="A1" t="inlineStr"><is><t>id</t></is></c><c r="B1" t="inlineStr"><is><t>v</t></is></c></row>'
    )
    link = b'<Relationship Id="rId99" Type="http://x/sharedStrings" Target="sharedStrings.xml"/></Relationships>'
    strings = b"<sst><si><t>" + b"x" * 30_000 + b"</t></si><si><t>short</t></si></sst>"
    changes = {
        SHEET: b"<worksheet><sheetData>" + head + cells_ + b"</sheetData></worksheet>",
        "xl/sharedStrings.xml": strings,
        "xl/_rels/workbook.xml.rels": lambda part: part.replace(b"</Relationships>", link),
    }
    data = repack(small, changes)
    assert "60,000,000 characters" in timed_problem(data, max_bytes=50_000_000).message
    few = repack(small, changes | {SHEET: changes[SHEET].replace(b"<v>0</v></c></row>", b"<v>1</v></c></row>")})
    assert len(read(few, max_bytes=50_000_000).assets) == 2000


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part[: len(part) // 2],
        lambda part: part.decode().encode("utf-16"),
        lambda part: b'<?xml version="1.0" encoding="latin-1"?>' + part,
        lambda part: part.replace(b'r="A2"', b'r="!2"'),
        lambda part: part.replace(b'r="A2"', b'r="A' + b"9" * 5000 + b'"'),
    ],
)
def test_damaged_worksheets_are_refused(change: Any) -> None:
    """Broken or unusual XML is an error of the file, never fewer rows."""
    assert problems_of(repack(as_xlsx([["id"], ["a"]]), {SHEET: change}))


REPEATED = ' table:number-columns-repeated="1000000000"'
HEAD = [text_cell("id"), text_cell("v")]


@pytest.mark.parametrize(
    "after",
    [
        f'<table:table-row table:number-rows-repeated="1000000000">{text_cell("x")}</table:table-row>',
        f"<table:table-row>{text_cell('x', REPEATED)}</table:table-row>",
        '<table:table-row table:number-rows-repeated="1000000000"><table:table-cell/></table:table-row>'
        f"<table:table-row>{text_cell('x')}</table:table-row>",
        f'<table:table-row table:number-rows-repeated="100000">{text_cell("x" * 30_000)}</table:table-row>',
    ],
)
def test_ods_repeats_cannot_swell(after: str) -> None:
    """Repeated cells, rows and texts count as often as they repeat."""
    timed_problem(as_ods([HEAD, [text_cell("a"), text_cell("b")]], after))


@pytest.mark.parametrize(
    "cell",
    [
        b'<c r="XFD1048576"><v>1</v></c>',
        b"<c\n r = 'XFD1048576' ><v>1</v></c>",
        b'<c x=">" r="XFD1048576"/>',
        b'<\xc3\xa9:c xmlns:\xc3\xa9="u" r="XFD1048576"/>',
        b"""<!-- <c x=' --><c y="' a='" r="XFD1048576"/><c z="'"/>""",
        b"""<d><![CDATA[<c x=']]></d><c y="' a='" r="XFD1048576"/><c z="'"/>""",
        b"""<?p <c x='?><c y="' a='" r="XFD1048576"/><c z="'"/>""",
    ],
)
def test_a_far_cell_cannot_hide(cell: bytes) -> None:
    """Unusual but well-formed ways to write a cell are seen as well as the usual one."""
    data = change_sheet(as_xlsx([["id"], ["a"]]), b"</sheetData>", b'<row r="1048576">' + cell + b"</row></sheetData>")
    assert "1,048,576 rows × 16,384 columns" in timed_problem(data).message


def test_a_large_grid_with_next_to_nothing_in_it_is_refused() -> None:
    """A stray cell in the last row costs a reader a million rows, so it is named instead."""
    data = change_sheet(
        as_xlsx([["id"], ["a"]]), b"</sheetData>", b'<row r="1048576"><c r="B1048576"/></row></sheetData>'
    )
    assert "holds only 3 cells" in timed_problem(data).message
    rows = [HEAD, [text_cell("a"), text_cell("b")]]
    blank = '<table:table-row table:number-rows-repeated="1000000"><table:table-cell/></table:table-row>'
    after = blank + f"<table:table-row>{text_cell('x')}</table:table-row>"
    assert "holds only 5 cells" in timed_problem(as_ods(rows, after)).message


def test_values_are_read_around_comments() -> None:
    """A comment in a worksheet hides nothing and adds nothing."""
    data = change_sheet(as_xlsx([["id"], ["a"]]), b"</sheetData>", b'<!-- <row r="9"><c r="A9"/></row> --></sheetData>')
    assert [a.id for a in read(data).assets] == ["a"]


def test_references_must_be_references() -> None:
    """A broken reference is named, not guessed at."""
    data = change_sheet(as_xlsx([["id"], ["a"]]), b'r="A2"', b'r="2A"')
    assert timed_problem(data).value == "2A"
