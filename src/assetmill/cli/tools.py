"""Commands about the installation and single files: what would stop a night, the config's schema, how good the models
are, where a picture comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assetmill.cli.shared import AsJson, flat, print_facts, read_file, stderr_console
from assetmill.operate.exits import SOME_FAILED, UNAVAILABLE, print_json
from assetmill.records import InputError, Problem

eval_app = typer.Typer(help="Measure models.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    app.command()(doctor)
    app.command()(provenance)
    app.command()(schema)


def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="Also look at this config.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would stop a night: libraries, device, store, models, lock."""
    from assetmill.operate.doctor import examine

    findings = examine(config)
    if as_json:
        print_json({"ok": all(f.ok for f in findings), "findings": [f.as_dict() for f in findings]})
    else:
        from assetmill.operate.console import make_table

        rows = [("ok" if f.ok else "WRONG", f.what, f.found, f.way_out) for f in findings]
        stderr_console().print(make_table("doctor", ("", "what", "found", "way out"), rows))
    if not all(f.ok for f in findings):
        raise typer.Exit(UNAVAILABLE)


def provenance(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Picture: PNG, JPEG, WebP or AVIF.", show_default=False)],
    trust: Annotated[Path | None, typer.Option(metavar="PEM", help="Root certificates that are trusted.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read what a file says of where it comes from, and check its credentials; exit code 1 if they don't hold."""
    from assetmill.deliver.inspect import inspect_file
    from assetmill.deliver.picture import PictureError

    roots = read_file(trust) if trust else b""
    try:
        found = inspect_file(read_file(file), name=str(file), trust=roots)
    except PictureError as error:
        raise InputError(Problem(str(error))) from error
    # For people the settings stand one by one.
    print_facts(file.name, found if as_json else flat({k: v for k, v in found.items() if k != "parameters"}), as_json)
    if found["credentials"]["present"] and not found["credentials"]["valid"]:
        raise typer.Exit(SOME_FAILED)


def schema() -> None:
    """Print the JSON Schema of a config file, for editors."""
    from assetmill.config import config_schema

    print_json(config_schema())


@eval_app.command("starter")
def eval_starter(
    prompts: Annotated[int, typer.Option(min=4, help="Prompts to draw.")] = 256,
    seeds: Annotated[int, typer.Option(min=2, help="Candidates per prompt.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Measure the starter models against the truth that their renderer knows."""
    from assetmill.starter.evaluate import evaluate_starter

    found = evaluate_starter(num_prompts=prompts, num_seeds=seeds)
    if as_json:
        print_json(found)
    else:
        from assetmill.operate.console import make_table

        rows = [(k, v["value"], v["n"], v.get("low"), v.get("high")) for k, v in found.items()]
        stderr_console().print(make_table("starter pack", ("measure", "value", "n", "low", "high"), rows))
