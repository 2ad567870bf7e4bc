"""One template file: its texts, its axes, and what it needs of an asset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from assetmill.intake.axes import Axes, read_axes
from assetmill.intake.front_matter import Located, read_template_file
from assetmill.intake.template_guard import nearest
from assetmill.intake.template_text import TemplateText
from assetmill.intake.wildcards import WordLists, find_references
from assetmill.records import Asset, InputError, Problem


class AssetTexts:
    """An asset's texts by column, with a locale's columns in place of others."""

    __slots__ = ("_asset", "_swaps")

    def __init__(self, asset: Asset, swaps: Mapping[str, str]) -> None:
        self._asset = asset
        self._swaps = swaps

    def has(self, column: str) -> bool:
        return self._swaps.get(column, column) in self._asset.columns

    def one(self, column: str) -> str:
        return self._asset.columns.get(self._swaps.get(column, column), "").strip()

    def all(self, column: str) -> tuple[str, ...]:
        """The texts of all folded rows, or the one there is."""
        column = self._swaps.get(column, column)
        own = self._asset.columns.get(column, "")
        texts = self._asset.values.get(column) or (own,)
        return tuple(text for text in texts if text.strip())


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One template, ready to render. `columns` are the columns it needs, each with the line that first uses it."""

    name: str
    path: str
    sha256: str
    description: str
    columns: Mapping[str, int]
    axes: Axes = field(repr=False)
    positive: TemplateText = field(repr=False)
    negative: TemplateText | None = field(repr=False)
    rank_text: TemplateText | None = field(repr=False)
    optional: frozenset[str] = field(repr=False)
    """Names in an `is defined` test: they may be missing from the sheet."""
    unguarded: tuple[str, ...] = field(repr=False)
    """Columns of the positive text that are used without a test or default: an empty cell leaves a gap."""

    subjects: tuple[str, ...] = field(repr=False)
    """Columns that say what the positive text is about, its axes' columns included."""
    plain: tuple[str, ...] = field(repr=False)
    """Columns looked up by their bare name in any text; `in_row` and `in_values` through `row` and `values`."""
    in_row: tuple[str, ...] = field(repr=False)
    in_values: tuple[str, ...] = field(repr=False)

    def names(self, texts: AssetTexts) -> dict[str, Any]:
        """What the template's texts may look up for an asset, and no more."""
        optional = self.optional
        names: dict[str, Any] = {n: texts.one(n) for n in self.plain if n not in optional or texts.has(n)}
        if self.in_row:
            names["row"] = {n: texts.one(n) for n in self.in_row if n not in optional or texts.has(n)}
        if self.in_values:
            names["values"] = {n: texts.all(n) for n in self.in_values}
        return names

    def gaps(self, texts: AssetTexts) -> tuple[str, ...]:
        """The columns that are empty for an asset and that the positive text uses all the same."""
        fallbacks = self.positive.uses.fallbacks
        return tuple(
            column
            for column in self.unguarded
            if not texts.one(column) and not any(map(texts.one, fallbacks.get(column, ())))
        )

    def check(self, headers: Sequence[str]) -> Iterator[Problem]:
        """Every column that the template needs and the headers lack, and every axis named like one of them."""
        for name, line in self.columns.items():
            if name not in headers and name not in self.optional:
                way_out = suggest_column(name, [*headers, *self.axes.names])
                message = f"the sheet has no column {name!r}"
                yield Problem(message, way_out, file=self.path, row=line, column=name)
        for axis in self.axes.axes:
            if axis.name in headers and axis.source != axis.name:
                message = f"the axis {axis.name!r} is named like a column of the sheet"
                yield Problem(message, "rename the axis", file=self.path, row=axis.line, column=axis.name)


def read_template(path: str, text: str, data: bytes, words: WordLists, axis_names: Sequence[str]) -> PromptTemplate:
    """A template from the text of its file. `axis_names` are given by the config, say `locale`. InputError."""
    file = read_template_file(text, path)
    problems: list[Problem] = []
    axes = Axes(())
    try:
        axes = read_axes(file.axes or {}, path, words)
    except InputError as error:
        problems.extend(error.problems)

    def compile_text(located: Located | None, what: str) -> TemplateText | None:
        if located is None or (not located.text.strip() and what != "prompt"):
            return None
        try:
            compiled = TemplateText(located.text, file=path, first_line=located.line, what=what)
        except InputError as error:
            problems.extend(error.problems)
            return None
        for literal, line in compiled.uses.texts:
            for name, position in find_references(literal):
                if name not in words.lists:
                    at = line + literal.count("\n", 0, position)
                    problems.append(Problem(*words.explain_missing(name), file=path, row=at))
        return compiled

    positive = compile_text(file.body, "prompt")
    negative = compile_text(file.negative, "negative")
    rank_text = compile_text(file.rank_text, "rank_text")
    if not problems and not file.body.text.strip():
        problems.append(Problem("the template is empty", "write the prompt below the front matter", file=path))
    used: dict[str, int] = {}
    for compiled in (rank_text, negative, positive):
        used |= compiled.uses.names if compiled else {}
    for axis in axes.axes:
        if axis.name not in used and not problems:
            way_out = "use it or take it out; for more pictures of one prompt raise `candidates`"
            message = f"the axis {axis.name!r} is never used"
            problems.append(Problem(message, way_out, file=path, row=axis.line, column=f"axes.{axis.name}"))
    if problems or positive is None:
        raise InputError(problems)
    own = {*axes.names, *axis_names}
    columns = {**axes.sources, **{name: line for name, line in used.items() if name not in own}}
    texts = [t for t in (positive, negative, rank_text) if t]
    unguarded = tuple(n for n in positive.uses.names if n in columns and n not in positive.uses.guarded)
    return PromptTemplate(
        name=PurePosixPath(path).stem,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        description=" ".join(file.description.split()),
        columns=columns,
        axes=axes,
        positive=positive,
        negative=negative,
        rank_text=rank_text,
        optional=frozenset().union(*(t.uses.optional for t in texts)),
        unguarded=unguarded,
        subjects=(*axes.sources, *(n for n in positive.uses.names if n in columns)),
        plain=tuple(dict.fromkeys(n for t in texts for n in t.uses.plain if n in columns and n not in axes.names)),
        in_row=tuple(dict.fromkeys(n for t in texts for n in t.uses.row if n in columns)),
        in_values=tuple(dict.fromkeys(n for t in texts for n in t.uses.values)),
    )


def suggest_column(name: str, known: Sequence[str]) -> str:
    """The way out of a missing column: what was probably meant, as a template writes it."""
    near = nearest(name, list(known))
    if near is None:
        return f"columns here: {', '.join(known[:12])}{', …' if len(known) > 12 else ''}"
    return f"did you mean {near!r}?" if near.isidentifier() else f'did you mean row["{near}"]?'
