"""`assetmill rehearse`: golden rows made again, drift measured, baselines accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from assetmill.cli.shared import AsJson, By, ConfigPath, Reason, stderr_console, who
from assetmill.operate.exits import SOME_FAILED, print_json

if TYPE_CHECKING:
    from assetmill.operate.rehearsing import Finding
    from assetmill.storage.store import Store


def rehearse(
    config: ConfigPath,
    accept: Annotated[bool, typer.Option("--accept", help="Make it the baseline, whatever the drift.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Even where nothing changed, or it was made already.")] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="Take the golden rows from the sheet of today, not from the baseline.")
    ] = False,
    reason: Reason = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Make the golden rows with today's model, libraries and settings, and measure how far they drifted."""
    from assetmill.operate.lock import hold_lock
    from assetmill.operate.rehearsing import accept_finding, examine, settle_finding
    from assetmill.pipeline import open_job
    from assetmill.records import InputError, Problem

    job = open_job(config)
    if not job.config.rehearsal.is_on:
        way_out = "name ids in rehearsal.assets, or set rehearsal.sample"
        raise InputError(Problem("there are no golden rows", way_out, str(config), column="rehearsal"))
    with hold_lock(job.store, job.config.name, owner={"command": "rehearse"}):
        job.refresh()
        found = examine(job, again=again, renew=renew)
        if accept and found.outcome != "unchanged":
            found = accept_finding(job.store, found, by=who(by), reason=reason)
        else:
            found = settle_finding(job, found)
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found, job.store)
    if not found.holds:
        raise typer.Exit(SOME_FAILED)


def _show(found: Finding, store: Store) -> None:
    from assetmill.curate.drift import LEVEL
    from assetmill.operate.console import facts_table, make_table
    from assetmill.operate.rehearsing import WAY_OUT

    console, rehearsal = stderr_console(), found.rehearsal
    facts: dict[str, Any] = {
        "outcome": found.outcome,
        "baseline": f"{found.baseline.number}, accepted by {found.baseline.by}" if found.baseline else "none yet",
        "made": f"{found.num_made} pictures" if found.num_made else "",
        "why": found.reason,
        "way out": WAY_OUT if found.reason else "",
    }
    if rehearsal is not None:
        facts["page"] = str(store.local_path(rehearsal.page_key) or rehearsal.page_key)
    console.print(facts_table("rehearsal", facts))
    if rehearsal is None:
        return
    rows = [
        (
            m.name, f"{m.old:.4f}", f"{m.new:.4f}", f"{m.change:+.4f}",
            "" if m.low is None or m.high is None else f"{m.low:+.4f} to {m.high:+.4f}",
            "" if m.limit is None else f"{m.limit:g}{' (beyond)' if m.beyond else ''}",
        )
        for m in rehearsal.measures.values()
    ]  # fmt: skip
    if rows:
        names = ("measure", "before", "now", "change", f"{LEVEL:.0%} interval", "may fall by")
        console.print(make_table("drift", names, rows))
    for line in (*rehearsal.changed, *rehearsal.problems):
        console.print(line, style="dim", markup=False, highlight=False)
