"""A rendered text made into a prompt: one line, without what empty cells leave behind."""

from __future__ import annotations

import re
import unicodedata

_COMMAS = re.compile(r" *,(?: *,)+| +,")
_EMPTY_BRACKETS = re.compile(r"\( *\)|\[ *\]")
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), " ")


def tidy(text: str) -> str:
    """A prompt on one line: white space collapsed, control characters out, no dangling commas or empty brackets.

    Raises ValueError for half a character (a lone surrogate), which no encoder takes.
    """
    text = " ".join(text.split())
    if not text.isascii() or not text.isprintable():
        if any(unicodedata.category(c) == "Cs" for c in text):
            raise ValueError("the text holds half a character (a lone surrogate)")
        text = " ".join(text.translate(_CONTROL).split())
    while _EMPTY_BRACKETS.search(text):
        text = " ".join(_EMPTY_BRACKETS.sub("", text).split())
    if ",," in text or " ," in text:
        text = _COMMAS.sub(",", text)
    return text.strip(" ,;")
