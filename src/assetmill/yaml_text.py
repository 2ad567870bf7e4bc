"""YAML without its traps: 1.2's scalars, no key twice, and the line that a key stands on."""

from __future__ import annotations

import re
from typing import Any

import yaml

from assetmill.records import InputError, Problem


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `no` and `12:30` stay text, `1e3` is a number; a key given twice is an error."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):  # fmt: skip
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [*_first.replace("\0", ""), ""] if _tag == "null" else list(_first),
    )


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.lower().startswith(("0x", "0o")) else int(text)  # 007 is seven, not octal


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan") if text.lstrip("+-") in (".inf", ".nan") else text)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return dict(loader.construct_pairs(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load_yaml(text: str) -> Any:
    """A YAML document without YAML 1.1's traps; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def read_mapping(text: str, file: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """The mapping in a YAML text, and its nodes for `line_of`. Raises InputError naming file and line."""
    try:
        data = load_yaml(text)
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        raise InputError(
            Problem(
                f"not valid YAML: {message}",
                "check indentation, colons and quotes there",
                file=file,
                row=mark.line + 1 if mark else None,
            )
        ) from error
    if not isinstance(data, dict):
        raise InputError(
            Problem("the config is not a mapping of keys to values", "start from `assetmill init`", file=file)
        )
    return data, node


def line_of(node: yaml.Node | None, keys: tuple[str, ...]) -> int | None:
    """The line of a key, or of the nearest one above it that is written out."""
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == key:
                    line, node = key_node.start_mark.line + 1, value_node
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            return line
    return line
