"""The command line: thin commands over the library. The config is the first argument everywhere.

Exit codes: 0 done, 1 some items failed, 2 bad input, 3 already running, 4 budget reached, 5 store or device
unavailable, 70 a bug. Tables and progress go to stderr, `--json` gives one object on stdout.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from assetmill import __version__
from assetmill.cli import decisions, making, report, review, taking_back, tools
from assetmill.cli.catalog import catalog_app
from assetmill.cli.models import models_app
from assetmill.cli.ranker import ranker_app
from assetmill.cli.rehearse import rehearse
from assetmill.cli.runs import runs_app
from assetmill.operate.exits import run_command

__all__ = ["app", "main", "run_command"]

app = typer.Typer(
    help="Spreadsheets in, ranked and upscaled image variants with a versioned catalog out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
making.add_to(app)
report.add_to(app)
review.add_to(app)
tools.add_to(app)
decisions.add_to(app)
app.command()(rehearse)
app.command("gc")(taking_back.gc)
for name, group in (
    ("catalog", catalog_app), ("runs", runs_app), ("eval", tools.eval_app), ("models", models_app),
    ("ranker", ranker_app),
):  # fmt: skip
    app.add_typer(group, name=name)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    log: Annotated[
        str,
        typer.Option("--log", metavar="human|json", envvar="ASSETMILL_LOG", help="Log lines for people or machines."),
    ] = "auto",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is not None:
        from assetmill.operate.logs import set_up_logging

        json_lines = None if log == "auto" else log == "json"
        set_up_logging(json_lines=json_lines, level="DEBUG" if verbose else "INFO")


def main() -> None:
    """Runs the command line and exits with the code of what happened."""
    sys.exit(run_command(lambda: app(standalone_mode=False)))
