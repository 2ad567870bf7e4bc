"""Word lists and variants: `__colour__`, `{red|blue}`, `{3::red|blue}`, `{2$$red|blue|green}`.

The notation is that of dynamicprompts, its sampler is not used: its grammar takes about 6 ms a prompt (ten minutes
for 100,000 assets), an unknown list stays in the prompt with only a warning in the log, lists are read from a folder
while sampling and not from pinned bytes, and a draw from one random stream moves every later draw when a word is
added. Here a draw depends on the config's seed, the asset, its cell, and the list or variant itself: the same words
draw the same in the positive prompt, in the rank text and in another template, on every night.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from assetmill.intake.chance import Choices, chance_key, following_key
from assetmill.records import Problem

MAX_DRAWS = 1_000
"""Draws for one text; lists that name one another twice over would grow without end."""

MAX_DEPTH = 16
_NAME = r"[^\W_](?:[\w/-]*?[^\W_])?"
_TOKEN = re.compile(rf"\\(?:__|[{{}}|])|__({_NAME})__|[{{}}|]")
_SIMPLE = re.compile(rf"(__{_NAME}__|\{{[^{{}}]*\}})")
_REFERENCE = re.compile(rf"(?<!\\)__({_NAME})__")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")
_COUNT = re.compile(r"\s*(\d{1,3})(?:-(\d{1,3}))?\$\$(?:([^$]*)\$\$)?")


class WildcardError(ValueError):
    """A text's word lists or variants cannot be drawn; `way_out` says what to do."""

    def __init__(self, message: str, way_out: str) -> None:
        super().__init__(message)
        self.way_out = way_out


@dataclass(frozen=True, slots=True)
class _Reference:
    name: str


@dataclass(frozen=True, slots=True)
class _Variant:
    """`options` holds the parts of each option by its source. Without options, words of the list `name` are drawn."""

    source: str
    choices: Choices | None
    options: Mapping[str, tuple[_Part, ...]]
    name: str
    low: int
    high: int
    separator: str


_Part = str | _Reference | _Variant


@dataclass(slots=True)
class _Group:
    """A brace that is open: where its options begin, and the parts of each."""

    starts: list[int]
    options: list[list[_Part]]


class _Draws:
    """Gives each draw of one text its own key; the same source gets the same keys in another text."""

    def __init__(self, base: tuple[object, ...]) -> None:
        self.key_of_all = chance_key("wildcard", *base)
        self.seen: Counter[str] = Counter()
        self.num_draws = 0

    def key(self, source: str) -> int:
        self.num_draws += 1
        if self.num_draws > MAX_DRAWS:
            raise WildcardError(f"more than {MAX_DRAWS} draws for one text", "let lists not name one another twice")
        self.seen[source] += 1
        return following_key(self.key_of_all, source, self.seen[source])


def has_wildcards(text: str) -> bool:
    """False for texts that hold neither a word list nor a variant, the common case."""
    return "__" in text or "{" in text


def find_references(text: str) -> Iterator[tuple[str, int]]:
    """The names of word lists in a text, each with its position."""
    for match in _REFERENCE.finditer(text):
        yield match[1], match.start()


