"""Compiled texts and their filters."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.intake.template_text import RenderError, TemplateText, strip_tags


def render(source: str, **names: Any) -> str:
    return TemplateText(source, file="t.j2", first_line=1, what="prompt").render(names)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a {{ colour }} cup", "a red cup"),
        ("{{ colour|upper ~ '-' ~ size }}", "RED-10"),
        ("{{ empty|default('blue') }}/{{ colour|default('blue') }}/{{ empty|d(empty)|d('x') }}", "blue/red/x"),
        ("{{ row.colour }} {{ row['A b'] }}", "red x"),
        ("{{ row.items }}", "a column"),
        ("{% for s in values.sizes %}{{ s }}{{ ', ' if not loop.last else '' }}{% endfor %}", "S, M, L"),
        ("{{ values.sizes|join(' and ') }}", "S and M and L"),
        ("{{ values.sizes[1] }}{{ values.sizes[-1] }}{{ values.sizes[:2]|join }}", "MLS, M"),
        ("{{ values.none|first }}|{{ values.sizes|last }}", "|L"),
        ("{{ 'b, a,, A'|split(',')|unique|sort|join('/') }}", "a/b"),
        ("{{ 'one two three'|truncate(9) }}.{{ 'one two three'|truncate(9, true) }}", "one two.one two t"),
        ("{{ 'a-b'|replace('-', ' ') }}", "a b"),
        ("{{ 'x' if 'ed' in colour else 'y' }}{% if size == '10' and colour != 'x' %}z{% endif %}", "xz"),
        ("{% set c = colour|title %}{{ c }}", "Red"),
        ("{% if missing is defined %}a{% else %}b{% endif %}", "b"),
        ("{{ '<p>Soft &amp; warm</p><p>wool</p>'|striptags }}", "Soft & warm wool"),
        ("{# remark #}{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
    ],
)
def test_what_templates_can_say(source: str, expected: str) -> None:
    """The allowed language does what its words say."""
    row = {"colour": "red", "A b": "x", "items": "a column"}
    values = {"sizes": ("S", "M", "L"), "none": ()}
    assert render(source, colour="red", size="10", empty="", row=row, values=values) == expected


def test_cells_are_data() -> None:
    """A cell that looks like a template or like markup goes through untouched."""
    text = "{{ 7*7 }}{% include 'x' %}<b>&amp;"
    assert render("{{ x }}", x=text) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for x in values.many %}{{ x }}{% endfor %}", "a loop over 300 values"),
        ("{% for x in long %}{{ x }}{% endfor %}", "a loop takes several values"),
        ("{{ long }}", "grows over 8,000"),
        ("{% for x in values.some %}{{ long }}{% endfor %}", "grows over 8,000"),
        ("{{ long|join }}", "join takes several values"),
        ("{{ long|replace('', 'x') }}", "nothing to look for"),
        ("{{ long|replace('x', long) }}", "grows over 262,144"),
        ("{{ long|replace('x', 'xxxxxxxxxx')|replace('x', 'xxxxxxxxxx')|length }}", "grows over 262,144"),
        ("{% set a = long ~ long %}" + "{% set a = a ~ a %}" * 40 + "{{ a|length }}", "grows over 262,144"),
        ("{{ missing }}", "'missing' is undefined"),
        ("{{ values.some|truncate(long) }}", "cannot be rendered"),
    ],
)
def test_growth_and_mistakes_stop_with_a_line(source: str, message: str) -> None:
    """Long outputs and values, endless loops and mistakes stop quickly and name their line."""
    values = {"many": ("x",) * 300, "some": ("y",) * 5}
    started = time.perf_counter()
    with pytest.raises(RenderError, match=message) as raised:
        render("\n" + source, values=values, long="x" * 9000)
    assert time.perf_counter() - started < 2
    assert raised.value.line in (2, None)
    assert raised.value.way_out


@settings(deadline=None)
@given(st.text(alphabet="<>!-/abscript&;= \n", max_size=200))
def test_tags_are_stripped_from_anything(text: str) -> None:
    """Stripping never fails, gives one line, and leaves texts without < and & as they are."""
    stripped = strip_tags(text)
    assert stripped == " ".join(stripped.split())
    if "<" not in text and "&" not in text:
        assert stripped == " ".join(text.split())


@pytest.mark.parametrize("piece", ["<!--", "<script>", "<", "<a ", "&", "<!-- x -->"])
def test_stripping_hostile_markup_takes_linear_time(piece: str) -> None:
    """A megabyte of openings that never close is stripped in seconds."""
    started = time.perf_counter()
    strip_tags(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - started < 10


def test_scripts_styles_and_remarks_are_no_words() -> None:
    """What a browser doesn't show is not in the text."""
    markup = "<style>p{color:red}</style><p>Blue<!-- old --> mug</p><SCRIPT>alert(1)</SCRIPT> 3 < 4"
    assert strip_tags(markup) == "Blue mug 3 < 4"
