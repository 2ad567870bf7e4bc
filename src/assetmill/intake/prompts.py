"""Assets to prompts: every template renders every asset, once per cell of its axes.

A template is a Jinja2 text with YAML front matter (`negative`, `rank_text`, `axes`, `description`). The columns of
the sheet are its names (`{{ colour }}`, or `{{ row['Option1 Value'] }}` where a header is no name), `values.sizes`
gives the texts of all rows folded into the asset, and each axis is a name too. Sheet texts are data: nothing in a
cell is ever run as a template. Afterwards word lists and variants are drawn, white space and dangling commas are
tidied, and denied terms are looked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from assetmill.config import PromptsConfig
from assetmill.intake.axes import AxisError, Cell
from assetmill.intake.deny import DenyList, read_deny_list
from assetmill.intake.prompt_template import AssetTexts, PromptTemplate, read_template, suggest_column
from assetmill.intake.template_guard import MAX_SOURCE, nearest
from assetmill.intake.template_text import MAX_OUTPUT, RenderError, TemplateText
from assetmill.intake.tidy import tidy
from assetmill.intake.token_limit import flag_long_prompts, same_beyond_limit
from assetmill.intake.wildcards import WildcardError, WordLists, has_wildcards, read_word_lists
from assetmill.records import Asset, InputError, Problem, Prompt, content_key

__all__ = [
    "PromptBook",
    "PromptTemplate",
    "flag_long_prompts",
    "load_templates",
    "load_templates_from",
    "same_beyond_limit",
]

RENDERING = 1
"""Raised by hand when the same sources would render other prompts; part of a book's fingerprint."""

MAX_LIST = 4 * 2**20
"""Bytes of a word list or a deny file."""

MAX_LISTS = 10_000

LOCALE = "locale"
"""The axis that `prompts.locales` adds, the first of a cell."""


