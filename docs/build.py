"""Writes what the docs can take from the code: the config's schema and tables, and the pages of the command line.

    python docs/build.py            # write what is out of date
    python docs/build.py --check    # only say so; exit code 1 if anything is

`tests/test_docs.py` holds the committed files to this.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
WIDTH = 96
"""Columns of the help texts in `cli.md`."""

MEANINGS: Mapping[str, str] = {
    "seed": "Decides, with an asset's id, the seeds of its pictures.",
    "sheet": "Where the assets come from.",
    "prompts": "How assets become prompts.",
    "model": "Which generator makes the pictures.",
    "references": "Where reference images and adapters of the sheet may come from.",
    "judge": "Which model scores them against the rank text.",
    "gates": "Acceptance checks on candidates.",
    "select": "How variants are chosen.",
    "cut": "Dropping candidates mid-way.",
    "upscale": "How the chosen ones are enlarged.",
    "cutout": "How objects are taken off their ground, for channels that want it.",
    "cutout.gates": "Acceptance checks on cut-outs.",
    "store": "Where everything is kept.",
    "publish": "What leaves, and under which names.",
    "review": "What people are offered who decide about pictures.",
    "ranker": "What is learned from decisions.",
    "licences": "Which licences weights may have.",
    "rehearsal": "Golden rows that are made again when model, library or settings change.",
    "retention": "How long `assetmill gc` keeps what nothing needs.",
    "run": "Chunks, threads and budgets.",
    "schedule": "When nights begin.",
    "notify": "Whom to tell how a night ended.",
    "model.operation": "What the engine is asked to do, where the row does not say.",
    "model.steps": "Denoising steps; the model's own if left out.",
    "model.guidance": "Guidance scale; the model's own if left out.",
    "model.strength": "For operations that start from an image; refused with `text-to-image`.",
    "model.adapters": "Weights laid over the model, pinned by hash. Refused by engines that take none.",
    "model.dtype": "Number format; `auto` is float32 on a CPU and bfloat16 on a GPU.",
    "experiment.arms": "What to try: each differs from the config as it stands in what it names.",
    "experiment.arms.steps": "Denoising steps.",
    "experiment.arms.guidance": "Guidance scale.",
    "experiment.arms.scheduler": "Name of a diffusers scheduler.",
    "experiment.arms.strength": "For operations that start from an image.",
    "model.adapters.path": "File of the adapter.",
    "model.adapters.weight": "How strongly it acts.",
    "judge.device": "auto, cpu, cuda, cuda:1 …",
    "judge.dtype": "Number format; `auto` is float32, so that scores depend little on the machine.",
    "gates.safety": "A separate check for pictures that must not be published.",
    "upscale.overlap": "Pixels by which tiles overlap.",
    "upscale.device": "auto, cpu, cuda, cuda:1 …",
    "upscale.dtype": "Number format, as for the model.",
    "store.url": "Folder, or `s3://bucket/prefix`.",
    "store.endpoint_url": "Address of an S3 server that is not AWS.",
    "store.region": "Region of the bucket; from boto3's chain if left out.",
    "store.profile": "Profile of `~/.aws/config`; from boto3's chain if left out.",
    "publish.provenance": "What files say of their maker, their rights and the system that made them.",
    "publish.channels.renditions.format": "How the file is written. JPEG has no transparency: it needs a ground.",
    "publish.channels.atlas": "Packed sheets of one rendition; none if left out.",
    "publish.channels.renditions": "The files made of every variant.",
    "run.ray": "How a Ray cluster is used, with `execution: ray`.",
    "run.budget": "Limits after which a run begins no further chunk and exits with 4.",
    "run.budget.images": "Candidates to make.",
    "run.budget.device_minutes": "Minutes of generating, judging and upscaling.",
    "run.budget.bytes": "Bytes of pictures stored.",
}
"""What keys mean that the config itself does not describe."""

SECTIONS = (
    "", "sheet", "prompts", "model", "model.adapters", "references", "judge", "judge.combine", "gates",
    "gates.safety", "select", "select.family", "cut", "upscale", "cutout", "cutout.gates", "store", "publish",
    "publish.provenance", "publish.credentials", "publish.feeds", "publish.channels", "publish.channels.renditions",
    "publish.channels.atlas", "licences", "retention", "rehearsal",
    "review", "ranker", "experiment", "experiment.arms", "run", "run.budget", "run.ray", "schedule", "notify",
)  # fmt: skip


def build() -> dict[Path, str]:
    """Every generated file with its text as it should be."""
    from assetmill.config import config_schema

    schema = config_schema()
    page = DOCS / "configuration.md"
    return {
        DOCS / "config.schema.json": json.dumps(schema, ensure_ascii=False, indent=1) + "\n",
        DOCS / "cli.md": cli_page(),
        DOCS / "engines.md": _load("engines_page").engines_page(),
        page: fill_tables(page.read_text("utf-8"), schema),
    }


# --- the config ---------------------------------------------------------------------------------------------


def fill_tables(text: str, schema: Mapping[str, Any]) -> str:
    """The page with the table of each section between its marks. ValueError for a section that has no marks."""
    for name in SECTIONS:
        mark = f"<!-- keys: {name or 'top'} -->"
        pattern = re.compile(f"{re.escape(mark)}\n.*?<!-- end -->", re.DOTALL)
        table = "\n".join((mark, "", *table_of(name, schema), "", "<!-- end -->"))
        text, count = pattern.subn(lambda _, table=table: table, text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"configuration.md holds {mark!r} {count} times; it needs it once, with its end mark")
    return text


def table_of(section: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """A section's keys as lines of a Markdown table."""
    found = _resolve(schema, schema)
    for part in filter(None, section.split(".")):
        found = _one_of(_resolve(found["properties"][part], schema), schema)
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, value in found["properties"].items():
        path = f"{section}.{key}" if section else key
        meaning = value.get("description") or MEANINGS[path]
        own = _resolve(value, schema)
        inner = own.get("properties") is not None
        anchor = path.replace(".", "")
        shown = f"[section](#{anchor})" if inner and path in SECTIONS else describe_type(value, schema)
        if key in found.get("required", ()):
            default = "required"
        else:
            default = "" if inner else show_default(value.get("default"))
        yield f"| `{key}` | {_cell(shown)} | {_cell(default)} | {_cell(meaning)} |"


