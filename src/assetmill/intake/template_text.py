"""One Jinja2 text (a template's body, its negative or its rank text), compiled once and rendered per asset.

Three walls: the allow-list over the parsed tree (`template_guard`) before anything is compiled, filters and
operators that refuse to make long texts, and a limit on the output while it streams. Behind them stands Jinja2's
immutable sandbox.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, Undefined, nodes
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS as JINJA_TESTS

from assetmill.intake.template_guard import (
    JOIN_FILTER,
    LOOP_FILTER,
    TESTS,
    Guarded,
    guard_tree,
    parse_template,
)

MAX_OUTPUT = 8_000
"""Characters that one rendered text may have."""

MAX_VALUE = 2**18
"""Characters that a filter or `~` may make on the way there (a description in HTML is long before it is cut)."""

MAX_ROUNDS = 256
"""Rounds of one loop."""


class RenderError(ValueError):
    """A text cannot be rendered for this asset. `line` counts within the template's file, `way_out` says what helps."""

    def __init__(self, message: str, way_out: str, line: int | None = None) -> None:
        super().__init__(message)
        self.way_out = way_out
        self.line = line


class TemplateText:
    """A text that passed the guard, ready to render. Raises InputError (from the guard) with all that is refused."""

    def __init__(self, source: str, *, file: str, first_line: int, what: str) -> None:
        self.what = what
        """What this text is, for messages: `prompt`, `negative` or `rank_text`."""
        self._file = file
        self._first_line = first_line
        environment = new_environment()
        tree = parse_template(environment, source, file=file, first_line=first_line)
        self.uses: Guarded = guard_tree(tree, file=file, first_line=first_line)
        body = tree.body
        self.constant: str | None = None
        """The text itself where nothing is filled in."""
        if all(isinstance(n, nodes.Output) and all(isinstance(t, nodes.TemplateData) for t in n.nodes) for n in body):
            self.constant = "".join(t.data for n in body for t in n.nodes)  # type: ignore[attr-defined]
        code = environment.compile(tree, file, file)
        self._template = Template.from_code(environment, code, {})

    def render(self, names: dict[str, Any]) -> str:
        """The text for these names, at most MAX_OUTPUT characters. Raises RenderError."""
        if self.constant is not None:
            return self.constant
        template = self._template
        pieces: list[str] = []
        length = 0
        try:
            for piece in template.root_render_func(template.new_context(names)):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_OUTPUT:
                    raise RenderError(
                        f"the {self.what} grows over {MAX_OUTPUT:,} characters", "shorten values with |truncate(200)"
                    )
        except RenderError as error:
            error.line = self._line_of(error.__traceback__)
            raise
        except (TemplateError, TypeError, ValueError, AssertionError, LookupError, AttributeError) as error:
            message = f"the {self.what} cannot be rendered: {error}"
            raise RenderError(message, "correct that expression", self._line_of(error.__traceback__)) from error
        return "".join(pieces)

    def _line_of(self, traceback: TracebackType | None) -> int | None:
        line = None
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == self._file:
                line = self._template.get_corresponding_lineno(traceback.tb_lineno) + self._first_line - 1
            traceback = traceback.tb_next
        return line


