"""The head of a template file: YAML between two `---` lines, and the body below it.

Texts are taken as they are written in the file (`007`, `1e3` and `true` stay themselves), with their lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from assetmill.intake.template_guard import nearest
from assetmill.records import InputError, Problem
from assetmill.yaml_text import load_yaml

KEYS = ("description", "negative", "rank_text", "axes")

MAX_HEAD = 32 * 1024
"""Characters of front matter."""

MAX_BRACKETS = 1_000
"""Opening brackets in it: the time a YAML parser takes grows with the square of their depth."""

_FENCE = re.compile(r"^---[ \t]*$", re.MULTILINE)
_BARE_BRACE = re.compile(r"^\s*([\w-]+):\s*\{[{%]")


@dataclass(frozen=True, slots=True)
class Located:
    """A text and the line of the file on which it begins."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """The parts of a template file. `negative` and `rank_text` are templates too; `axes` holds YAML nodes by name."""

    body: Located
    description: str = ""
    negative: Located | None = None
    rank_text: Located | None = None
    axes: Mapping[str, tuple[yaml.Node, int]] | None = None


def read_template_file(text: str, file: str) -> TemplateFile:
    """The parts of a template's text. InputError with file, line, key and the way out."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    opening = _FENCE.match(text)
    if not opening:
        return TemplateFile(Located(text, 1))
    closing = _FENCE.search(text, opening.end())
    if not closing:
        raise InputError(Problem("the front matter is never closed", "end it with a line of ---", file=file, row=1))
    head = text[opening.end() + 1 : closing.start()]
    if len(head) > MAX_HEAD or head.count("[") + head.count("{") > MAX_BRACKETS:
        message = f"front matter of more than {MAX_HEAD:,} characters or {MAX_BRACKETS:,} brackets"
        raise InputError(Problem(message, "move long lists into word lists", file=file, row=1))
    body = Located(text[closing.end() :].removeprefix("\n"), text.count("\n", 0, closing.end()) + 2)
    root = _compose(head, file)
    if root is None:
        return TemplateFile(body)
    problems: list[Problem] = []
    found: dict[str, yaml.Node] = {}
    for key_node, node in root.value:
        key, line = str(key_node.value), key_node.start_mark.line + 2
        if key in KEYS:
            found[key] = node
            continue
        near = nearest(key, KEYS)
        way_out = f"did you mean {near!r}?" if near else f"keys here: {', '.join(KEYS)}"
        problems.append(Problem("the front matter has an unknown key", way_out, file=file, row=line, column=key))
    texts: dict[str, Located | None] = {}
    for key in ("description", "negative", "rank_text"):
        node = found.get(key)
        if node is not None and not isinstance(node, yaml.ScalarNode):
            problems.append(
                Problem("not a text", f'write {key}: "…"', file=file, row=node.start_mark.line + 2, column=key)
            )
        texts[key] = _located(node) if isinstance(node, yaml.ScalarNode) else None
    axes: dict[str, tuple[yaml.Node, int]] = {}
    if (node := found.get("axes")) is not None and not _is_null(node):
        if isinstance(node, yaml.MappingNode):
            axes = {str(k.value): (v, k.start_mark.line + 2) for k, v in node.value}
        else:
            line = node.start_mark.line + 2
            problems.append(
                Problem(
                    "not a mapping of axes", "write axes: {angle: [front, side]}", file=file, row=line, column="axes"
                )
            )
    if problems:
        raise InputError(problems)
    description = texts["description"]
    return TemplateFile(body, description.text if description else "", texts["negative"], texts["rank_text"], axes)


def _compose(head: str, file: str) -> yaml.MappingNode | None:
    """The head's tree, after the config's own loader has found nothing wrong with it. None for an empty head."""
    try:
        data = load_yaml(head)
        root = yaml.compose(head, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        line, way_out = (mark.line + 2 if mark else 1), "check indentation, colons and quotes there"
        for number, text in enumerate(head.splitlines(), 2):
            if bare := _BARE_BRACE.match(text):
                message, line = "YAML reads { as the start of a mapping", number
                way_out = f'quote the text: {bare[1]}: "{{{{ … }}}}"'
                break
        raise InputError(
            Problem(f"the front matter is not valid YAML: {message}", way_out, file=file, row=line)
        ) from error
    if data is None:
        return None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(
            Problem("the front matter is not a mapping of keys", f"keys: {', '.join(KEYS)}", file=file, row=2)
        )
    return root


def _located(node: yaml.ScalarNode) -> Located | None:
    if _is_null(node):
        return None
    below = 1 if node.style in ("|", ">") else 0
    return Located(node.value, node.start_mark.line + 2 + below)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
