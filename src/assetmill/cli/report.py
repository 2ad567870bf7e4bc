"""`assetmill report`: the morning report of a run drawn again, and an experiment as it stands now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assetmill.cli.shared import AsJson, ConfigPath, open_store_of, print_facts, stderr_console
from assetmill.operate.exits import print_json


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(report)


def report(
    config: ConfigPath,
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run, or the beginning of its id; the last one.")] = "",
    experiment: Annotated[
        bool, typer.Option("--experiment", help="Say how the arms of the config's experiment compare by now.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a run's morning report again, with what people decided since, and say where it is."""
    if experiment:
        _say_experiment(config, run, show, as_json)
        return
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


def _say_experiment(config: Path, run: str, show: bool, as_json: bool) -> None:
    """Prints each arm beside the control, with what people decided by now."""
    from assetmill.operate.console import facts_table
    from assetmill.operate.job import open_job
    from assetmill.operate.morning.arms import compare_arms
    from assetmill.records import InputError, Problem

    if run or show:
        raise InputError(Problem("--experiment compares all nights", "leave out the run and --open"))
    job = open_job(config)
    if job.experiment is None:
        message = "the config has no experiment"
        raise InputError(Problem(message, "add `experiment` with arms to try", str(config), column="experiment"))
    arms = compare_arms(job, job.decisions.states())
    if as_json:
        print_json({"config": job.config.name, "experiment": job.experiment.name, "arms": arms})
        return
    console = stderr_console()
    for arm in arms:
        title = f"{job.experiment.name} · {arm['arm']} ({arm['pairs']:,} pairs of {arm['assets']:,} assets)"
        facts = {name: found["says"].partition(": ")[2] for name, found in arm["measures"].items()}
        console.print(facts_table(title, {"in short": arm["verdict"], **facts}))
