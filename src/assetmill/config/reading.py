"""A config file (YAML) read into validated, frozen settings, and their JSON Schema."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from assetmill.config.production import Config
from assetmill.records import InputError, Problem
from assetmill.yaml_text import line_of, load_yaml, read_mapping

ENVIRONMENT_PREFIX = "ASSETMILL_"


def read_config(path: Path | str) -> Config:
    """The validated config of a YAML file, with overrides from the environment.

    Raises InputError with every problem: file, line, key and the way out.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            Problem(
                f"the config cannot be read ({error})",
                "give the path of a YAML file, or make one with `assetmill init`",
                file=str(path),
            )
        ) from error
    data, lines = read_mapping(text, str(path))
    for keys, value in _environment_overrides(os.environ):
        _set(data, keys, value)
    data["base"] = str(find_base(path))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = tuple(str(k) for k in item["loc"])
            shown = repr(item["input"])[:80] if item["type"] not in ("missing",) else None
            problems.append(
                Problem(
                    item["msg"].removeprefix("Value error, "),
                    _way_out(item["type"], place),
                    file=str(path),
                    row=line_of(lines, place),
                    column=".".join(place),
                    value=shown,
                )
            )
        raise InputError(problems) from error


def find_base(config_path: Path | str) -> Path:
    """The folder a config's relative paths resolve against."""
    folder = Path(config_path).resolve().parent
    for candidate in (folder, *folder.parents):
        if (candidate / "pyproject.toml").is_file():
            return candidate
    return folder


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a config file, for editors (`# yaml-language-server: $schema=…`)."""
    schema = Config.model_json_schema(mode="validation")
    schema["properties"].pop("base", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- inside -------------------------------------------------------------------------------------------------


def _environment_overrides(environment: Mapping[str, str]) -> list[tuple[list[str], Any]]:
    """`ASSETMILL_MODEL__STEPS=8` as (["model", "steps"], 8). Only names of known sections count."""
    found = []
    for name, value in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if keys[0] in Config.model_fields and keys[0] != "base":
            found.append((keys, load_yaml(value)))
    return found


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {}
        data = inner
    data[keys[-1]] = value


def _way_out(kind: str, keys: tuple[str, ...]) -> str:
    if kind == "extra_forbidden":
        section: Any = Config
        for key in keys[:-1]:
            field = getattr(section, "model_fields", {}).get(key)
            section = field.annotation if field else None
        known = [k for k in getattr(section, "model_fields", {}) if k != "base"]
        import difflib

        near = difflib.get_close_matches(keys[-1], known, n=1)
        if near:
            return f"did you mean {near[0]!r}?"
        return f"known keys here: {', '.join(known)}" if known else "remove it"
    if kind == "missing":
        return "add it"
    return ""
