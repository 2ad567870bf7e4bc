"""Sheets of every format, made for tests, and short ways to read them."""

from __future__ import annotations

import csv
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import SheetConfig
from assetmill.intake.sheet import Sheet, read_assets
from assetmill.records import InputError, Problem


def make_config(**settings_: Any) -> SheetConfig:
    return SheetConfig(**{"path": "sheet.csv", "id": "id", **settings_})


def read(data: bytes | str, name: str = "sheet.csv", **settings_: Any) -> Sheet:
    return read_assets(make_config(**settings_), Path(name), data.encode() if isinstance(data, str) else data)


def problems_of(data: bytes | str, name: str = "sheet.csv", **settings_: Any) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        read(data, name, **settings_)
    assert all(problem.file == name and problem.way_out for problem in caught.value.problems)
    return caught.value.problems


def as_csv(rows: list[list[str]], delimiter: str = ",", newline: str = "\r\n") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=newline).writerows(rows)
    return stream.getvalue()


def timed_problem(data: bytes, **settings_: Any) -> Problem:
    start = time.process_time()
    problems = problems_of(data, **settings_)
    assert time.process_time() - start < 2
    assert len(problems) == 1
    return problems[0]


def as_xlsx(rows: list[list[Any]], formats: dict[str, str] | None = None, title: str = "Sheet") -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    page = book.active
    page.title = title
    for row in rows:
        page.append(row)
    for cell, number_format in (formats or {}).items():
        page[cell].number_format = number_format
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def repack(data: bytes, changes: dict[str, Any]) -> bytes:
    """The same zip with some parts replaced: by bytes, or by what a function makes of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            change = changes.get(name, lambda part: part)
            new.writestr(name, change if isinstance(change, bytes) else change(old.read(name)))
        for name in changes.keys() - set(old.namelist()):
            new.writestr(name, changes[name])
    return out.getvalue()


SHEET = "xl/worksheets/sheet1.xml"


def change_sheet(data: bytes, old: bytes, new: bytes) -> bytes:
    def change(part: bytes) -> bytes:
        assert old in part
        return part.replace(old, new, 1)

    return repack(data, {SHEET: change})


OFFICE = "urn:oasis:names:tc:opendocument:xmlns:office:1.0"


TABLE = "urn:oasis:names:tc:opendocument:xmlns:table:1.0"


TEXT = "urn:oasis:names:tc:opendocument:xmlns:text:1.0"


CALCEXT = "urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"


def text_cell(text: str, extra: str = "") -> str:
    from xml.sax.saxutils import escape

    lines = "".join(f"<text:p>{escape(line)}</text:p>" for line in text.split("\n"))
    return f'<table:table-cell office:value-type="string"{extra}>{lines}</table:table-cell>'


def as_ods(rows: list[list[str]], after: str = "") -> bytes:
    """A document with one table of cells given as XML, as LibreOffice writes them."""
    body = "".join(f"<table:table-row>{''.join(row)}</table:table-row>" for row in rows) + after
    content = (
        f'<office:document-content xmlns:office="{OFFICE}" xmlns:table="{TABLE}" xmlns:text="{TEXT}" '
        f'xmlns:calcext="{CALCEXT}">'
        f'<office:body><office:spreadsheet><table:table table:name="Blatt 1">{body}</table:table>'
        "</office:spreadsheet></office:body></office:document-content>"
    )
    manifest = (
        '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        '<manifest:file-entry manifest:full-path="/"/></manifest:manifest>'
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr("content.xml", content)
    return out.getvalue()


def as_parquet(columns: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()
