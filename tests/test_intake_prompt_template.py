"""One template file: what it needs, and what is wrong with it."""

from __future__ import annotations

import pytest

from assetmill.intake.chance import Choices
from assetmill.intake.prompt_template import AssetTexts, PromptTemplate, read_template
from assetmill.intake.wildcards import WordLists
from assetmill.records import Asset, InputError

WORDS = WordLists({"colour": Choices(["red", "blue"])})


def read(text: str, axis_names: tuple[str, ...] = ()) -> PromptTemplate:
    return read_template("templates/mug.j2", text, text.encode(), WORDS, axis_names)


def test_columns_are_all_that_the_sheet_must_give() -> None:
    """Columns of every text and of axes, with their first line; axes themselves are none."""
    template = read(
        "---\nnegative: '{{ bad }}'\nrank_text: '{{ name }} {{ locale }}'\naxes:\n  size: {from: sizes}\n"
        "  mood: [calm]\n---\n{{ mood }} {{ size }}\n{{ name }} {{ row['A b'] }} {{ values.tags|join }}\n",
        ("locale",),
    )
    assert template.name == "mug"
    assert template.columns == {"sizes": 5, "bad": 2, "name": 9, "A b": 9, "tags": 9}
    assert template.axes.names == ("size", "mood")


def test_missing_columns_come_all_at_once() -> None:
    """Each missing column is named with file, line and what was probably meant; axes may not hide columns."""
    template = read(
        "---\naxes: {mood: [calm], size: {from: size}}\n---\n{{ titel }}\n{{ option1_value }} {{ mood }}{{ size }}"
    )
    problems = list(template.check(["Title", "title", "Option1 Value", "mood", "size"]))
    assert [(p.file, p.row, p.column, p.way_out) for p in problems] == [
        ("templates/mug.j2", 4, "titel", "did you mean 'title'?"),
        ("templates/mug.j2", 5, "option1_value", 'did you mean row["Option1 Value"]?'),
        ("templates/mug.j2", 2, "mood", "rename the axis"),
    ]
    optional = read("{{ a }}{% if b is defined %}{{ b }}{% endif %}")
    assert list(optional.check(["a"])) == []


def test_gaps_are_unguarded_and_not_stood_in_for() -> None:
    """An empty column is a gap where nothing tests it, gives it a default or lets another stand in."""
    template = read("{{ a }} {{ b|default('x') }} {% if c %}{{ c }}{% endif %} {{ d|default(e) }}")
    assert template.gaps(AssetTexts(Asset("k", {}), {})) == ("a", "e")
    assert template.gaps(AssetTexts(Asset("k", {"a": " x ", "d": "y"}), {})) == ()


def test_texts_follow_the_locale() -> None:
    """A locale's columns stand in for others, folded values included."""
    asset = Asset("k", {"t": " one ", "t_de": "eins"}, values={"t_de": ("eins", "zwei")})
    texts = AssetTexts(asset, {"t": "t_de"})
    assert (texts.one("t"), texts.all("t"), texts.has("t")) == ("eins", ("eins", "zwei"), True)
    plain = AssetTexts(asset, {})
    assert (plain.one("t"), plain.all("t"), plain.all("x"), plain.has("x")) == ("one", (" one ",), (), False)


@pytest.mark.parametrize(
    ("text", "row", "message", "way_out"),
    [
        ("", None, "empty", "below the front matter"),
        ("---\nnegative: x\n---\n\n", None, "empty", "below the front matter"),
        ("---\naxes: {mood: [calm]}\n---\n{{ a }}", 2, "never used", "candidates"),
        ("a\n__color__", 2, "no word list 'color'", "__colour__"),
        ("---\nnegative: |\n  a\n  {{ b() }}\n---\nx", 4, "calls a function", "filters"),
        ("{{ a }}\n{{ b * 2 }}", 2, "calculates", "write the text out"),
    ],
)
def test_mistakes_have_line_and_way_out(text: str, row: int | None, message: str, way_out: str) -> None:
    """Mistakes in any part name the line of the file."""
    with pytest.raises(InputError) as raised:
        read(text)
    problem = raised.value.problems[0]
    assert (problem.file, problem.row) == ("templates/mug.j2", row)
    assert message in problem.message
    assert way_out in problem.way_out


def test_all_parts_are_judged() -> None:
    """Problems of axes, body, negative and rank text come together."""
    with pytest.raises(InputError) as raised:
        read("---\nnegative: '{{ a() }}'\nrank_text: '{{ a'\naxes: {b: []}\n---\n{{ 2 * 2 }}")
    assert sorted(p.row for p in raised.value.problems if p.row) == [2, 3, 4, 6]
