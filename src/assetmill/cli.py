"""The command line: thin commands over the library. The config is the first argument everywhere.

Exit codes: 0 done, 1 some items failed, 2 bad input, 3 already running, 4 budget reached, 5 store or device
unavailable, 70 a bug. Tables and progress go to stderr, `--json` gives one object on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assetmill import __version__
from assetmill.cli_models import models_app
from assetmill.operate.exits import SOME_FAILED, UNAVAILABLE, print_json, run_command

if TYPE_CHECKING:
    from rich.console import Console

    from assetmill.pipeline import Job, Run
    from assetmill.storage.catalog import Catalog
    from assetmill.storage.store import Store

app = typer.Typer(
    help="Spreadsheets in, ranked and upscaled image variants with a versioned catalog out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
catalog_app = typer.Typer(help="What is published, by version.", no_args_is_help=True, rich_markup_mode=None)
runs_app = typer.Typer(help="What ran, and how it ended.", no_args_is_help=True, rich_markup_mode=None)
eval_app = typer.Typer(help="Measure models.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(catalog_app, name="catalog")
app.add_typer(runs_app, name="runs")
app.add_typer(eval_app, name="eval")
app.add_typer(models_app, name="models")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Config file (YAML).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="Only this asset (repeatable).")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first assets of the sheet.")]
Force = Annotated[
    bool, typer.Option("--force", help="Go past max_removed and max_changed; try exhausted and failed assets again.")
]
Version = Annotated[int | None, typer.Option(min=1, help="A catalog version; the latest if left out.")]


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _open_store_of(config_path: Path, *, read_only: bool = True) -> tuple[str, Store]:
    from assetmill.config import read_config
    from assetmill.storage.store import open_store

    config = read_config(config_path)
    return config.name, open_store(config.store, config.store_url, read_only=read_only)


def _open_catalog_of(config_path: Path, *, read_only: bool = True) -> Catalog:
    from assetmill.storage.catalog import open_catalog

    name, store = _open_store_of(config_path, read_only=read_only)
    return open_catalog(store, name)


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


# --- making -------------------------------------------------------------------------------------------------


@app.command()
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
        _console().print(f"Next: assetmill run {config}", highlight=False)


@app.command()
def check(config: ConfigPath, as_json: AsJson = False) -> None:
    """Read config, sheet, templates and model folders, and render every prompt. Loads no model, makes nothing."""
    from assetmill.pipeline import check_job, open_job

    found = check_job(open_job(config))
    if as_json:
        print_json(found)
    else:
        from assetmill.operate.console import facts_table
        from assetmill.operate.summary import terms_text

        console, shown = _console(), {**found, "licences": terms_text(found["licences"])}
        console.print(facts_table(str(config), {k: v for k, v in shown.items() if k != "remarks"}))
        for remark in found["remarks"]:
            console.print(remark, style="yellow", markup=False, highlight=False)
    if found["bad_rows"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
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
    summary = {**summarise_plan(made, job.config, rates_of(job)), "licences": job.licences}
    if out is not None:
        out.write_bytes(pin_plan(made, summary))
        summary["plan_file"] = str(out)
    if as_json:
        print_json(summary)
    else:
        from assetmill.operate.summary import show_plan

        model = f"{job.model.id} at {job.base.width}x{job.base.height}, {job.base.steps} steps"
        show_plan(_console(), summary, model, job.store.url)


@app.command()
def run(
    config: ConfigPath,
    only: Only = None,
    limit: Limit = None,
    force: Force = False,
    plan_path: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Run exactly this plan, or exit 2 when it is stale.")
    ] = None,
    publish_now: Annotated[bool, typer.Option("--publish/--no-publish", help="Publish what is chosen.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make, rank, upscale and publish what is left to do. Killed at any moment, the same command resumes."""
    from assetmill.operate.console import ConsoleProgress
    from assetmill.pipeline import open_job, run_job

    plan_file = _read_plan_file(plan_path)
    job = open_job(config, only=only or (), limit=limit, force=force)
    with ConsoleProgress(_console(), enabled=not as_json) as progress:
        report = run_job(
            job, plan_file=plan_file, plan_name=str(plan_path or ""), progress=progress, publish_now=publish_now,
            on_run=_stop_on_signal,
        )  # fmt: skip
    _show_report(job, report, as_json)
    raise typer.Exit(report["exit_code"])


