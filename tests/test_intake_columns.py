"""Headers and overrides mean what the config says, or every fault is told."""

from __future__ import annotations

import pytest

from assetmill.records import EngineOverrides, Overrides
from sheet_files import (
    problems_of,
    read,
)


def test_a_wrong_delimiter_is_suspected() -> None:
    """When the header is one cell that holds another delimiter, the way out says so."""
    problems = problems_of("id;name\n1;x\n", delimiter=",")
    assert any("sheet.delimiter" in problem.way_out for problem in problems)


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


def test_rows_override_settings() -> None:
    """Every override is read; empty cells override nothing."""
    columns = {name: name for name in ("seed", "size", "negative", "candidates", "priority")}
    sheet = read(
        "id,seed,size,negative,candidates,priority\na,7,512x768,no blur,16,-2\nb,,512,,,\n"
        "c,,,,,\nd, 4294967295 ,64 X 32,,1,+5\n",
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
        ("seed", "4294967296"), ("seed", "1.0"), ("seed", "1e5"), ("seed", "١٢"), ("seed", "1_000"),
        ("seed", "9" * 5000),
        ("size", "512x"), ("size", "7"), ("size", "20000"), ("size", "512px"), ("size", "1x2x3"),
        ("candidates", "0"), ("candidates", "1025"), ("candidates", "four"),
        ("priority", "high"), ("priority", "10000000"),
    ],
)  # fmt: skip
def test_invalid_overrides_name_the_cell(setting: str, text: str) -> None:
    """An override that cannot be read is a problem with row, column, value and the bounds."""
    sheet = read(f"id,x\na,64\nb,{text}\n", overrides={setting: "x"}, max_bad_rows=0.5)
    (problem,) = sheet.bad_rows
    assert (problem.row, problem.column, problem.value) == (3, "x", text)
    assert "leave the cell empty" in problem.way_out


_ENGINE_HEADERS = {
    "model": "engine", "operation": "op", "strength": "strength", "steps": "steps", "guidance": "cfg",
    "scheduler": "sampler", "image": "photo", "image_to": "photo2", "mask": "mask", "keep": "keep", "control": "map",
    "control_kind": "kind", "weight": "weight", "lora": "lora", "caption_to": "to",
}  # fmt: skip


def test_a_row_names_engine_and_operation() -> None:
    """Columns say which model, which operation and from what; a row that says nothing has no engine overrides."""
    header = ",".join(("id", *_ENGINE_HEADERS.values()))
    row = "a,night,Image To Image,0.6,12,7.5,DDIMScheduler,i/a.png,b.png,m.png,k.png,c.png,edge,.5,x.safetensors:0.8,ax"
    sheet = read(f"{header}\n{row}\nb{',' * len(_ENGINE_HEADERS)}\n", overrides=_ENGINE_HEADERS)
    assert sheet.assets[0].overrides.engine == EngineOverrides(
        "night", "image-to-image", 0.6, 12, 7.5, "DDIMScheduler", "i/a.png", "b.png", "m.png", "k.png", "c.png", "edge",
        0.5, (("x.safetensors", 0.8),), "ax",
    )  # fmt: skip
    assert sheet.assets[1].overrides == Overrides()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("style.safetensors", (("style.safetensors", 1.0),)),
        ("a b.safetensors : 0.5 ; c.safetensors:-.25;", (("a b.safetensors", 0.5), ("c.safetensors", -0.25))),
        ("C:/lora/a.safetensors:2", (("C:/lora/a.safetensors", 2.0),)),
    ],
)
def test_adapters_carry_weights(text: str, found: tuple[tuple[str, float], ...]) -> None:
    """Several adapters stand in a cell, each with a weight behind a colon, 1 if left out."""
    engine = read(f"id,lora\na,{text}\n", overrides={"lora": "lora"}).assets[0].overrides.engine
    assert engine is not None
    assert engine.lora == found


@pytest.mark.parametrize(
    ("setting", "text", "hint"),
    [
        ("operation", "paint", "write one of text-to-image, image-to-image"),
        ("strength", "0", "a number above 0 to 1"),
        ("strength", "1.5", "a number above 0 to 1"),
        ("guidance", "nan", "a number from 0 to 100"),
        ("weight", "1e9", "a number from 0 to 2"),
        ("steps", "0", "a whole number from 1 to 1000"),
        ("lora", "style", "style.safetensors:0.8"),
        ("lora", "a.safetensors:x", "style.safetensors:0.8"),
    ],
)
def test_engine_columns_are_checked(setting: str, text: str, hint: str) -> None:
    """A text that a setting cannot be makes a bad row with the way out."""
    (problem,) = problems_of(f"id,x\na,{text}\n", overrides={setting: "x"})[:1]
    assert (problem.row, problem.column, problem.value) == (2, "x", text)
    assert hint in problem.way_out


def test_folded_rows_join_their_engine_settings() -> None:
    """Rows of one asset may each say a part; two that contradict each other are bad."""
    text = "id,image,op\na,x.png,\na,,inpaint\n"
    engine = read(text, fold=True, overrides={"image": "image", "operation": "op"}).assets[0].overrides.engine
    assert engine == EngineOverrides(image="x.png", operation="inpaint")
    (problem, *_) = problems_of("id,image\na,x.png\na,y.png\n", fold=True, overrides={"image": "image"})
    assert "row 2 of the same asset says otherwise" in problem.message
