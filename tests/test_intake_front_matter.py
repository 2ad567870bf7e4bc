"""The head of a template file."""

from __future__ import annotations

import time

import pytest

from assetmill.intake.front_matter import Located, read_template_file
from assetmill.records import InputError


def test_parts_and_lines() -> None:
    """Texts come verbatim with the line of the file on which they begin, whatever the line ends."""
    text = "---\ndescription: d\nnegative: 1e3\nrank_text: |\n  {{ a }}\naxes:\n  x: [1]\n---\n\nbody\n"
    for variant in (text, "\ufeff" + text.replace("\n", "\r\n")):
        file = read_template_file(variant, "t.j2")
        assert file.body == Located("\nbody\n", 9)
        assert file.negative == Located("1e3", 3)
        assert file.rank_text == Located("{{ a }}\n", 5)
        assert file.axes is not None
        assert file.axes["x"][1] == 7
        assert file.description == "d"


@pytest.mark.parametrize("text", ["body", "a\n---\nb\n---\n", "---\n---\nbody", "---\n# remark\nnegative:\n---\nbody"])
def test_a_head_may_be_missing_or_empty(text: str) -> None:
    """A file without front matter is all body, and empty keys are none."""
    file = read_template_file(text, "t.j2")
    assert file.body.text.endswith("body") or file.body.text == text
    assert (file.negative, file.rank_text) == (None, None)


@pytest.mark.parametrize(
    ("text", "row", "message", "way_out"),
    [
        ("---\nnegative: x\nbody", 1, "never closed", "line of ---"),
        ("---\n\nnegativ: x\n---\n", 3, "unknown key", "did you mean 'negative'?"),
        ("---\nfoo: x\n---\n", 2, "unknown key", "keys here"),
        ("---\na: b\n  c: d\n---\n", 3, "not valid YAML", "indentation"),
        ("---\nnegative: a\nnegative: b\n---\n", 3, "given twice", "check"),
        ("---\ndescription: x\nrank_text: {{ title }}\n---\n", 3, "start of a mapping", 'rank_text: "{{'),
        ("---\nnegative: [a, b]\n---\n", 2, "not a text", 'negative: "'),
        ("---\naxes: [a]\n---\n", 2, "not a mapping of axes", "axes: {"),
        ("---\n- a\n---\n", 2, "not a mapping of keys", "negative"),
        ("---\nnegative: !!python/object/apply:os.system [x]\n---\n", 2, "not valid YAML", "check"),
    ],
)
def test_mistakes_have_line_and_way_out(text: str, row: int, message: str, way_out: str) -> None:
    """Each mistake names the file's line and what to write instead."""
    with pytest.raises(InputError) as raised:
        read_template_file(text, "t.j2")
    problem = raised.value.problems[0]
    assert (problem.file, problem.row) == ("t.j2", row)
    assert message in problem.message
    assert way_out in problem.way_out


@pytest.mark.parametrize("head", ["axes: " + "[" * 20_000, "axes: " + "[a, " * 5_000, "description: " + "x" * 40_000])
def test_bombs_cost_no_time(head: str) -> None:
    """Deep or endless YAML is refused before it is parsed, and what is parsed is refused quickly."""
    started = time.perf_counter()
    with pytest.raises(InputError, match="front matter"):
        read_template_file(f"---\n{head}\n---\nx", "t.j2")
    with pytest.raises(InputError, match="front matter"):
        read_template_file(f"---\n{head[:900]}\n  x: *y\n---\nx", "t.j2")
    assert time.perf_counter() - started < 5
