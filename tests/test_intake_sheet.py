"""Rows become assets, and everything wrong with them is named in one go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from assetmill.intake.sheet import read_assets
from assetmill.records import Overrides, fold_id
from sheet_files import (
    as_csv,
    make_config,
    problems_of,
    read,
)

SAMPLES = Path(__file__).parents[1] / "configs" / "sheets"


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
    start = time.process_time()
    problems = problems_of("id,a\n" + "x,1\n" * 50_000)
    assert "and 49994 more" in problems[0].message
    assert time.process_time() - start < 10


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


def test_a_header_that_misses_a_column_is_one_problem() -> None:
    """Thousands of rows that are all alike in their width are the header's fault."""
    problems = problems_of("id,a\n" + "1,2,3\n" * 1000, max_bad_rows=1.0)
    assert len(problems) == 1
    assert "1000 of 1000 rows have 3 cells" in problems[0].message


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


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"id,name\n", b"id,name\n,\n ,\n"])
def test_a_sheet_without_rows_is_an_error(data: bytes) -> None:
    """A truncated sheet must not look like a wish to remove everything."""
    assert problems_of(data)


@pytest.mark.parametrize(
    "data",
    [b"%PDF-1.7\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512, b"<!DOCTYPE html><html>",
     b"\x89PNG\r\n", b"\0" * 64,
     b"PAR1 no", b"PK\x03\x04 no", b"\x1f\x8b\x08\0"],
)  # fmt: skip
def test_files_that_are_no_sheet_are_refused(data: bytes) -> None:
    """Content decides, not the ending."""
    assert len(problems_of(data)) == 1


def test_a_hundred_thousand_rows_are_read_in_time() -> None:
    """100,000 × 12 cells take about a second and a half on two busy cores; the bound leaves room for noise."""
    head = "id,name,object,colour,pattern,style,ground,rarity,description,notes,seed,size\n"
    row = "{0:06},Thing {0},potion,red,plain,flat,white,rare,A fine and long description of thing {0},n,,\n"
    data = (head + "".join(row.format(i) for i in range(100_000))).encode()
    start = time.process_time()
    sheet = read(data, overrides={"seed": "seed", "size": "size"})
    assert time.process_time() - start < 6
    assert len(sheet.assets) == 100_000


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
