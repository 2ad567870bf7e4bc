"""Lettering: lines fit where they must, and every font draws what it covers."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from assetmill.deliver.lettering import Lettering, clean

letters = Lettering()


@settings(max_examples=60, deadline=None)
@example("near-duplicate of 3f9c01ab77de, cosine 0.981", 128, 3)
@example("剣" * 50, 60, 2)
@given(st.text(max_size=80), st.integers(40, 200), st.integers(1, 4))
def test_wrapped_lines_fit(text: str, width: int, num_lines: int) -> None:
    """However a text is broken, no line is wider than asked and there are not more than asked."""
    lines = letters.wrap(text, 11, width, num_lines)
    assert len(lines) <= num_lines
    assert all(letters.width(line, 11) <= width for line in lines)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_wrapping_in_much_room_keeps_the_text(text: str) -> None:
    """Where there is room nothing is lost but white space and what cannot be drawn."""
    assert " ".join(letters.wrap(text, 11, 10_000, 3)) == clean(text)


def test_breaks_come_at_words_and_never_within_a_number() -> None:
    """Lines end at spaces, else at joints of an id; 0.981 stays whole."""
    assert letters.wrap("near-duplicate of 3f9c01ab77de, cosine 0.981", 11, 128, 3)[-1].endswith("0.981")
    assert letters.wrap("rusty-sword-of-the-northern-isles", 16, 130, 3)[0].endswith("-")


def test_what_does_not_fit_is_cut_with_an_ellipsis() -> None:
    """A cut text begins as the whole one and says that it goes on."""
    cut = letters.cut("a very long title indeed", 14, 80)
    assert cut.endswith("…")
    assert "a very long title indeed".startswith(cut[:-1])
    assert letters.cut("short", 14, 80) == "short"


def test_layout_controls_and_broken_characters_are_taken_out() -> None:
    """Nothing in a text can turn its neighbours around or crash the drawing."""
    assert clean("a\u202eb\x00c\ud800\ufe0f \n d") == "ab c\ufffd d"


def test_characters_find_a_font_that_has_them() -> None:
    """Cyrillic, which Pillow's own font lacks, is drawn in another one and not as boxes."""
    assert letters.width("ЖЖЖЖ", 16) != letters.width("\U0010ffff" * 4, 16)
