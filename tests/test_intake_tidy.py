"""Tidy prompts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.intake.tidy import tidy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\n\n red \t mug\u00a0 , , blue,, ", "a red mug, blue"),
        (", , a ,b", "a,b"),
        ("a (), b [ ]", "a, b"),
        ("a (( [ ])), b", "a, b"),
        ("1,000 mugs; 1,5 m", "1,000 mugs; 1,5 m"),
        ("(red:1.2) {x}", "(red:1.2) {x}"),
        ("a\x00b\x7fc\x85d", "a b c d"),
        ("👩‍🎨 naïve 东京", "👩‍🎨 naïve 东京"),
        (" ,;\n, ", ""),
    ],
)
def test_one_line_without_gaps(text: str, expected: str) -> None:
    """What empty cells and line ends leave behind is gone, the rest is untouched."""
    assert tidy(text) == expected


@settings(deadline=None)
@given(st.text())
def test_tidying_twice_changes_nothing(text: str) -> None:
    """A tidy text is tidy."""
    once = tidy(text)
    assert tidy(once) == once
    assert "\n" not in once


def test_half_a_character_is_refused() -> None:
    """A lone surrogate is no text."""
    with pytest.raises(ValueError, match="half a character"):
        tidy("a \ud800")
