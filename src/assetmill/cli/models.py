"""`assetmill models`: which published models there are, what they cost and allow, and their files on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from assetmill.cli.shared import stderr_console
from assetmill.operate.exits import SOME_FAILED, print_json

models_app = typer.Typer(
    help="Published models: what is known of them, and their files on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ModelId = Annotated[str, typer.Argument(metavar="ID", help="Hub id, as owner/name.", show_default=False)]
Revision = Annotated[
    str | None,
    typer.Option(metavar="COMMIT", help="40 hex digits; the registry's own if left out.", show_default=False),
]


@models_app.command("list")
def models_list(
    operation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only models that do this, as inpaint.", show_default=False)
    ] = None,
    commercial: Annotated[bool, typer.Option("--commercial", help="Only those that may be used commercially.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the models of the registry: id, family, operations, licence, whether commercial use is allowed."""
    from assetmill.engines.hub import list_models

    found = [
        m
        for m in list_models()
        if (operation is None or operation in m["operations"]) and (not commercial or m["commercial"])
    ]
    if as_json:
        print_json({"models": found})
        return
    from assetmill.operate.console import make_table

    names = ("id", "family", "operations", "licence", "commercial", "GiB", "here")
    answers = {True: "yes", False: "no", None: "unknown"}
    rows = [
        (m["id"], m["family"], ", ".join(m["operations"]) or "a stage of others", m["licence"],
         answers[m["commercial"]], f"{m['gib']:g}", "yes" if m["here"] else "")
        for m in found
    ]  # fmt: skip
    stderr_console().print(make_table("models", names, rows))


@models_app.command("show")
def models_show(model: ModelId, as_json: AsJson = False) -> None:
    """Show what is known of a model, and the config that names it."""
    from assetmill.engines.hub import config_of, describe, find_model

    known = find_model(model)
    _print(model, {**describe(model, known), "config": config_of(model, known)}, as_json)


@models_app.command("pull")
def models_pull(model: ModelId, revision: Revision = None, as_json: AsJson = False) -> None:
    """Fetch a model at its pinned commit into the hub's cache, with the stages it needs. Nothing else ever fetches."""
    from assetmill.engines import facts
    from assetmill.engines.hub import pull_model, verify_model

    known = facts.MODELS.get(model)
    pulled: dict[str, Any] = {}
    problems: list[str] = []
    for one, wanted in ((model, revision), *((part, None) for _, part in (known.stages if known is not None else ()))):
        folder = pull_model(one, wanted)
        pulled[one] = str(folder)
        problems += [f"{one}: {problem}" for problem in verify_model(folder).problems]
    _print("pulled", {**pulled, "problems": problems}, as_json)
    if problems:
        raise typer.Exit(SOME_FAILED)


@models_app.command("verify")
def models_verify(
    model: Annotated[str, typer.Argument(metavar="ID|FOLDER", help="Hub id, or a model's folder.", show_default=False)],
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Read a model's files again and compare them with their SHA-256. Asks nobody."""
    from assetmill.engines.hub import find_snapshot, pinned_revision, verify_model
    from assetmill.records import InputError, Problem

    folder: Path | None = Path(model)
    if not Path(model).is_dir():
        commit = pinned_revision(model, revision)
        folder = find_snapshot(model, commit)
        if folder is None:
            raise InputError(
                Problem(f"{model} at {commit[:12]} is not on this machine", f"run `assetmill models pull {model}`")
            )
    assert folder is not None
    found = verify_model(folder)
    facts = {
        "folder": str(found.folder), "files": found.num_files, "compared": found.num_hashed,
        "problems": list(found.problems),
    }  # fmt: skip
    _print("verified", facts, as_json)
    if found.problems:
        raise typer.Exit(SOME_FAILED)


def _print(title: str, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    from assetmill.operate.console import facts_table

    stderr_console().print(facts_table(title, facts))