def describe_type(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What may stand there, in words."""
    value = _resolve(value, schema)
    if "anyOf" in value:
        kinds = [describe_type(v, schema) for v in value["anyOf"] if v.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value:
        return ", ".join(f"`{v}`" for v in value["enum"])
    kind = value.get("type")
    if kind == "array":
        if "prefixItems" in value:
            return f"list of {len(value['prefixItems'])} numbers"
        return f"list of {_plural(describe_type(value['items'], schema))}"
    if kind == "object":
        if "properties" in value:
            return "mapping"
        inside = value.get("additionalProperties") or next(iter(value["patternProperties"].values()))
        inner = describe_type(inside, schema)
        names = value.get("propertyNames", {}).get("enum")
        return f"mapping of {', '.join(f'`{n}`' for n in names) if names else 'names'} to {_plural(inner)}"
    name = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}.get(str(kind), "text")
    if value.get("format") == "path":
        name = "path"
    if "pattern" in value:
        name = f"text like `{value['pattern'].strip('^$')}`"
    return name + _bounds(value)


def show_default(value: Any) -> str:
    """A default as it would be written in YAML; an empty cell for none."""
    if value is None or value == "" or value == [] or value == {}:
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value}`"


def _bounds(value: Mapping[str, Any]) -> str:
    low = value.get("minimum", value.get("exclusiveMinimum"))
    high = value.get("maximum", value.get("exclusiveMaximum"))
    parts = []
    if low is not None:
        parts.append(f"{'>' if 'exclusiveMinimum' in value else '≥'} {_number(low)}")
    if high is not None:
        parts.append(f"{'<' if 'exclusiveMaximum' in value else '≤'} {_number(high)}")
    return f" {', '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _plural(kind: str) -> str:
    return {"text": "texts", "path": "paths", "mapping": "mappings"}.get(kind, kind)


def _resolve(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema a value has: references followed, a list of sections or an optional one taken for the section."""
    if "$ref" in value:
        return _resolve(schema["$defs"][value["$ref"].rsplit("/", 1)[1]], schema)
    if len(value.get("anyOf", ())) == 2 and "$ref" in value["anyOf"][0] and value["anyOf"][1] == {"type": "null"}:
        return _resolve(value["anyOf"][0], schema)
    if value.get("type") == "array" and "$ref" in value.get("items", {}):
        return {**value, "properties": _resolve(value["items"], schema)["properties"]}
    return value


def _one_of(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a mapping of names to sections the section; anything else as it is."""
    inside = value.get("additionalProperties") or next(iter(value.get("patternProperties", {}).values()), None)
    return _resolve(inside, schema) if isinstance(inside, Mapping) and "properties" not in value else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# --- the command line ---------------------------------------------------------------------------------------


def cli_page() -> str:
    """All commands with their help, as `--help` prints it."""
    import typer

    from assetmill.cli import app

    parts = [
        "# Command line",
        "",
        "Written by `python docs/build.py` from `--help`; don't edit by hand.",
        "",
        "The config is the first argument of every command that takes one. Tables and progress go to stderr; `--json`",
        "gives one object on stdout. Exit codes are in [operations.md](operations.md#exit-codes).",
        "",
    ]
    for name, text in help_texts(typer.main.get_command(app), "assetmill"):
        parts += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(parts)


def help_texts(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Name and help of a command and of all below it."""
    own_name = name if parent is None else name.split()[-1]
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = command.context_class(command, info_name=own_name, parent=parent, **settings)
    yield name, command.get_help(context)
    for child in getattr(command, "commands", {}).values():
        yield from help_texts(child, f"{name} {child.name}", context)


def _load(name: str) -> Any:
    """A script of this folder as a module, from wherever the docs are built."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- writing ------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` names those that are out of date."""
    stale = [path for path, text in build().items() if not path.is_file() or path.read_text("utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path.name} is out of date: run `python docs/build.py`\n")
        return 1 if stale else 0
    for path, text in build().items():
        if path in stale:
            path.write_text(text, "utf-8")
            sys.stderr.write(f"wrote {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