class WordLists:
    """Word lists by name (`animals/dogs` for the file `animals/dogs.txt`), read once."""

    def __init__(self, lists: Mapping[str, Choices]) -> None:
        self.lists = lists

    def expand(self, text: str, *base: object) -> str:
        """The text with a word in place of each list and variant. `base` (JSON-able) decides what is drawn.

        Raises WildcardError for unknown lists, open braces, and lists that grow without end.
        """
        return self._expand(text, _Draws(base), 0) if has_wildcards(text) else text

    def explain_missing(self, name: str) -> tuple[str, str]:
        """What is wrong with a name that is not a list's, and the way out."""
        if not self.lists:
            return (
                f"there is no word list {name!r}, nor any other",
                f"put one entry a line into {name}.txt and name its folder as prompts.wildcards, "
                f"or write \\__{name}__ for the plain text",
            )
        near = get_close_matches(name, self.lists, n=1)
        way_out = f"did you mean __{near[0]}__?" if near else f"lists here: {', '.join(sorted(self.lists)[:8])}"
        return f"there is no word list {name!r}", f"{way_out} (or make {name}.txt, or write \\__{name}__ to keep it)"

    def _expand(self, text: str, draws: _Draws, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise WildcardError("word lists are nested too deep", f"nest at most {MAX_DEPTH} of them")
        return self._join(_split(text), draws, depth) if has_wildcards(text) else text

    def _join(self, parts: Iterable[_Part], draws: _Draws, depth: int) -> str:
        return "".join(part if isinstance(part, str) else self._draw(part, draws, depth) for part in parts)

    def _draw(self, part: _Reference | _Variant, draws: _Draws, depth: int) -> str:
        if isinstance(part, _Reference):
            word = self._choices(part.name).draw(draws.key(f"__{part.name}__"))[0]
            return self._expand(word, draws, depth + 1)
        choices = part.choices or self._choices(part.name)
        key = draws.key(part.source)
        count = part.low + key % (part.high - part.low + 1)
        try:
            drawn = choices.draw(key, count)
        except ValueError as error:
            raise WildcardError(f"{part.source[:60]!r}: {error}", "ask for fewer, or give more") from error
        if part.choices:
            return part.separator.join(self._join(part.options[source], draws, depth) for source in drawn)
        return part.separator.join(self._expand(word, draws, depth + 1) for word in drawn)

    def _choices(self, name: str) -> Choices:
        found = self.lists.get(name)
        if found is None:
            raise WildcardError(*self.explain_missing(name))
        return found


def _split(text: str) -> Iterable[_Part]:
    """The parts of a text. Texts differ by asset, their lists and variants rarely do: those are parsed once."""
    pieces = _SIMPLE.split(text)
    if "\\" in text or any("{" in piece or "}" in piece for piece in pieces[::2]):
        return _parse(text)
    return itertools.chain.from_iterable(_parse(piece) if i % 2 else (piece,) for i, piece in enumerate(pieces))


@lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[_Part, ...]:
    root: list[_Part] = []
    groups: list[_Group] = []
    position = 0
    for match in _TOKEN.finditer(text):
        parts = groups[-1].options[-1] if groups else root
        parts.append(text[position : match.start()])
        token, position = match[0], match.end()
        if match[1]:
            parts.append(_Reference(match[1]))
        elif token[0] == "\\":
            parts.append(token if token == "\\|" and not groups else token[1:])
        elif token == "{":
            if len(groups) == MAX_DEPTH:
                raise WildcardError("variants are nested too deep", f"nest at most {MAX_DEPTH} braces")
            groups.append(_Group([match.end()], [[]]))
        elif token == "|" and groups:
            groups[-1].starts.append(match.end())
            groups[-1].options.append([])
        elif token == "}" and groups:
            group = groups.pop()
            (groups[-1].options[-1] if groups else root).extend(_close(text, group, match.start()))
        else:
            parts.append(token)
    if groups:
        group = groups[0]
        start = group.starts[0]
        if len(group.options) > 1:
            raise WildcardError(
                f"a variant is opened and never closed: {' '.join(text[start - 1 : start + 40].split())!r}",
                "close it with }, or write \\{ for a plain brace",
            )
        return (*_filled(root), "{", *_parse(text[start:]))  # one brace fewer each time
    root.append(text[position:])
    return _filled(root)


def _close(text: str, group: _Group, end: int) -> list[_Part]:
    """The variant of a closed group. Braces around a single option are plain text and stay."""
    source = text[group.starts[0] - 1 : end + 1]
    counted = _COUNT.match(text, group.starts[0], end)
    if len(group.options) == 1 and not counted:
        return ["{", *group.options[0], "}"]
    low = high = 1
    separator = ", "
    if counted:
        low, high = int(counted[1]), int(counted[2] or counted[1])
        separator = counted[3] if counted[3] is not None else separator
        if high < low:
            raise WildcardError(f"{source[:60]!r} asks for {low} to {high}", "write the smaller number first")
        _shorten(group.options[0], counted.end() - group.starts[0])
        group.starts[0] = counted.end()
        words = _filled(group.options[0])
        if len(group.options) == 1 and len(words) == 1 and isinstance(words[0], _Reference):
            return [_Variant(source, None, {}, words[0].name, low, high, separator)]
    weights, options = [], {}
    ends = [*(start - 1 for start in group.starts[1:]), end]
    sources = []
    for start, stop, parts in zip(group.starts, ends, group.options, strict=True):
        weight = _WEIGHT.match(text, start, stop)
        if weight:
            _shorten(parts, weight.end() - start)
        weights.append(float(weight[1]) if weight else 1.0)
        sources.append(text[weight.end() if weight else start : stop].strip())
        options[sources[-1]] = _filled(parts)
    try:
        return [_Variant(source, Choices(sources, weights), options, "", low, high, separator)]
    except ValueError as error:
        raise WildcardError(f"{source[:60]!r}: {error}", "give every option a weight from 0 up") from error


def _filled(parts: list[_Part]) -> tuple[_Part, ...]:
    return tuple(part for part in parts if part != "")


def _shorten(parts: list[_Part], length: int) -> None:
    """Takes a prefix (a count or a weight, always plain text) off the first part."""
    first = parts[0]
    assert isinstance(first, str)
    parts[0] = first[length:]


# --- reading --------------------------------------------------------------------------------------------------


def read_word_lists(files: Mapping[str, tuple[str, str]]) -> tuple[WordLists, list[Problem]]:
    """The lists of `{name: (file, text)}` and all that is wrong with them, with file and line.

    One entry a line; `3::red` weighs three times as much; `#` begins a remark; entries may name other lists.
    """
    lists: dict[str, Choices] = {}
    problems: list[Problem] = []
    lines: dict[str, dict[str, int]] = {}
    for name, (file, text) in files.items():
        values, weights, named = [], [], lines.setdefault(name, {})
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            weight = _WEIGHT.match(entry)
            values.append(entry[weight.end() :].strip() if weight else entry)
            weights.append(float(weight[1]) if weight else 1.0)
            for reference, _ in find_references(entry):
                named.setdefault(reference, number)
        try:
            lists[name] = Choices(values, weights)
        except ValueError as error:
            problems.append(Problem(f"the word list {name!r} cannot be used: {error}", "write one entry a line", file))
    word_lists = WordLists(lists)
    for name, named in lines.items():
        for reference, number in named.items():
            if reference not in files:
                problems.append(Problem(*word_lists.explain_missing(reference), file=files[name][0], row=number))
    problems.extend(_find_circles({name: list(named) for name, named in lines.items()}, files, lines))
    return word_lists, problems


def _find_circles(
    named: Mapping[str, list[str]], files: Mapping[str, tuple[str, str]], lines: Mapping[str, Mapping[str, int]]
) -> list[Problem]:
    """One problem for each list that leads back to itself. Without recursion: chains may be long."""
    problems = []
    done: set[str] = set()
    for start in named:
        path: list[str] = []
        stack = [(start, iter(named[start]))] if start not in done else []
        path.extend(name for name, _ in stack)
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif following in path:
                chain = " → ".join([*path[path.index(following) :], following])
                problems.append(
                    Problem(
                        f"the word lists run in a circle: {chain}",
                        "take that entry out",
                        file=files[name][0],
                        row=lines[name][following],
                    )
                )
            elif following in named and following not in done:
                stack.append((following, iter(named[following])))
                path.append(following)
    return problems
