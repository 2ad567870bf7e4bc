"""Sheets of every kind become assets verbatim, and everything wrong with them is named in one go."""

from __future__ import annotations

import csv
import datetime as dt
import io
import time
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assetmill.config import SheetConfig
from assetmill.intake.sheet import Sheet, read_assets, read_sheet_file
from assetmill.intake.tabular import column_letter, text_of
from assetmill.records import InputError, Overrides, Problem, fold_id

SAMPLES = Path(__file__).parents[1] / "configs" / "sheets"
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


# --- text stays text ----------------------------------------------------------------------------------------

cells = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20),
    st.integers().map(str),
    st.floats().map(repr),
    st.dates().map(str),
)


@given(texts=st.lists(st.tuples(cells, cells), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t|"))
@settings(max_examples=150, deadline=None)
def test_every_cell_of_a_csv_is_read_back_verbatim(texts: list[tuple[str, str]], delimiter: str) -> None:
    """What a CSV writer wrote is what the asset's columns hold: no number, date, null or space is touched."""
    rows = [["id", "one", "two"], *([f"{i:05}", one, two] for i, (one, two) in enumerate(texts))]
    sheet = read(as_csv(rows, delimiter))
    assert [[a.id, a.columns["one"], a.columns["two"]] for a in sheet.assets] == rows[1:]


@given(texts=st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parquet_texts_are_read_back_verbatim(texts: list[tuple[str, str]]) -> None:
    """Strings of a Parquet file come back as they are."""
    sheet = read(as_parquet({"id": [f"{i:05}" for i in range(len(texts))], "text": [a + b for a, b in texts]}))
    assert [a.columns["text"] for a in sheet.assets] == [a + b for a, b in texts]


@pytest.mark.parametrize("kind", ["xlsx", "ods"])
def test_texts_of_workbooks_are_read_back_verbatim(kind: str) -> None:
    """Text cells keep leading zeros, NA, TRUE and line breaks."""
    texts = [text for text in TRICKY if text.strip() == text and not text.startswith(("=", "#"))] + ["two\nlines"]
    rows: list[list[Any]] = [["id", "text"], *([f"{i:04}", text] for i, text in enumerate(texts))]
    sheet = read(as_xlsx(rows) if kind == "xlsx" else as_ods([[text_cell(cell) for cell in row] for row in rows]))
    assert [(a.id, a.columns["text"]) for a in sheet.assets] == [tuple(row) for row in rows[1:]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiter_and_encoding_are_found(delimiter: str, encoding: str) -> None:
    """Neither has to be said for the usual ones, also where texts hold the other delimiters."""
    text = as_csv([["id", "name"], ["1", "Größe 1,5; “fein” | é"], ["2", "à la carte"]], delimiter)
    sheet = read(text.encode(encoding))
    assert sheet.headers == ("id", "name")
    assert sheet.assets[0].columns["name"] == "Größe 1,5; “fein” | é"
    assert bool(sheet.notes) == (encoding == "cp1252")


def test_the_expected_headers_decide_between_delimiters() -> None:
    """Decimal commas in every cell don't win over the delimiter that gives the id column."""
    sheet = read("id;price, gross\n1;1,5\n2;2,5\n")
    assert [a.columns["price, gross"] for a in sheet.assets] == ["1,5", "2,5"]


def test_excels_sep_line_is_obeyed_and_counted() -> None:
    """A first line `sep=|` names the delimiter, and line numbers still count it."""
    sheet = read("sep=|\r\nid|a,b\r\n1|x\r\n")
    assert sheet.assets[0].columns == {"id": "1", "a,b": "x"}
    assert sheet.assets[0].rows == (3,)


@pytest.mark.parametrize(
    "data",
    [
        "Привет, это меч".encode("cp1251"),
        "赤い剣、青い盾".encode("cp932"),
        b"caf\x8e rapp\x8e gar\x8don",
        b"\xff\xfe\xfa" * 3,
    ],
)
def test_other_encodings_are_refused_with_the_line(data: bytes) -> None:
    """Bytes that cp1252 would turn into nonsense are no Western text: the line is named."""
    (problem,) = problems_of(b"id,name\n1,ok\n2," + data + b"\n")
    assert problem.row == 3
    assert "sheet.encoding" in problem.way_out


def test_an_explicit_encoding_is_used_and_held_to() -> None:
    """`encoding` decides; text that is not in it, and unknown or non-text codecs, are errors."""
    data = "id,name\n1,меч\n".encode("cp1251")
    assert read(data, encoding="cp1251").assets[0].columns["name"] == "меч"
    assert read("id,n\n1,é\n".encode("utf-16-le"), encoding="utf-16-le").assets[0].columns["n"] == "é"
    assert read("id,n\n1,é\n".encode("utf-8-sig"), encoding="utf-8").headers == ("id", "n")
    assert problems_of(data, encoding="utf-8")[0].row == 2
    assert "unknown" in problems_of(data, encoding="klingon")[0].message
    assert "unknown" in problems_of(data, encoding="rot13")[0].message
    assert "utf-16-le" in problems_of("id,n\n1,é\n".encode("utf-16-le"))[0].way_out


@pytest.mark.parametrize("given_", ["\t", "\\t", "tab"])
def test_a_given_delimiter_is_used(given_: str) -> None:
    """`delimiter` overrides what would be found, and a tab may be written in words."""
    assert read("id\ta;b;c\n1\tx;y;z\n", delimiter=given_).assets[0].columns["a;b;c"] == "x;y;z"
    assert "one character" in problems_of("id,a\n1,2\n", delimiter="::")[0].way_out


def test_a_wrong_delimiter_is_suspected() -> None:
    """When the header is one cell that holds another delimiter, the way out says so."""
    problems = problems_of("id;name\n1;x\n", delimiter=",")
    assert any("sheet.delimiter" in problem.way_out for problem in problems)


def test_lines_are_counted_through_quoted_newlines_and_blank_lines() -> None:
    """A row's number is the line its record begins on."""
    sheet = read('id,text\n1,"a\nb\n\nc"\n\n2,x\n,\n3,"d\r\ne"\n4,y\n')
    assert [(a.id, a.rows) for a in sheet.assets] == [("1", (2,)), ("2", (7,)), ("3", (9,)), ("4", (11,))]
    assert sheet.num_rows == 4
    assert read("id,a\r1,x\r2,y").assets[1].rows == (3,)


# --- columns ------------------------------------------------------------------------------------------------


def test_columns_are_mapped_and_the_others_keep_their_names() -> None:
    """Templates see mapped names; one header may serve two names."""
    sheet = read("SKU,Title,x\n1,Sword,y\n", id="sku", columns={"sku": "SKU", "title": "Title", "name": "Title"})
    assert sheet.headers == ("sku", "title", "name", "x")
    assert sheet.assets[0].columns == {"sku": "1", "title": "Sword", "name": "Sword", "x": "y"}


def test_headers_are_stripped_but_texts_are_not() -> None:
    """White space around a header is nobody's intention; in a text it may be."""
    assert read(" id , name\n 1, x \n").assets[0].columns == {"id": " 1", "name": " x "}


def test_a_file_without_headers_is_named() -> None:
    """`header: false` takes the first row as data and the columns from `names`."""
    sheet = read("1,x\n2,y\n", header=False, names=("id", "name"))
    assert [(a.id, a.columns["name"], a.rows) for a in sheet.assets] == [("1", "x", (1,)), ("2", "y", (2,))]
    (problem,) = problems_of("1,x,z\n2,y,z\n", header=False, names=("id", "name"), max_bad_rows=1.0)
    assert "names" in problem.message
    assert problem.row == 1


def test_all_faults_of_a_header_are_told_at_once() -> None:
    """Doubled, missing, blank and clashing headers come together, each with its place."""
    problems = problems_of(
        "\n\nsku,name,name,,title\n1,a,b,stray,t\n",
        id="id",
        columns={"colour": "Color", "title": "name"},
        overrides={"seed": "sed"},
    )
    said = {(problem.column, problem.row): problem for problem in problems}
    assert "columns B and C" in said["name", 3].message
    assert "no such column" in said["id", 3].message
    assert "no such column" in said["Color", 3].message
    assert "no such column" in said["sed", 3].message
    assert "of that name too" in said["title", 3].message
    assert "no header" in said["D", 4].message


def test_a_near_header_is_suggested_and_a_renamed_one_explained() -> None:
    """The way out of a misspelt column is its likely spelling."""
    assert "did you mean 'Handle'" in problems_of("Handle,t\n1,x\n", id="handel")[0].way_out
    assert "'sku'" in problems_of("Handle,t\n1,x\n", id="Handle", columns={"sku": "Handle"})[0].way_out


def test_a_blank_header_over_an_empty_column_is_nothing() -> None:
    """Trailing delimiters that make an empty column are dropped."""
    assert read("id,name,\n1,x,\n").headers == ("id", "name")


# --- rows ---------------------------------------------------------------------------------------------------


def test_all_bad_rows_are_told_at_once_with_row_column_and_value() -> None:
    """Empty, hidden, colliding ids, shifted rows and invalid overrides of one sheet come in one error."""
    rows = ["id,name,seed,size", "A,x,-1,big", " ,x,,", "b\x07,x,,", "Straße,x,,", "STRASSE,x,,", "c,x,y,z,1", "d,x"]
    problems = problems_of("\n".join(rows), overrides={"seed": "seed", "size": "size"})
    found = [(problem.row, problem.column, problem.value) for problem in problems]
    assert found == [
        (2, "seed", "-1"),
        (2, "size", "big"),
        (3, "id", " "),
        (4, "id", "b\x07"),
        (5, "id", "Straße"),
        (6, "id", "STRASSE"),
        (7, "", None),
        (8, "", None),
        (None, "", None),
    ]
    assert "row 6 ('STRASSE')" in problems[4].message
    assert "row 5 ('Straße')" in problems[5].message
    assert "5 cells" in problems[6].message
    assert "7 of 7 rows" in problems[-1].message


def test_few_bad_rows_are_skipped_and_returned() -> None:
    """Below `max_bad_rows` the rest is read; what was skipped is known and may not count as removed."""
    lines = ["id,name,seed", *(f"{i},x,{i}" for i in range(200))]
    lines[50] = "49,x,many"
    lines[60] = "59,x,1,shifted"
    sheet = read("\n".join(lines), overrides={"seed": "seed"})
    assert [problem.row for problem in sheet.bad_rows] == [51, 61]
    assert len(sheet.assets) == 198
    assert sheet.num_rows == 200
    assert {"49", "59"} <= sheet.skipped_ids
    lines[70] = "69,x,many"
    assert len(problems_of("\n".join(lines), overrides={"seed": "seed"})) == 4


def test_colliding_rows_are_all_skipped() -> None:
    """Of two rows with one id nobody knows which is meant: neither is used, both are named."""
    sheet = read("id,a\nﬁsh,1\nFISH,2\nx,3\n", max_bad_rows=1.0)
    assert [a.id for a in sheet.assets] == ["x"]
    assert [problem.row for problem in sheet.bad_rows] == [2, 3]
    assert sheet.skipped_ids == {"fish"}
    half = read("id,a,seed\nx,1,\nX,2,no\ny,3,\n", max_bad_rows=1.0, overrides={"seed": "seed"})
    assert [problem.row for problem in half.bad_rows] == [2, 3]


def test_fifty_thousand_rows_of_one_id_are_told_in_time() -> None:
    """Naming collisions takes no time that grows with their square."""
    start = time.perf_counter()
    problems = problems_of("id,a\n" + "x,1\n" * 50_000)
    assert "and 49994 more" in problems[0].message
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("character", ["\0", "\x1b", "\u202e", "\u200b", "\ufeff", "\u2028"])
def test_ids_nobody_can_read_are_refused(character: str) -> None:
    """Control, direction and zero-width characters in an id are named by their code."""
    sheet = read(f"id,a\nx{character}y,1\nz,2\n", max_bad_rows=0.5)
    assert f"U+{ord(character):04X}" in sheet.bad_rows[0].message
    assert [a.id for a in sheet.assets] == ["z"]


def test_nul_in_a_text_is_a_bad_row() -> None:
    """NUL is no text anywhere."""
    assert read("id,a\nx,1\0\ny,2\n", max_bad_rows=0.5).bad_rows[0].column == "a"


def test_strange_but_legal_ids_stay() -> None:
    """Ids are never paths, so anything a person can read may be one."""
    ids = ["../x", "CON", "a/b", "=1+1", "👩‍👩‍👧", "é", "x" * 1025]
    assert [a.id for a in read(as_csv([["id"], *([i] for i in ids)])).assets] == ids


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('1,"open\n2,x\n', "never closed"),
        ('1,"a"b\n2,x\n', "don't match up"),
        ('1,"' + "x" * 200_000 + '"\n2,x\n', "more than"),
    ],
)
def test_broken_quotes_are_never_a_matter_of_one_row(body: str, message: str) -> None:
    """Rows after a broken quotation can't be told apart, so the whole file is refused, with the line."""
    (problem,) = problems_of("id,a\n0,x\n" + body, max_bad_rows=1.0)
    assert message in problem.message
    assert problem.row == 3


def test_a_header_that_misses_a_column_is_one_problem() -> None:
    """Thousands of rows that are all alike in their width are the header's fault."""
    problems = problems_of("id,a\n" + "1,2,3\n" * 1000, max_bad_rows=1.0)
    assert len(problems) == 1
    assert "1000 of 1000 rows have 3 cells" in problems[0].message


# --- overrides ----------------------------------------------------------------------------------------------


def test_rows_override_settings() -> None:
    """Every override is read; empty cells override nothing."""
    columns = {name: name for name in ("seed", "size", "negative", "candidates", "priority")}
    sheet = read(
        "id,seed,size,negative,candidates,priority\na,7,512x768,no blur,16,-2\nb,,512,,,\nc,,,,,\nd, 4294967295 ,64 X 32,,1,+5\n",
        overrides=columns,
    )
    assert [a.overrides for a in sheet.assets] == [
        Overrides(7, 512, 768, "no blur", 16, -2),
        Overrides(width=512, height=512),
        Overrides(),
        Overrides(seed=4294967295, width=64, height=32, candidates=1, priority=5),
    ]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("seed", "4294967296"), ("seed", "1.0"), ("seed", "1e5"), ("seed", "١٢"), ("seed", "1_000"), ("seed", "9" * 5000),
        ("size", "512x"), ("size", "7"), ("size", "20000"), ("size", "512px"), ("size", "1x2x3"),
        ("candidates", "0"), ("candidates", "1025"), ("candidates", "four"),
        ("priority", "high"), ("priority", "10000000"),
    ],
)  # fmt: skip
def test_invalid_overrides_name_the_cell(setting: str, text: str) -> None:
    """An override that cannot be read is a problem with row, column, value and the bounds."""
    sheet = (
        read(f"id,x\na,1\nb,{text}\n", overrides={setting: "x"}, max_bad_rows=0.5)
        if setting != "size"
        else read(f"id,x\na,64\nb,{text}\n", overrides={setting: "x"}, max_bad_rows=0.5)
    )
    (problem,) = sheet.bad_rows
    assert (problem.row, problem.column, problem.value) == (3, "x", text)
    assert "leave the cell empty" in problem.way_out