@app.command()
def publish(config: ConfigPath, as_json: AsJson = False) -> None:
    """Publish what earlier runs chose; make nothing."""
    from assetmill.pipeline import open_job, publish_job

    job = open_job(config)
    report = publish_job(job)
    _show_report(job, report, as_json)
    raise typer.Exit(report["exit_code"])


@app.command()
def export(
    config: ConfigPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for plain files with stable names.")],
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write the catalog's pictures under plain names, with catalog.jsonl and catalog.csv, for people and engines."""
    from dataclasses import asdict

    from assetmill.deliver.export import export_catalog
    from assetmill.storage.catalog import open_catalog

    name, store = _open_store_of(config)
    found = export_catalog(open_catalog(store, name).iter_entries(version), store.get, folder)
    facts: dict[str, Any] = {**asdict(found), "folder": str(found.folder)}
    if not as_json:  # names are for machines; people want to know how many
        facts = {k: len(v) if isinstance(v, tuple) else v for k, v in facts.items()} | {"problems": found.problems}
    _print_facts("exported", facts, as_json)
    if found.problems:
        raise typer.Exit(SOME_FAILED)


@app.command()
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
    _print_facts(f"reproduced {found.asset_id}", found.as_dict(), as_json)
    if not (found.base_agrees and found.master_agrees):
        raise typer.Exit(SOME_FAILED)


@app.command()
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
    print_json(found.as_dict()) if as_json else show_matches(_console(), found)
    if found.unusable:
        raise typer.Exit(SOME_FAILED)


@app.command()
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
        _console().print(make_table("doctor", ("", "what", "found", "way out"), rows))
    if not all(f.ok for f in findings):
        raise typer.Exit(UNAVAILABLE)


@app.command()
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
        _console().print(make_table("starter pack", ("measure", "value", "n", "low", "high"), rows))


# --- the catalog --------------------------------------------------------------------------------------------


@catalog_app.command("list")
def catalog_list(config: ConfigPath, as_json: AsJson = False) -> None:
    """List versions."""
    from dataclasses import asdict

    catalog = _open_catalog_of(config)
    rows = [asdict(v) for v in catalog.versions()]
    if as_json:
        print_json({"latest": catalog.latest(), "held": catalog.held(), "versions": rows})
    else:
        from assetmill.operate.console import make_table

        names = ("version", "created", "assets", "variants", "action", "run", "note")
        short = [
            {**r, "created": r["created"][:16], "run": r["run"][-6:], "note": r["note"] or r["problem"]} for r in rows
        ]
        _console().print(make_table("catalog", names, [[r[n] for n in names] for r in short]))


@catalog_app.command("show")
def catalog_show(
    config: ConfigPath,
    asset: Annotated[str | None, typer.Argument(metavar="[ID]", help="One asset; all if left out.")] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Show what is published."""
    catalog = _open_catalog_of(config)
    entries = catalog.show(asset, version) if asset else list(catalog.iter_entries(version))
    if as_json:
        print_json({"version": version or catalog.latest(), "entries": [e.as_json() for e in entries]})
    else:
        from assetmill.operate.console import make_table

        rows = [
            (e.asset_id, e.rank, "" if e.score is None else f"{e.score:.3f}", f"{e.width}x{e.height}", e.object_key,
             e.request_key[:12])
            for e in entries
        ]  # fmt: skip
        _console().print(make_table("published", ("asset", "rank", "score", "size", "file", "key"), rows))


@catalog_app.command("diff")
def catalog_diff(
    config: ConfigPath,
    old: Annotated[int, typer.Argument(min=0, metavar="OLD", help="A version; 0 is the empty catalog.")],
    new: Annotated[int, typer.Argument(min=0, metavar="NEW", help="Another version.")],
    as_json: AsJson = False,
) -> None:
    """Say which assets two versions differ in."""
    from dataclasses import asdict

    found = asdict(_open_catalog_of(config).diff(old, new))
    _print_facts(f"version {old} to {new}", {k: list(v) for k, v in found.items()}, as_json)


@catalog_app.command("export")
def catalog_export(
    config: ConfigPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl or .parquet file to write.")],
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Write all that made each variant (prompts, seeds, models, scores, keys) as JSON lines or Parquet."""
    catalog = _open_catalog_of(config)
    writers = {".jsonl": catalog.export_jsonl, ".parquet": catalog.export_parquet}
    if file.suffix not in writers:
        raise typer.BadParameter(f"{file} ends neither in .jsonl nor in .parquet", param_hint="FILE")
    _print_facts("exported", {"file": str(file), "variants": writers[file.suffix](file, version)}, as_json)


@catalog_app.command("verify")
def catalog_verify(config: ConfigPath, version: Version = None, as_json: AsJson = False) -> None:
    """Read every file the catalog names and compare its bytes with its hash."""
    found = _open_catalog_of(config).verify(version)
    facts = {"objects": found.objects, "missing": list(found.missing), "corrupt": list(found.corrupt)}
    _print_facts("verified", facts, as_json)
    if found.missing or found.corrupt:
        raise typer.Exit(SOME_FAILED)


@catalog_app.command("rollback")
def catalog_rollback(
    config: ConfigPath,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="See `list`.")],
    as_json: AsJson = False,
) -> None:
    """Publish an older version again, and hold it there until `release`."""
    new = _open_catalog_of(config, read_only=False).rollback(version)
    _print_facts("rolled back", {"version": new, "like": version, "held": "until `assetmill catalog release`"}, as_json)


