"""Word lists and variants."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.intake.wildcards import WildcardError, WordLists, read_word_lists


def lists(**texts: str) -> WordLists:
    found, problems = read_word_lists({name: (f"w/{name}.txt", text) for name, text in texts.items()})
    assert problems == []
    return found


WORDS = lists(colour="# remark\nred\n\n3::blue\n{light|dark} green\n", thing="a __colour__ cup")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, text", {"plain, text"}),
        ("__colour__", {"red", "blue", "light green", "dark green"}),
        ("__thing__", {"a red cup", "a blue cup", "a light green cup", "a dark green cup"}),
        ("{a|b}", {"a", "b"}),
        ("{5::a|0::b}", {"a"}),
        ("{a|}", {"a", ""}),
        ("{2$$a|b}", {"a, b", "b, a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{a{b|c}|d}", {"ab", "ac", "d"}),
        ("{2$$__one__}", {"x, y", "y, x"}),
        ("{single} {", {"{single} {"}),
        ("a|b }", {"a|b }"}),
        (r"\{a|b\} \__colour__ a\|b", {r"{a|b} __colour__ a\|b"}),
        (r"{a\|b|a\|b}", {"a|b"}),
        ("____ __ snake_case_name", {"____ __ snake_case_name"}),
    ],
)
def test_notation(text: str, expected: set[str]) -> None:
    """Each notation gives exactly the texts it stands for."""
    words = WordLists({**WORDS.lists, **lists(one="x\ny").lists})
    assert {words.expand(text, i) for i in range(120)} == expected


def test_the_same_words_draw_the_same_elsewhere() -> None:
    """A list draws the same word in another text of the same asset and cell, whatever else stands there."""
    for i in range(30):
        one = WORDS.expand("a __colour__ cup", 1, f"k{i}", {"angle": "front"})
        other = WORDS.expand("{x|y} and __thing__ | a __colour__ cup", 1, f"k{i}", {"angle": "front"})
        # the second text draws from colour once inside of `thing` and once by itself
        assert one in other
    many = {WORDS.expand("__colour__ __colour__", i) for i in range(200)}
    assert any(len(set(text.replace("light ", "").replace("dark ", "").split())) == 2 for text in many)


@pytest.mark.parametrize(
    ("text", "message", "way_out"),
    [
        ("a {b|c", "never closed", "close it"),
        ("__color__", "no word list 'color'", "did you mean __colour__?"),
        ("{3$$a|b}", "3 values are asked for and there are 2", "fewer"),
        ("{2-1$$a|b}", "asks for 2 to 1", "smaller number first"),
        ("{0::a|0::b}", "nothing to draw", "weight"),
        ("{" * 40 + "a|b" + "}" * 40, "too deep", "16"),
    ],
)
def test_errors_say_the_way_out(text: str, message: str, way_out: str) -> None:
    """What cannot be drawn is refused with what is wrong and what to do."""
    with pytest.raises(WildcardError, match=message) as raised:
        WORDS.expand(text, 1)
    assert way_out in raised.value.way_out


def test_lists_are_checked_when_read() -> None:
    """Circles, unknown lists, bad weights and empty lists are found with file and line, all at once."""
    files = {"a": "x\n__b__", "b": "__a__", "c": "\n__z__", "d": "# nothing"}
    _, problems = read_word_lists({name: (f"{name}.txt", text) for name, text in files.items()})
    found = {(p.file, p.row, p.message.split(":")[0]) for p in problems}
    assert found == {
        ("b.txt", 1, "the word lists run in a circle"),
        ("c.txt", 2, "there is no word list 'z'"),
        ("d.txt", None, "the word list 'd' cannot be used"),
    }


def test_growth_is_bounded() -> None:
    """Lists that name one another twice over are stopped, quickly."""
    texts = {f"l{i}": f"__l{i + 1}__ __l{i + 1}__" for i in range(15)} | {"l15": "x"}
    started = time.perf_counter()
    with pytest.raises(WildcardError, match="draws"):
        lists(**texts).expand("__l0__", 1)
    assert time.perf_counter() - started < 5


@settings(deadline=None)
@given(st.text(alphabet="ab{}|_\\$:1 ", max_size=40))
def test_any_text_expands_or_is_refused(text: str) -> None:
    """Whatever stands in a cell, drawing ends, and twice gives the same."""
    words = lists(a="x\ny")
    try:
        first = words.expand(text, 3, "k")
    except WildcardError:
        return
    assert words.expand(text, 3, "k") == first