# --- folding ------------------------------------------------------------------------------------------------


def test_rows_of_one_id_are_folded() -> None:
    """The first text of each column counts, all distinct ones are kept, rows need not be neighbours."""
    sheet = read("id,title,size,note\na,Tee,S,\nb,Mug,,\nA ,,M,n1\na,,S,n1\na,Tee,L,\n", fold=True)
    first, second = sheet.assets
    assert first.columns == {"id": "a", "title": "Tee", "size": "S", "note": "n1"}
    assert first.values == {"size": ("S", "M", "L")}
    assert first.rows == (2, 4, 5, 6)
    assert (second.id, second.rows, second.values) == ("b", (3,), {})


def test_folded_overrides_may_not_contradict() -> None:
    """One of several rows may say it, two may not say different things; the asset is skipped whole."""
    config: dict[str, Any] = {"overrides": {"seed": "seed", "size": "size"}, "fold": True, "max_bad_rows": 0.9}
    assert read("id,seed,size\na,,64\na,5,\na,5,\n", **config).assets[0].overrides == Overrides(5, 64, 64)
    sheet = read("id,seed,size\na,1,\na,2,\nb,,\n", **config)
    assert [a.id for a in sheet.assets] == ["b"]
    assert (sheet.bad_rows[0].row, sheet.bad_rows[0].value) == (3, "2")
    assert sheet.skipped_ids == {"a"}


