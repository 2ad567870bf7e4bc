"""`assetmill report`: the morning report of a run, drawn again with what people decided since."""

from __future__ import annotations

from typing import Annotated

import typer

from assetmill.cli.shared import AsJson, ConfigPath, open_store_of, print_facts
from assetmill.operate.exits import print_json


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(report)


def report(
    config: ConfigPath,
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run, or the beginning of its id; the last one.")] = "",
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a run's morning report again, with what people decided since, and say where it is."""
    from assetmill.operate.morning.writing import rebuild_report
    from assetmill.operate.summary import place_of
    from assetmill.storage.decisions import read_decisions

    name, store = open_store_of(config, read_only=False)
    key = rebuild_report(store, name, run, read_decisions(store, name).states())
    place = place_of(store, key)
    facts = {"run": key.split("/")[-2], "page": place, "key": key}
    if as_json:
        print_json(facts)
    else:
        print_facts("morning report", {k: facts[k] for k in ("run", "page")}, as_json)
    if show:
        import webbrowser

        path = store.local_path(key)
        webbrowser.open(path.as_uri() if path is not None else place)
