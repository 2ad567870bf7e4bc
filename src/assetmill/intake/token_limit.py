"""Prompts that are longer than the text encoder reads: remarks for people, which decide nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from assetmill.records import Prompt

TRUNCATED = "truncated"
"""The flag of a prompt whose end the encoder never sees."""


def flag_long_prompts(prompts: Iterable[Prompt], count_tokens: Callable[[str], int], limit: int) -> list[Prompt]:
    """The prompts, those whose positive or negative text has more than `limit` tokens flagged `truncated`.

    `count_tokens` must count as the encoder does, its start and end marks included.
    """
    return [
        replace(prompt, flags=(*prompt.flags, TRUNCATED))
        if TRUNCATED not in prompt.flags
        and (count_tokens(prompt.positive) > limit or (prompt.negative and count_tokens(prompt.negative) > limit))
        else prompt
        for prompt in prompts
    ]


def same_beyond_limit(
    prompts: Sequence[Prompt], count_tokens: Callable[[str], int], limit: int
) -> list[tuple[Prompt, ...]]:
    """Groups of prompts whose positive texts differ only past `limit` tokens: to the encoder they are the same text.

    Prompts with equal texts are no such group; of each text in a group the first prompt is named.
    """
    seen: dict[str, dict[str, Prompt]] = {}
    cut: set[str] = set()
    for prompt in prompts:
        visible = prompt.positive
        if count_tokens(visible) > limit:
            visible = _visible_part(visible, count_tokens, limit)
            cut.add(visible)
        seen.setdefault(visible.rstrip(" ,"), {}).setdefault(prompt.positive, prompt)
    hidden = {visible.rstrip(" ,") for visible in cut}
    return [tuple(group.values()) for visible, group in seen.items() if len(group) > 1 and visible in hidden]


def _visible_part(text: str, count_tokens: Callable[[str], int], limit: int) -> str:
    """The longest beginning of a text with at most `limit` tokens, found by halving."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if count_tokens(text[:middle]) <= limit:
            low = middle
        else:
            high = middle
    return text[:low]
