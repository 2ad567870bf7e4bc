"""Terms that no prompt may hold: brands, persons, characters under somebody's right.

A term is found where its words stand next to each other, whatever the case, the accents and the marks between them:
`Coca-Cola` finds "COCA COLA" and "coca‑cola's", `art` does not find "party". Scripts that are written without spaces
are searched letter by letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from assetmill.records import Problem

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "\xad": None})
_MARKS = str.maketrans("™℠®©", "    ")  # folding would make letters of them: "Acme™" is not "acmetm"


def fold_text(text: str) -> str:
    """The form in which texts are compared: compatibility forms, case and accents folded, soft hyphens dropped."""
    if text.isascii():
        return text.lower()
    bare = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text.translate(_MARKS)).casefold())
    return "".join(c for c in bare if not unicodedata.combining(c) and unicodedata.category(c) != "Cf").translate(
        _LETTERS
    )


class DenyList:
    """Denied terms, made ready so that a search costs the words of the text and not the terms of the list."""

    def __init__(self, terms: Iterable[str]) -> None:
        self.terms = tuple(dict.fromkeys(terms))
        self._starts: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        self._unspaced: list[tuple[str, str]] = []
        for term in self.terms:
            folded = fold_text(term)
            words = tuple(_WORD.findall(folded))
            if not words:
                raise ValueError(f"the denied term {term!r} holds no letter or digit")
            if _UNSPACED.search(folded):
                self._unspaced.append(("".join(words), term))
            else:
                self._starts.setdefault(words[0], []).append((words, term))

    def find(self, text: str) -> list[str]:
        """The terms that a text holds, as they are written in the list, in the order of the text."""
        if not self.terms:
            return []
        words = _WORD.findall(fold_text(text))
        found: list[str] = []
        if self._starts.keys().isdisjoint(words) and not self._unspaced:
            return found
        for i in [i for i, word in enumerate(words) if word in self._starts]:
            for term_words, term in self._starts[words[i]]:
                if len(term_words) == 1 or tuple(words[i : i + len(term_words)]) == term_words:
                    found.append(term)
        if self._unspaced:
            joined = "".join(words)
            found.extend(term for letters, term in self._unspaced if letters in joined)
        return list(dict.fromkeys(found))


def read_deny_list(terms: Iterable[str], file: str = "", text: str = "") -> tuple[DenyList, list[Problem]]:
    """The list of the config's terms and of a file's (one a line, `#` for remarks), and what is wrong with them."""
    problems = []
    good = []
    for place, row, term in [*(("", None, term) for term in terms), *_lines(file, text)]:
        try:
            DenyList([term])
        except ValueError as error:
            column = "" if place else "prompts.deny"
            problems.append(Problem(str(error), "take it out", file=place, row=row, column=column))
        else:
            good.append(term)
    return DenyList(good), problems


def _lines(file: str, text: str) -> Iterator[tuple[str, int | None, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        term = line.split("#", 1)[0].strip() if not line.strip().startswith("#") else ""
        if term:
            yield file, number, term
