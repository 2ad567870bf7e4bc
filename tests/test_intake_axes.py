"""Axes and their cells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.intake.axes import MAX_CELLS, Axes, Axis, AxisError, Cell, read_axes
from assetmill.intake.chance import Choices
from assetmill.intake.front_matter import read_template_file
from assetmill.intake.wildcards import WordLists
from assetmill.records import InputError

WORDS = WordLists({"material": Choices(["wood", "steel", "glass"], [3, 1, 1])})


def read(yaml: str) -> Axes:
    nodes = read_template_file(f"---\naxes:\n{yaml}\n---\nx", "t.j2").axes
    return read_axes(nodes or {}, "t.j2", WORDS)


def cells(axes: Axes, asset_id: str = "k1", seed: int = 0, **columns: Sequence[str]) -> list[Cell]:
    return axes.cells(asset_id, seed, lambda column: columns.get(column, ()))


def test_all_modes_mix_in_declared_order() -> None:
    """Product, sample and zip mix freely: the last axis runs fastest and cells keep the declared order."""
    axes = read(
        "  angle: [front, side]\n  light: {values: [dawn, noon], mode: zip}\n"
        "  mood: {values: {calm: 3, fierce: 1}, mode: sample}\n  ground: {values: [meadow, beach], mode: zip}\n"
        "  size: {from: sizes}"
    )
    found = cells(axes, sizes=("S", "L", "S", " "))
    assert len(found) == 2 * 2 * 1 * 2
    assert [tuple(cell) for cell in found] == [("angle", "light", "mood", "ground", "size")] * 8
    assert [(c["angle"], c["light"], c["ground"], c["size"]) for c in found[:5]] == [
        ("front", "dawn", "meadow", "S"),
        ("front", "dawn", "meadow", "L"),
        ("front", "noon", "beach", "S"),
        ("front", "noon", "beach", "L"),
        ("side", "dawn", "meadow", "S"),
    ]
    assert len({cell["mood"] for cell in found}) == 1


def test_values_stay_verbatim() -> None:
    """YAML's scalars are texts here: no octal, no booleans, no sixty-based times."""
    assert cells(read("  a: [007, true, 1e3, 12:30, no, 1_0]")) == [
        {"a": v} for v in ("007", "true", "1e3", "12:30", "no", "1_0")
    ]


def test_columns_and_word_lists_give_values() -> None:
    """An axis takes its values from a cell cut at a separator, from folded rows, or from a word list."""
    axes = read('  size: {from: sizes, split: ";", default: one size}')
    assert cells(axes, sizes=("S; M",)) == [{"size": "S"}, {"size": "M"}]
    assert cells(axes) == [{"size": "one size"}]
    assert cells(read("  m: {wildcard: material}")) == [{"m": "wood"}, {"m": "steel"}, {"m": "glass"}]
    picked = cells(read("  m: {wildcard: material, mode: sample, pick: 2}"))
    assert len(picked) == 2
    with pytest.raises(AxisError, match="empty cell") as raised:
        cells(read("  size: {from: sizes}"))
    assert raised.value.column == "sizes"


def test_samples_follow_weights_and_nothing_else() -> None:
    """A sample depends on seed, asset and axis name: not on other axes; over many assets it follows the weights."""
    alone = read("  mood: {values: [calm, fierce], weights: [3, 1], mode: sample}")
    beside = read("  angle: [a, b]\n  mood: {values: {calm: 3, fierce: 1}, mode: sample}")
    counts: Counter[str] = Counter()
    for i in range(2000):
        (cell,) = cells(alone, f"k{i}", 5)
        counts[cell["mood"]] += 1
        if i < 50:
            assert {c["mood"] for c in cells(beside, f"k{i}", 5)} == {cell["mood"]}
    assert 0.70 < counts["calm"] / 2000 < 0.80
    assert len({tuple(c["mood"] for c in cells(alone, "k1", seed)) for seed in range(30)}) == 2


axis_values = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4, unique=True)