def test_an_asset_with_a_bad_row_is_skipped_whole() -> None:
    """Half an asset would be another asset: its good rows are not used either, and that is said."""
    sheet = read("id,seed\na,\na,x\na,\nb,\n", overrides={"seed": "seed"}, fold=True, max_bad_rows=0.9)
    assert [a.id for a in sheet.assets] == ["b"]
    assert [problem.row for problem in sheet.bad_rows] == [2, 3]


# --- whole files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"id,name\n", b"id,name\n,\n ,\n"])
def test_a_sheet_without_rows_is_an_error(data: bytes) -> None:
    """A truncated sheet must not look like a wish to remove everything."""
    assert problems_of(data)


@pytest.mark.parametrize(
    "data",
    [b"%PDF-1.7\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512, b"<!DOCTYPE html><html>", b"\x89PNG\r\n", b"\0" * 64,
     b"PAR1 no", b"PK\x03\x04 no", b"\x1f\x8b\x08\0"],
)  # fmt: skip
def test_files_that_are_no_sheet_are_refused(data: bytes) -> None:
    """Content decides, not the ending."""
    assert len(problems_of(data)) == 1


def test_files_are_read_once_within_limits(tmp_path: Path) -> None:
    """Missing files, folders and large files are refused; the fingerprint is that of the bytes."""
    path = tmp_path / "s.csv"
    for bad in (path, tmp_path):
        with pytest.raises(InputError, match="sheet.path"):
            read_sheet_file(make_config(), bad)
    path.write_bytes(b"id,a\n1,x\n")
    data = read_sheet_file(make_config(), path)
    path.write_bytes(b"id,a\n2,y\n")
    assert [a.id for a in read_assets(make_config(), path, data).assets] == ["1"]
    assert read_assets(make_config(), path).fingerprint != read_assets(make_config(), path, data).fingerprint
    with pytest.raises(InputError, match="max_bytes"):
        read_assets(make_config(max_bytes=4), path)
    with pytest.raises(InputError, match="max_cells"):
        read(b"id,a\n" + b"1,x\n" * 10, max_cells=12)


