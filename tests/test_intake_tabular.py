"""Delimited text and Parquet become rows of text, verbatim."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assetmill.intake.tabular import column_letter, text_of
from sheet_files import (
    as_csv,
    as_parquet,
    problems_of,
    read,
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


def test_lines_are_counted_through_quoted_newlines_and_blank_lines() -> None:
    """A row's number is the line its record begins on."""
    sheet = read('id,text\n1,"a\nb\n\nc"\n\n2,x\n,\n3,"d\r\ne"\n4,y\n')
    assert [(a.id, a.rows) for a in sheet.assets] == [("1", (2,)), ("2", (7,)), ("3", (9,)), ("4", (11,))]
    assert sheet.num_rows == 4
    assert read("id,a\r1,x\r2,y").assets[1].rows == (3,)


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


def test_text_of_covers_what_parquet_can_hold() -> None:
    """Decimals keep their zeros, missing values are empty."""
    assert text_of(Decimal("1.50")) == "1.50"
    assert text_of(float("nan")) == text_of(None) == ""
    assert text_of(-0.0) == "0"
    assert text_of(dt.timedelta(seconds=-90)) == "-0:01:30"
    assert [column_letter(i) for i in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]


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