@settings(deadline=None)
@given(st.lists(axis_values, max_size=3), st.lists(axis_values, max_size=2), st.integers(1, 4), st.text(max_size=4))
def test_the_number_of_cells(alls: list[list[str]], samples: list[list[str]], pick: int, asset_id: str) -> None:
    """There are as many cells as the product says, all distinct, all over every axis, the same each time."""
    axes = [Axis(f"a{i}", 1, values=tuple(v)) for i, v in enumerate(alls)]
    for i, v in enumerate(samples):
        axes.append(Axis(f"s{i}", 1, mode="sample", values=tuple(v), pick=pick, choices=Choices(v)))
    axes.append(Axis("z0", 1, mode="zip", values=("x", "y"), group="g"))
    axes.append(Axis("z1", 1, mode="zip", values=("p", "q"), group="g"))
    found = cells(Axes(axes), asset_id)
    assert len(found) == math.prod(map(len, alls)) * math.prod(min(pick, len(v)) for v in samples) * 2
    assert len({tuple(cell.items()) for cell in found}) == len(found)
    assert all(tuple(cell) == tuple(axis.name for axis in axes) for cell in found)
    assert all((cell["z0"] == "x") == (cell["z1"] == "p") for cell in found)
    assert cells(Axes(axes), asset_id) == found


@pytest.mark.parametrize(
    ("yaml", "message", "way_out"),
    [
        ("  a: front", "not a list", "[front, side]"),
        ("  a: []", "no values", "at least one"),
        ("  a: [x, x]", "'x' is given twice", "take one out"),
        ("  a: [[x]]", "something else than a text", "plain texts"),
        ("  row: [x]", "cannot name an axis", "angle"),
        ("  locale: [x]", "cannot name an axis", "angle"),
        ("  a b: [x]", "cannot name an axis", "angle"),
        ("  a: {value: [x]}", "unknown key 'value'", "did you mean 'values'?"),
        ("  a: {mode: all}", "exactly one of", "one of them"),
        ("  a: {values: [x], from: y}", "exactly one of", "one of them"),
        ("  a: {values: [x], mode: samples}", "unknown mode", "did you mean 'sample'?"),
        ("  a: {values: [x], pick: 1}", "`pick` means nothing", "mode: sample"),
        ("  a: {values: [x, y], mode: sample, pick: 3}", "pick is 3 and there are 2", "fewer"),
        ("  a: {values: [x], mode: sample, pick: 0}", "pick is '0'", "from 1 up"),
        ("  a: {values: [x], weights: [1]}", "weights mean nothing", "mode: sample"),
        ("  a: {values: [x, y], weights: [1], mode: sample}", "not a list of 2", "per value"),
        ("  a: {values: {x: many}, mode: sample}", "'many' is not a number", "from 0 up"),
        ("  a: {values: {x: 0}, mode: sample}", "nothing to draw", "weights"),
        ("  a: {wildcard: materal}", "no word list", "did you mean __material__?"),
        ("  a: {values: [x], split: ';'}", "`split` is for axes", "take"),
        ("  a: {values: [x, y], mode: zip}\n  b: {values: [z], mode: zip}", "have 2 and 1 values", "equally many"),
        ("  a: {values: [x, y], mode: zip}\n  b: {values: [z], mode: zip}\n  c: {from: d}", "have 2 and 1", "equally"),
        ("\n".join(f"  a{i}: [{', '.join(map(str, range(20)))}]" for i in range(3)), "8,000 cells", "mode: sample"),
    ],
)
def test_mistakes_are_named_with_line_and_way_out(yaml: str, message: str, way_out: str) -> None:
    """Whatever is wrong in `axes` is refused when the template is read."""
    with pytest.raises(InputError) as raised:
        read(yaml)
    problem = raised.value.problems[0]
    assert message in problem.message
    assert way_out in problem.way_out
    assert problem.row == 3
    assert problem.column.startswith("axes")


def test_columns_cannot_explode() -> None:
    """Cells from columns are counted before they are made."""
    axes = read("  a: {from: x}\n  b: {from: x}\n  c: {from: x}")
    with pytest.raises(AxisError, match=f"more than {MAX_CELLS:,}"):
        cells(axes, x=[str(i) for i in range(1000)])