def test_a_hundred_thousand_rows_are_read_in_time() -> None:
    """100,000 × 12 cells take about a second and a half on two busy cores; the bound leaves room for noise."""
    head = "id,name,object,colour,pattern,style,ground,rarity,description,notes,seed,size\n"
    row = "{0:06},Thing {0},potion,red,plain,flat,white,rare,A fine and long description of thing {0},n,,\n"
    data = (head + "".join(row.format(i) for i in range(100_000))).encode()
    start = time.process_time()
    sheet = read(data, overrides={"seed": "seed", "size": "size"})
    assert time.process_time() - start < 6
    assert len(sheet.assets) == 100_000


# --- workbooks ----------------------------------------------------------------------------------------------


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


def test_text_of_covers_what_parquet_can_hold() -> None:
    """Decimals keep their zeros, missing values are empty."""
    assert text_of(Decimal("1.50")) == "1.50"
    assert text_of(float("nan")) == text_of(None) == ""
    assert text_of(-0.0) == "0"
    assert text_of(dt.timedelta(seconds=-90)) == "-0:01:30"
    assert [column_letter(i) for i in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


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


def timed_problem(data: bytes, **settings_: Any) -> Problem:
    start = time.perf_counter()
    problems = problems_of(data, **settings_)
    assert time.perf_counter() - start < 2
    assert len(problems) == 1
    return problems[0]


def test_one_far_cell_is_refused_at_once() -> None:
    """1.4 KB that claim seventeen billion cells are refused before any grid is made."""
    small = as_xlsx([["id"], ["a"]])
    data = change_sheet(small, b"</sheetData>", b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>')
    problem = timed_problem(data)
    assert "1,048,576 rows" in problem.message
    assert "max_cells" in problem.way_out
    prefixed = change_sheet(data, b'<c r="XFD1048576"><v>1</v></c>', b'<x:c xmlns:x="u" r="XFD1048576"/>')
    assert "1,048,576 rows" in timed_problem(prefixed).message


def test_zip_bombs_are_refused_at_once() -> None:
    """A part that unpacks to hundreds of times its size is refused by the directory, or cut off when that lies."""
    small = as_xlsx([["id"], ["a"]])
    bomb = repack(small, {"xl/bomb.xml": b" " * 40_000_000})
    assert "max_ratio" in timed_problem(bomb).message
    assert "max_bytes" in timed_problem(bomb, max_bytes=1_000_000).message
    sheet = b"<worksheet>" + b" " * 30_000_000 + b"</worksheet>"
    lying = repack(small, {SHEET: sheet}).replace(len(sheet).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    timed_problem(lying)


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


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "part", [SHEET, "xl/workbook.xml", "xl/styles.xml", "xl/_rels/workbook.xml.rels", "xl/sharedStrings.xml"]
)
def test_entities_are_refused_in_every_part(part: str) -> None:
    """No document type, no entity bomb, no external entity."""
    link = b'<Relationship Id="rId99" Type="http://x/sharedStrings" Target="/xl/sharedStrings.xml"/></Relationships>'
    data = repack(as_xlsx([["id"], ["a"]]), {
        "xl/_rels/workbook.xml.rels": lambda old: old.replace(b"</Relationships>", link),
        "xl/sharedStrings.xml": b"<sst><si><t>x</t></si></sst>",
    })  # fmt: skip
    assert read(data).assets
    bad = repack(
        data, {part: lambda old: ENTITIES + old.partition(b"?>")[2] if old.startswith(b"<?xml") else ENTITIES + old}
    )
    assert "declares entities" in timed_problem(bad).message


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


def test_damaged_archives_are_refused() -> None:
    """A cut or flipped workbook, two parts of one name, an unusual packing and a plain zip are named as such."""
    good = as_xlsx([["id"], ["a"]])
    assert "broken" in problems_of(good[:-100])[0].message
    at = good.index(SHEET.encode()) + len(SHEET) + 20
    assert problems_of(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
    assert "of one name" in problems_of(repack(good, {SHEET.upper(): b"<worksheet/>"}))[0].message
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("xl/workbook.xml", b"<workbook/>")
    assert "unusual way" in problems_of(other.getvalue())[0].message
    assert "neither" in problems_of(repack(b"PK\x05\x06" + b"\0" * 18, {"a.txt": b"x"}))[0].message


# --- OpenDocument -------------------------------------------------------------------------------------------

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
        f'<office:document-content xmlns:office="{OFFICE}" xmlns:table="{TABLE}" xmlns:text="{TEXT}" xmlns:calcext="{CALCEXT}">'
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


HEAD = [text_cell("id"), text_cell("v")]


def test_ods_values_read_as_a_person_reads_them() -> None:
    """Numbers, dates, durations and truth values of LibreOffice; its million trailing blank rows are nothing."""
    values = [
        'office:value-type="float" office:value="123"', 'office:value-type="date" office:date-value="2024-01-02"',
        'office:value-type="time" office:time-value="PT30H04M05S"', 'office:value-type="boolean" office:boolean-value="true"',
    ]  # fmt: skip
    rows = [HEAD, *([text_cell(f"r{i}"), f"<table:table-cell {value}/>"] for i, value in enumerate(values))]
    blank = '<table:table-row table:number-rows-repeated="1048000"><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    sheet = read(as_ods(rows, blank), "s.ods")
    assert [a.columns["v"] for a in sheet.assets] == ["123", "2024-01-02", "30:04:05", "TRUE"]
    assert sheet.num_rows == 4


def test_ods_errors_and_uncached_formulas_are_found() -> None:
    """The same two faults that XLSX has."""
    wrong = '<table:table-cell table:formula="of:=NA()" office:value-type="string" calcext:value-type="error"><text:p>#N/A</text:p></table:table-cell>'
    sheet = read(as_ods([HEAD, [text_cell("a"), wrong], [text_cell("b"), text_cell("x")]]), max_bad_rows=0.5)
    assert [(p.row, p.column, p.value) for p in sheet.bad_rows] == [(2, "v", "#N/A")]
    bare = '<table:table-cell table:formula="of:=1+1"/>'
    (problem,) = problems_of(as_ods([HEAD, [text_cell("a"), bare]]), max_bad_rows=1.0)
    assert (problem.row, problem.column, problem.sheet) == (2, "B", "Blatt 1")


@pytest.mark.parametrize(
    "after",
    [
        f'<table:table-row table:number-rows-repeated="1000000000">{text_cell("x")}</table:table-row>',
        f"<table:table-row>{text_cell('x', ' table:number-columns-repeated=' + chr(34) + '1000000000' + chr(34))}</table:table-row>",
        '<table:table-row table:number-rows-repeated="1000000000"><table:table-cell/></table:table-row>'
        f"<table:table-row>{text_cell('x')}</table:table-row>",
        f'<table:table-row table:number-rows-repeated="100000">{text_cell("x" * 30_000)}</table:table-row>',
    ],
)
def test_ods_repeats_cannot_swell(after: str) -> None:
    """Repeated cells, rows and texts count as often as they repeat."""
    timed_problem(as_ods([HEAD, [text_cell("a"), text_cell("b")]], after))


# --- Parquet ------------------------------------------------------------------------------------------------


def as_parquet(columns: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_parquet_values_read_as_a_person_reads_them() -> None:
    """Numbers, dates, categories and nulls of typed columns; rows are counted from one."""
    import pyarrow as pa

    data = as_parquet(
        {
            "id": [1, 2],
            "price": pa.array([1.5, None]),
            "small": pa.array([0.1, 3.0], pa.float32()),
            "kind": pa.array(["a", None]).dictionary_encode(),
            "day": [dt.date(2024, 1, 2), None],
            "at": pa.array([dt.datetime(2024, 1, 2), dt.datetime(2024, 1, 2, 3)], pa.timestamp("us")),
            "ok": [True, False],
            "cost": [Decimal("1.50"), None],
        }
    )
    sheet = read(data, "s.parquet")
    one, two = (tuple(a.columns.values()) for a in sheet.assets)
    assert one == ("1", "1.5", "0.1", "a", "2024-01-02", "2024-01-02", "TRUE", "1.50")
    assert two == ("2", "", "3", "", "", "2024-01-02 03:00:00", "FALSE", "")
    assert [a.rows for a in sheet.assets] == [(1,), (2,)]


def test_parquet_columns_without_one_text_are_refused() -> None:
    """Lists and bytes have no one text; every such column is named."""
    problems = problems_of(as_parquet({"id": ["a"], "tags": [["x"]], "raw": [b"x"]}))
    assert [problem.column for problem in problems] == ["tags", "raw"]
    assert "max_cells" in problems_of(as_parquet({"id": ["a"] * 100}), max_cells=50)[0].message
    assert problems_of(as_parquet({"id": ["a"] * 100})[:-50])


# --- the shipped samples ------------------------------------------------------------------------------------


def test_the_shipped_game_assets_are_a_sheet() -> None:
    """48 assets of the starter's world, some with a seed or more candidates of their own."""
    sheet = read_assets(
        make_config(overrides={"seed": "seed", "candidates": "candidates"}), SAMPLES / "game-assets.csv"
    )
    assert len(sheet.assets) == 48
    assert not sheet.bad_rows
    assert {"00123", "pack-1E5"} <= {a.id for a in sheet.assets}
    assert {a.overrides.candidates for a in sheet.assets} == {None, 8}
    assert any(a.overrides.seed for a in sheet.assets)


def test_the_shipped_product_export_folds() -> None:
    """Our own shop in Shopify's format: variants fold into twenty products."""
    config = make_config(id="handle", fold=True, columns={"handle": "Handle", "title": "Title", "body": "Body (HTML)"})
    sheet = read_assets(config, SAMPLES / "product-shots.csv")
    assert (len(sheet.assets), sheet.num_rows, len(sheet.headers)) == (20, 43, 47)
    tee = next(a for a in sheet.assets if a.id == "everyday-tee")
    assert tee.values["Option1 Value"] == ("S", "M", "L", "XL")
    assert all(a.columns["title"] and a.columns["Type"] for a in sheet.assets)
    assert len({fold_id(a.id) for a in sheet.assets}) == 20
