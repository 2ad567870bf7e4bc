"""`assetmill runs`: what ran, and how it ended."""

from __future__ import annotations

from typing import Annotated

import typer

from assetmill.cli.shared import AsJson, By, ConfigPath, open_store_of, print_facts, stderr_console, who
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


@runs_app.command("cancel")
def runs_cancel(
    config: ConfigPath,
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Only if it is this run; the one going on if left out.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; in the run's report.")] = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Ask the run that is going on, on whatever machine, to end: what is whole is published, the rest waits."""
    from assetmill.operate.stopping import POLL_SECONDS, cancel_run

    name, store = open_store_of(config, read_only=False)
    asked = cancel_run(store, name, run_id, by=who(by), reason=reason)
    facts = {"run": asked, "asked": f"it looks every {POLL_SECONDS:.0f} s and ends after the batch on its device"}
    print_facts("cancel", facts, as_json)
