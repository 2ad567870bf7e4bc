"""Commands that read a config, plan and make pictures, and bring them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from assetmill.cli.shared import (
    AsJson,
    ConfigPath,
    Force,
    Limit,
    Only,
    Version,
    open_store_of,
    print_facts,
    stderr_console,
)
from assetmill.operate.exits import SOME_FAILED, print_json

if TYPE_CHECKING:
    from assetmill.pipeline import Job, Run


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    for command in (init, check, plan, run, publish, export, reproduce, match):
        app.command()(command)


def init(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Config file to write.")] = Path("assetmill.yaml"),
    as_json: AsJson = False,
) -> None:
    """Write a config, a template and a sample sheet that run."""
    from assetmill.intake.sample import write_sample

    written = [str(p) for p in write_sample(config)]
    if as_json:
        print_json({"written": written})
    else:
        for path in written:
            typer.echo(path)
        stderr_console().print(f"Next: assetmill run {config}", highlight=False)


def check(config: ConfigPath, as_json: AsJson = False) -> None:
    """Read config, sheet, templates and model folders, and render every prompt. Loads no model, makes nothing."""
    from assetmill.pipeline import check_job, open_job

    found = check_job(open_job(config))
    if as_json:
        print_json(found)
    else:
        from assetmill.operate.console import facts_table
        from assetmill.operate.summary import terms_text

        console, shown = stderr_console(), {**found, "licences": terms_text(found["licences"])}
        console.print(facts_table(str(config), {k: v for k, v in shown.items() if k != "remarks"}))
        for remark in found["remarks"]:
            console.print(remark, style="yellow", markup=False, highlight=False)
    if found["bad_rows"]:
        raise typer.Exit(SOME_FAILED)


def plan(
    config: ConfigPath,
    only: Only = None,
    limit: Limit = None,
    force: Force = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a plan that `run --plan` holds to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would make, and what it would cost. Loads no model."""
    from assetmill.intake.plan import pin_plan, summarise_plan
    from assetmill.pipeline import open_job, plan_job, rates_of

    job = open_job(config, only=only or (), limit=limit, force=force)
    made = plan_job(job)
    refused = job.foresee_refusals(p.asset for p in made.to_publish)
    summary = {**summarise_plan(made, job.config, rates_of(job)), "licences": job.licences, "refused_files": refused}
    if out is not None:
        out.write_bytes(pin_plan(made, summary))
        summary["plan_file"] = str(out)
    if as_json:
        print_json(summary)
    else:
        from assetmill.operate.summary import show_plan

        model = f"{job.model.id} at {job.base.width}x{job.base.height}, {job.base.steps} steps"
        show_plan(stderr_console(), summary, model, job.store.url)


