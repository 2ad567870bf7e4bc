"""The allow-list over parsed templates."""

from __future__ import annotations

import time

import pytest

from assetmill.intake.template_guard import FILTERS, TESTS
from assetmill.intake.template_text import TemplateText, new_environment
from assetmill.records import InputError


def compile_text(source: str) -> TemplateText:
    return TemplateText(source, file="t.j2", first_line=5, what="prompt")


HOSTILE = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ row.__class__ }}",
    "{{ row['x'].__class__ }}",
    "{{ x|attr('__class__') }}",
    "{{ 'a'*10**9 }}",
    "{{ 'a' * 1000000000 }}",
    "{{ [0]*10**9 }}",
    "{{ 2**2**2**2**2**2 }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'|indent(1000000000) }}",
    "{{ range(10**9)|list }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for a in values.x %}{% for b in values.x %}{{ a }}{% endfor %}{% endfor %}",
    "{% for a in values.x recursive %}{{ loop(a) }}{% endfor %}",
    "{% for a, b in values.x %}{{ a }}{% endfor %}",
    "{{ lipsum(n=100000) }}",
    "{{ cycler('a').next() }}",
    "{{ dict(a=1) }}",
    "{{ {'a': 1} }}",
    "{{ self }}{{ self._TemplateReference__context }}",
    "{{ loop }}",
    "{{ row }}",
    "{{ values }}",
    "{{ row[x] }}",
    "{{ x[x] }}",
    "{{ x[:y] }}",
    "{{ x.y }}",
    "{{ _concat }}",
    "{{ 'a'|_concat('b') }}",
    "{{ x|join(*y) }}",
    "{{ x is sameas y }}",
    "{{ -x }}",
    "{{ 1 + 1 }}",
    "{{ 99999999999 }}",
    "{{ x if y }}",
    "{% set row = 1 %}",
    "{% set a, b = x %}",
    "{% set a %}block{% endset %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% block x %}{% endblock %}",
    "{% macro x() %}{% endmacro %}",
    "{% call x() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
    "{% with a = 1 %}{% endwith %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ " + "(" * 3000 + "x" + ")" * 3000 + " }}",
    "{{ " + "not " * 3000 + "x }}",
    "{{ x" + "|upper" * 3000 + " }}",
    "{{ x" + "~x" * 5000 + " }}",
    "{{ " + "9" * 10000 + " }}",
    "{% if x %}" * 200 + "{% endif %}" * 200,
    "{% if %}",
    "{{ x",
    "{% nonsense %}",
    "x" * 70_000,
]


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:40])
def test_escapes_and_bombs_are_refused_at_once(source: str) -> None:
    """Nothing hostile is compiled: each is refused within a second, with the line and the way out."""
    started = time.perf_counter()
    with pytest.raises(InputError) as raised:
        compile_text("\n" + source)
    assert time.perf_counter() - started < 2
    for problem in raised.value.problems:
        assert problem.file == "t.j2"
        assert problem.way_out
        assert problem.row in (5, 6) or len(source) > 60_000


@pytest.mark.parametrize("piece", ["{%", "{#", "{{", "{{'", "{% raw %}", "{%-", "\\", "{{ x|"])
def test_broken_syntax_costs_no_time(piece: str) -> None:
    """Sixty thousand characters of broken tags are refused in seconds: the lexer is not quadratic."""
    started = time.perf_counter()
    try:
        compile_text(piece * (60_000 // len(piece)))
    except InputError:
        pass
    assert time.perf_counter() - started < 10


def test_all_refusals_at_once_with_lines() -> None:
    """Every refused construct is named, each with its line in the file."""
    with pytest.raises(InputError) as raised:
        compile_text("{{ a * 2 }}\n{{ b|uper }}\n\n{% include 'x' %}")
    assert [(p.row, p.way_out) for p in raised.value.problems] == [
        (5, "write the text out, or calculate in the sheet"),
        (6, "did you mean 'upper'?"),
        (8, "write it into this file: a template stands alone"),
    ]


def test_what_a_text_uses() -> None:
    """Names are told apart by the way they are looked up and by how they are provided for."""
    uses = compile_text(
        "{{ a }} {{ row['B c'] }} {{ row.d }}\n{% for x in values.e %}{{ x }}{{ loop.index }}{% endfor %}"
        "{% if f %}{{ g|default(h) }}{% endif %}{% set i = j %}{{ i }}{% if k is defined %}{{ k }}{% endif %}"
    ).uses
    assert uses.plain == {"a": 5, "f": 6, "g": 6, "h": 6, "j": 6, "k": 6}
    assert uses.row == {"B c": 5, "d": 5}
    assert uses.values == {"e": 6}
    assert uses.optional == {"k"}
    assert {"f", "g", "e", "k"} <= uses.guarded
    assert uses.fallbacks == {"h": {"g"}}


def test_the_lists_are_those_of_the_environment() -> None:
    """The guard names exactly the filters and tests that exist, beside the two it puts in itself."""
    environment = new_environment()
    assert {name for name in environment.filters if not name.startswith("_")} == set(FILTERS)
    assert set(environment.tests) == set(TESTS)
    assert not environment.globals