class PromptBook:
    """The templates of a config with their word lists and denied terms; everything is read already."""

    def __init__(
        self,
        config: PromptsConfig,
        templates: Sequence[PromptTemplate],
        words: WordLists,
        denied: DenyList,
        sources: Mapping[str, bytes],
    ) -> None:
        self.templates = tuple(templates)
        self._config = config
        self._words = words
        self._denied = denied
        self._sources = dict(sources)
        self._locales: tuple[tuple[str | None, Mapping[str, str]], ...] = tuple(config.locales.items()) or ((None, {}),)
        self.fingerprint: str = content_key(
            "prompts",
            {
                "rendering": RENDERING,
                "templates": [template.path for template in templates],
                "sources": {name: hashlib.sha256(data).hexdigest() for name, data in self._sources.items()},
                "deny": list(config.deny),
                "locales": {locale: dict(swaps) for locale, swaps in config.locales.items()},
            },
        )
        """Names all that decides what an asset's prompts say, beside the asset and the seed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return load_templates_from, (self._sources, self._config)  # compiled code cannot be pickled, its source can

    def sources(self) -> dict[str, bytes]:
        """The bytes of every file read, by its path as the config writes it (`load_templates_from` takes them back)."""
        return dict(self._sources)

    def check(self, headers: Sequence[str]) -> None:
        """Raises InputError with every column that templates, axes and locales need and the sheet lacks."""
        problems = [problem for template in self.templates for problem in template.check(headers)]
        for locale, swaps in self._config.locales.items():
            for name, column in swaps.items():
                for missing in (n for n in (name, column) if n not in headers):
                    place = f"prompts.locales.{locale}.{name}"
                    problems.append(
                        Problem(f"the sheet has no column {missing!r}", suggest_column(missing, headers), column=place)
                    )
        if problems:
            raise InputError(problems)

    def render(self, asset: Asset, *, seed: int) -> list[Prompt]:
        """An asset's prompts: template by template, locale by locale, cell by cell.

        `seed` is the config's; a row's own seed goes before it. The same asset and seed give the same prompts on
        every night, whatever other rows there are. A prompt's flags name unguarded columns that are empty
        (`empty: colour`). Raises InputError naming the row, and the column where it is known.
        """
        if asset.overrides.seed is not None:
            seed = asset.overrides.seed
        problems: list[Problem] = []
        prompts: list[Prompt] = []
        for template in self.templates:
            try:
                prompts.extend(self._render_template(template, asset, seed))
            except InputError as error:
                problems.extend(error.problems)
        if problems:
            raise InputError(problems)
        return prompts

    def _render_template(self, template: PromptTemplate, asset: Asset, seed: int) -> Iterator[Prompt]:
        for locale, swaps in self._locales:
            texts = AssetTexts(asset, swaps)
            try:
                cells = template.axes.cells(asset.id, seed, texts.all)
            except AxisError as error:
                raise InputError(_problem(asset, template, str(error), error.way_out, error.column)) from error
            gaps = template.gaps(texts)
            if gaps and not any(map(texts.one, template.subjects)):
                raise InputError(_empty(asset, template, "prompt", gaps))  # its fixed words are not about anything
            names = template.names(texts)
            flags = tuple(f"empty: {column}" for column in gaps)
            for cell in cells:
                if locale is not None:
                    cell = {LOCALE: locale, **cell}
                filled = {**names, **cell} if cell else names
                positive = self._fill(template, template.positive, filled, asset, cell, seed)
                rank_text = positive
                if template.rank_text:
                    rank_text = self._fill(template, template.rank_text, filled, asset, cell, seed)
                negative = ""
                if asset.overrides.negative:
                    negative = self._finish(template, "negative", asset.overrides.negative, asset, cell, seed)
                elif template.negative:
                    negative = self._fill(template, template.negative, filled, asset, cell, seed)
                if not positive or not rank_text:
                    empty = [column for column in template.columns if not texts.one(column)]
                    raise InputError(_empty(asset, template, "rank_text" if positive else "prompt", empty))
                self._refuse_denied(template, asset, positive, rank_text)
                yield Prompt(asset.id, template.name, cell, positive, negative, rank_text, flags)

    def _fill(
        self,
        template: PromptTemplate,
        text: TemplateText,
        names: dict[str, Any],
        asset: Asset,
        cell: Cell,
        seed: int,
    ) -> str:
        try:
            rendered = text.render(names)
        except RenderError as error:
            message = f"{error} (line {error.line})" if error.line else str(error)
            raise InputError(_problem(asset, template, message, error.way_out)) from error
        return self._finish(template, text.what, rendered, asset, cell, seed)

    def _finish(self, template: PromptTemplate, what: str, text: str, asset: Asset, cell: Cell, seed: int) -> str:
        """A rendered text with its words drawn, on one tidy line."""
        try:
            if has_wildcards(text):
                text = self._words.expand(text, seed, asset.id, cell)
                if len(text) > MAX_OUTPUT:
                    message = f"the {what} grows over {MAX_OUTPUT:,} characters with its words drawn"
                    raise WildcardError(message, "write shorter word lists")
            return tidy(text)
        except WildcardError as error:
            raise InputError(_problem(asset, template, str(error), error.way_out)) from error
        except ValueError as error:
            raise InputError(_problem(asset, template, str(error), "correct the cell's text")) from error

    def _refuse_denied(self, template: PromptTemplate, asset: Asset, positive: str, rank_text: str) -> None:
        found = self._denied.find(positive)
        if rank_text != positive:
            found += [term for term in self._denied.find(rank_text) if term not in found]
        if found:
            raise InputError([self._denial(template, asset, term, positive) for term in found])

    def _denial(self, template: PromptTemplate, asset: Asset, term: str, positive: str) -> Problem:
        alone = DenyList([term])
        texts = {column: text for column, text in asset.columns.items() if column in template.columns}
        column = next((column for column, text in texts.items() if alone.find(text)), "")
        message = f"the prompt holds the denied term {term!r}"
        return _problem(asset, template, message, "reword it, or take the term off prompts.deny", column, positive)


# --- loading --------------------------------------------------------------------------------------------------


def load_templates(config: PromptsConfig, resolve: Callable[[Path], Path]) -> PromptBook:
    """Reads templates, word lists and deny file. `resolve` makes a config's path absolute.

    Raises InputError with everything wrong in all of them: file, line, and the way out.
    """
    sources: dict[str, bytes] = {}
    problems: list[Problem] = []
    files = [(path, MAX_SOURCE * 4) for path in config.templates]
    if config.deny_file:
        files.append((config.deny_file, MAX_LIST))
    if config.wildcards:
        folder = resolve(config.wildcards)
        if folder.is_dir():
            found = sorted(p.relative_to(folder) for p in folder.rglob("*.txt"))
            lists = [config.wildcards / p for p in found if not any(part.startswith(".") for part in p.parts)]
            if len(lists) > MAX_LISTS:
                raise InputError(Problem(f"more than {MAX_LISTS:,} word lists", "name a smaller folder", str(folder)))
            files += [(path, MAX_LIST) for path in lists]
        else:
            problems.append(
                Problem(
                    "there is no such folder", "make it, or take prompts.wildcards out", config.wildcards.as_posix()
                )
            )
    for path, limit in files:
        try:
            with resolve(path).open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            near = nearest(path.name, [p.name for p in resolve(path).parent.glob("*") if p.is_file()])
            way_out = f"did you mean {near!r}?" if near else "correct the path in the config"
            problems.append(Problem(f"cannot be read ({error.strerror})", way_out, file=path.as_posix()))
            continue
        if len(data) > limit:
            problems.append(Problem(f"is larger than {limit:,} bytes", "shorten it", file=path.as_posix()))
        else:
            sources[path.as_posix()] = data
    if problems:
        raise InputError(problems)
    return load_templates_from(sources, config)


def load_templates_from(sources: Mapping[str, bytes], config: PromptsConfig) -> PromptBook:
    """The book that `load_templates` made, from the bytes of its `sources()`. InputError as there."""
    problems: list[Problem] = []
    texts: dict[str, str] = {}
    for name, data in sources.items():
        try:
            texts[name] = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            problems.append(Problem("is not UTF-8", "save it as UTF-8", file=name, row=line))
    if problems:
        raise InputError(problems)
    lists: dict[str, tuple[str, str]] = {}
    if config.wildcards:
        for name, text in texts.items():
            listed = PurePosixPath(name)
            if listed.suffix == ".txt" and listed.is_relative_to(config.wildcards.as_posix()):
                relative = listed.relative_to(config.wildcards.as_posix())
                lists[relative.with_suffix("").as_posix()] = (name, text)
    words, problems = read_word_lists(lists)
    deny_file = config.deny_file.as_posix() if config.deny_file else ""
    denied, more = read_deny_list(config.deny, deny_file, texts.get(deny_file, ""))
    problems += more
    axis_names = (LOCALE,) if config.locales else ()
    templates: dict[str, PromptTemplate] = {}
    for path in config.templates:
        name = path.as_posix()
        try:
            if name not in texts:
                raise InputError(Problem("is not among the sources", "take the sources of the same config", name))
            template = read_template(name, texts[name], sources[name], words, axis_names)
            if template.name in templates:
                other = templates[template.name].path
                raise InputError(
                    Problem(f"a second template named {template.name!r}, beside {other}", "rename one", file=name)
                )
            templates[template.name] = template
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(problems)
    return PromptBook(config, list(templates.values()), words, denied, sources)


def _problem(
    asset: Asset, template: PromptTemplate, message: str, way_out: str, column: str = "", value: str | None = None
) -> Problem:
    row = asset.rows[0] if asset.rows else None
    return Problem(f"{template.path}: asset {asset.id!r}: {message}", way_out, row=row, column=column, value=value)


def _empty(asset: Asset, template: PromptTemplate, what: str, columns: Sequence[str]) -> Problem:
    way_out = f"fill {' or '.join(map(repr, columns[:4]))}, or" if columns else "write more into the template, or"
    column = columns[0] if columns else ""
    return _problem(asset, template, f"the {what} is empty", f"{way_out} give a |default('…')", column)
