"""`assetmill runs`: what ran, and how it ended."""

from __future__ import annotations

from typing import Annotated

import typer

from assetmill.cli.shared import AsJson, ConfigPath, open_store_of, print_facts, stderr_console
from assetmill.operate.exits import print_json

runs_app = typer.Typer(help="What ran, and how it ended.", no_args_is_help=True, rich_markup_mode=None)


@runs_app.command("list")
def runs_list(config: ConfigPath, as_json: AsJson = False) -> None:
    """List runs, oldest first."""
    from assetmill.operate.runs import holder_run_id, list_runs

    name, store = open_store_of(config)
    rows = [
        {"run": r.id, "status": r.status, "started": r.report.get("started"), "seconds": r.report.get("seconds"),
         "pictures": r.report.get("pictures"), "published": r.report.get("published")}
        for r in list_runs(store, name, running=holder_run_id(store, name))
    ]  # fmt: skip
    if as_json:
        print_json({"runs": rows})
    else:
        from assetmill.operate.console import make_table

        names = ("run", "status", "started", "seconds", "pictures", "published")
        stderr_console().print(make_table("runs", names, [tuple(r.values()) for r in rows]))


@runs_app.command("show")
def runs_show(
    config: ConfigPath, run_id: Annotated[str, typer.Argument(metavar="RUN")], as_json: AsJson = False
) -> None:
    """Show a run's report."""
    from assetmill.operate.runs import find_run

    name, store = open_store_of(config)
    print_facts(f"run {run_id}", dict(find_run(store, name, run_id)), as_json)
