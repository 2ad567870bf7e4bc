"""Prompts past the encoder's limit."""

from __future__ import annotations

from assetmill.intake.token_limit import flag_long_prompts, same_beyond_limit
from assetmill.records import Prompt


def prompt(asset_id: str, positive: str, negative: str = "") -> Prompt:
    return Prompt(asset_id, "t", {}, positive, negative, flags=("empty: x",))


def count_words(text: str) -> int:
    return len(text.split()) + 2


def test_long_prompts_are_flagged_once() -> None:
    """A positive or negative text over the limit gets the flag; other flags stay, nothing is flagged twice."""
    prompts = [prompt("a", "one two three"), prompt("b", "one two three four"), prompt("c", "one", "1 2 3 4")]
    flagged = flag_long_prompts(prompts, count_words, 5)
    assert [p.flags for p in flagged] == [("empty: x",), ("empty: x", "truncated"), ("empty: x", "truncated")]
    assert flag_long_prompts(flagged, count_words, 5) == flagged


def test_prompts_that_differ_only_past_the_limit_are_named() -> None:
    """Texts that look the same to the encoder form a group; equal texts, and differences it sees, don't."""
    prompts = [
        prompt("a", "one two three four"),
        prompt("b", "one two three five six"),
        prompt("c", "one two three"),
        prompt("d", "one two other four"),
        prompt("e", "one two three four"),
        prompt("f", "one"),
    ]
    groups = same_beyond_limit(prompts, count_words, 5)
    assert [[p.asset_id for p in group] for group in groups] == [["a", "b", "c"]]
    assert same_beyond_limit(prompts, count_words, 50) == []