@catalog_app.command("release")
def catalog_release(config: ConfigPath, as_json: AsJson = False) -> None:
    """Let publishing go on after a rollback."""
    catalog = _open_catalog_of(config, read_only=False)
    was = catalog.held()
    catalog.release()
    _print_facts("released", {"was_held": was or "not held"}, as_json)


# --- runs ---------------------------------------------------------------------------------------------------


@runs_app.command("list")
def runs_list(config: ConfigPath, as_json: AsJson = False) -> None:
    """List runs, oldest first."""
    from assetmill.operate.runs import holder_run_id, list_runs

    name, store = _open_store_of(config)
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
        _console().print(make_table("runs", names, [tuple(r.values()) for r in rows]))


@runs_app.command("show")
def runs_show(
    config: ConfigPath, run_id: Annotated[str, typer.Argument(metavar="RUN")], as_json: AsJson = False
) -> None:
    """Show a run's report."""
    from assetmill.operate.runs import find_run

    name, store = _open_store_of(config)
    _print_facts(f"run {run_id}", dict(find_run(store, name, run_id)), as_json)


# --- showing ------------------------------------------------------------------------------------------------


def _print_facts(title: str, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        from assetmill.operate.console import facts_table

        _console().print(facts_table(title, facts))


def _show_report(job: Job, report: dict[str, Any], as_json: bool) -> None:
    from assetmill.operate.summary import places_of, show_report

    places = places_of(job.store, job.config, report)
    if as_json:
        print_json({**report, "places": places})
    else:
        show_report(_console(), report, places)


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


def _stop_on_signal(run: Run) -> None:
    """SIGTERM and the first Ctrl-C let the batch on the device end and write what is whole; a second one kills."""
    import signal

    from assetmill.operate.logs import name_run

    name_run(run.id)

    def stop(number: int, _frame: Any) -> None:
        run.reason = run.reason or f"stopped by {signal.Signals(number).name}"
        run.stop.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def main() -> None:
    """Runs the command line and exits with the code of what happened."""
    sys.exit(run_command(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    main()