def run(
    config: ConfigPath,
    only: Only = None,
    limit: Limit = None,
    force: Force = False,
    plan_path: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Run exactly this plan, or exit 2 when it is stale.")
    ] = None,
    publish_now: Annotated[bool, typer.Option("--publish/--no-publish", help="Publish what is chosen.")] = True,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="DATE|due", help="As the night of this date, or the one due by the schedule: once, unless --again."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also when the night of that date is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make, rank, upscale and publish what is left to do. Killed at any moment, the same command resumes."""
    from contextlib import nullcontext
    from datetime import UTC, datetime

    from assetmill.operate.console import ConsoleProgress
    from assetmill.operate.nights import night_named
    from assetmill.operate.notify import Ended, told
    from assetmill.pipeline import open_job, run_job

    plan_file = _read_plan_file(plan_path)
    with told(config) if date is not None else nullcontext(Ended(config)) as ended:
        job = open_job(config, only=only or (), limit=limit, force=force)
        ended.config, ended.store, ended.night = job.config, job.store, date or ""
        night = night_named(job.config.schedule, date, datetime.now(UTC)) if date is not None else None
        with ConsoleProgress(stderr_console(), enabled=not as_json) as progress:
            report = run_job(
                job, plan_file=plan_file, plan_name=str(plan_path or ""), progress=progress, publish_now=publish_now,
                on_run=_attend, night=night, again=again,
            )  # fmt: skip
        ended.report = report
    _show_report(job, report, as_json)
    raise typer.Exit(report["exit_code"])


def publish(config: ConfigPath, as_json: AsJson = False) -> None:
    """Publish what earlier runs chose; make nothing."""
    from assetmill.pipeline import open_job, publish_job

    job = open_job(config)
    report = publish_job(job)
    _show_report(job, report, as_json)
    raise typer.Exit(report["exit_code"])


def export(
    config: ConfigPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for plain files with stable names.")],
    version: Version = None,
    channel: Annotated[str, typer.Option(metavar="NAME", help="Files of this channel; of the first if left out.")] = "",
    form: Annotated[
        Literal["plain", "imagefolder"],
        typer.Option(help="`imagefolder`: a data set with captions, as Hugging Face datasets reads it."),
    ] = "plain",
    text: Annotated[
        str,
        typer.Option(
            metavar="FIELD",
            help="Captions of an imagefolder: alt, alt.LOCALE, rank_text, positive or a published column.",
        ),
    ] = "alt",
    test: Annotated[
        float, typer.Option(min=0, max=1, help="Share of an imagefolder's assets that form its test split.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write the catalog's pictures under plain names, with lists of them, for people, engines and training."""
    from dataclasses import asdict

    from assetmill.deliver.export import export_catalog
    from assetmill.deliver.feeds.imagefolder import export_imagefolder
    from assetmill.storage.catalog import open_catalog

    name, store = open_store_of(config)
    entries = open_catalog(store, name).iter_entries(version)
    if form == "imagefolder":
        found = export_imagefolder(entries, store.get, folder, channel=channel, text=text, test_share=test)
    else:
        found = export_catalog(entries, store.get, folder, channel=channel)
    facts: dict[str, Any] = {**asdict(found), "folder": str(found.folder)}
    if not as_json:  # names are for machines; people want to know how many
        facts = {k: len(v) if isinstance(v, tuple) else v for k, v in facts.items()} | {"problems": found.problems}
    print_facts("exported", facts, as_json)
    if found.problems:
        raise typer.Exit(SOME_FAILED)


def reproduce(
    config: ConfigPath,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Request key, variant key, hash (from 6 digits) or id.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make one published image again from its catalog entry, and say whether the bytes agree."""
    from assetmill.operate.reproduce import reproduce_entry

    found = reproduce_entry(config, key)
    if out is not None:
        out.write_bytes(found.data)
    print_facts(f"reproduced {found.asset_id}", found.as_dict(), as_json)
    if not (found.base_agrees and found.master_agrees):
        raise typer.Exit(SOME_FAILED)


def match(
    config: ConfigPath,
    inventory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures, such as photos of the stock.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="Look for this instead (repeatable).")] = None,
    top: Annotated[int, typer.Option(min=1, help="Pictures to give for each.")] = 5,
    version: Version = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a .csv or .json file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the pictures of an inventory nearest to each published variant, or to a text, by the judge's embeddings."""
    from assetmill.operate.match import check_ending, match_inventory, show_matches, write_matches

    if out is not None:
        check_ending(out)
    found = match_inventory(config, inventory, texts=text or (), top=top, version=version)
    if out is not None:
        write_matches(found, out)
    print_json(found.as_dict()) if as_json else show_matches(stderr_console(), found)
    if found.unusable:
        raise typer.Exit(SOME_FAILED)


def _show_report(job: Job, report: dict[str, Any], as_json: bool) -> None:
    from assetmill.operate.summary import places_of, show_report

    places = places_of(job.store, job.config, report)
    if as_json:
        print_json({**report, "places": places})
    else:
        show_report(stderr_console(), report, places)


def _read_plan_file(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from assetmill.records import InputError, Problem

    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            Problem(f"the plan cannot be read ({error.strerror})", "write one with `plan --out`", str(path))
        ) from error


def _attend(run: Run) -> None:
    """Log lines bear the run's id; SIGTERM and the first Ctrl-C drain it, a second one kills."""
    from assetmill.operate.logs import name_run
    from assetmill.operate.stopping import stop_on_signal

    name_run(run.id)
    stop_on_signal(run)