def new_environment() -> ImmutableSandboxedEnvironment:
    """Jinja2 with this project's filters and tests, without any function, loader or cache."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, cache_size=0)
    environment.globals.clear()
    environment.filters = {**_FILTERS, JOIN_FILTER: _concat, LOOP_FILTER: _check_loop}
    environment.tests = {name: JINJA_TESTS[name] for name in TESTS}
    return environment


# --- filters ------------------------------------------------------------------------------------------------


def _checked(length: int) -> None:
    if length > MAX_VALUE:
        raise RenderError(f"a value grows over {MAX_VALUE:,} characters", "shorten it first with |truncate(200)")


def _concat(first: Any, *rest: Any) -> str:
    texts = [str(first), *map(str, rest)]
    _checked(sum(map(len, texts)))
    return "".join(texts)


def _check_loop(values: Any) -> Sequence[Any]:
    items = _sequence(values, "a loop")
    if len(items) > MAX_ROUNDS:
        raise RenderError(
            f"a loop over {len(items):,} values; it may run {MAX_ROUNDS} times", f"cut it: [:{MAX_ROUNDS}]"
        )
    return items


def _sequence(values: Any, user: str) -> list[Any]:
    if isinstance(values, Undefined):
        str(values)  # raises, with Jinja2's message
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise RenderError(f"{user} takes several values, not one text", "use values.COLUMN, or COLUMN|split(',')")
    return list(values)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    if not old:
        raise RenderError("replace has nothing to look for", "give the text to replace")
    _checked(len(text) + text.count(old) * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


def _join(values: Any, separator: str = ", ") -> str:
    texts = [text for text in map(str, _sequence(values, "join")) if text]
    _checked(sum(map(len, texts)) + len(texts) * len(separator))
    return separator.join(texts)


def _split(text: Any, separator: str = ",") -> list[str]:
    return [part for part in (part.strip() for part in str(text).split(separator)) if part]


def _default(value: Any, otherwise: Any = "", boolean: bool = True) -> Any:
    """A sheet's cell is never undefined but often empty: so empty counts as missing, whatever `boolean` says."""
    return otherwise if isinstance(value, Undefined) or not value else value


def _truncate(text: Any, length: int = 255, killwords: bool = False, end: str = "") -> str:
    """At most `length` characters, cut between words. No dots by default: an encoder would read them."""
    text = " ".join(str(text).split())
    if len(text) <= length:
        return text
    kept = text[: max(0, length - len(end))]
    if not killwords and not text[len(kept)].isspace():
        kept = kept.rsplit(" ", 1)[0] if " " in kept else kept
    return kept.rstrip(" ,;:-") + end


def _first(values: Any) -> Any:
    items = values if isinstance(values, str) else _sequence(values, "first")
    return items[0] if items else ""


def _last(values: Any) -> Any:
    items = values if isinstance(values, str) else _sequence(values, "last")
    return items[-1] if items else ""


def _unique(values: Any) -> list[Any]:
    return list({str(value).casefold(): value for value in reversed(_sequence(values, "unique"))}.values())[::-1]


def _sort(values: Any, reverse: bool = False) -> list[Any]:
    return sorted(_sequence(values, "sort"), key=lambda value: str(value).casefold(), reverse=reverse)


_TAG = re.compile(r"<[a-zA-Z/!?][^<>]*>")


def strip_tags(text: Any) -> str:
    """The words of an HTML text: no tags, remarks, scripts or styles, entities resolved.

    Unlike Jinja2's own filter a tag leaves a space (`<p>red</p><p>blue</p>` is two words), and the time is linear in
    the length of hostile text too.
    """
    rest = str(text)
    if "<" in rest:
        for opening, closing in (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")):
            rest = _cut_out(rest, opening, closing)
        rest = _TAG.sub(" ", rest)
    return " ".join(html.unescape(rest).split())


def _cut_out(text: str, opening: str, closing: str) -> str:
    lowered = text.lower() if text.isascii() else text
    kept = []
    position = 0
    while (start := lowered.find(opening, position)) >= 0:
        kept.append(text[position:start])
        end = lowered.find(closing, start)
        if end < 0:
            return "".join(kept)
        position = end + len(closing)
    kept.append(text[position:])
    return " ".join(kept)


_FILTERS = {
    **{name: FILTERS[name] for name in ("lower", "upper", "title", "capitalize", "trim", "length", "count")},
    "replace": _replace,
    "default": _default,
    "d": _default,
    "join": _join,
    "split": _split,
    "first": _first,
    "last": _last,
    "unique": _unique,
    "sort": _sort,
    "truncate": _truncate,
    "striptags": strip_tags,
}
