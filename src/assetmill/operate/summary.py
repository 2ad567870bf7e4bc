"""A plan and a report as a person reads them on a terminal, and where the pictures are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from assetmill.config import Config
from assetmill.operate.console import facts_table, human_bytes, human_seconds, make_table
from assetmill.records import STATES
from assetmill.storage.layout import catalog_prefix
from assetmill.storage.store import Store


def show_plan(console: Console, summary: Mapping[str, Any], model: str, store_url: str) -> None:
    """Prints the counts, the cost and sample prompts of `summarise_plan`'s object."""
    console.print(make_table("assets", ("state", "count"), [(s, summary[s]) for s in STATES if summary[s]]))
    busy = summary["candidates"] or summary["upscales"]
    facts = {
        "candidates": f"{summary['candidates']} (at most {summary['candidates_max']})" if busy else "none",
        "of them for the experiment": summary["trials"] or "",
        "upscales": summary["upscales"],
        "time": f"about {human_seconds(summary['seconds'])} ({summary['basis']})" if busy else "",
        "size": f"about {human_bytes(summary['bytes'])}" if busy else "",
        "bad rows": summary["bad_rows"],
        "model": model,
        "licences": terms_text(summary.get("licences", {})),
        "store": store_url,
    }
    console.print(facts_table("work", facts))
    for remark in summary.get("refused_files", ()):
        console.print(remark, style="yellow", markup=False, highlight=False)
    if summary["bans"]:
        console.print(make_table("banned", ("assets", "why"), [(n, why) for why, n in summary["bans"].items()]))
    for sample in summary["samples"]:
        flags = f" [{', '.join(sample['flags'])}]" if sample["flags"] else ""
        console.print(f"{sample['asset']}: {sample['positive']}{flags}", style="dim", markup=False, highlight=False)


def show_report(console: Console, report: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Prints a run's report: what was made, what is left, what went wrong, where things are."""
    facts = {
        "status": report["status"],
        "why": report["reason"],
        "time": human_seconds(report["seconds"]),
        "made": made_text(report),
        "rate": f"{report['images_per_second']} images/s" if report["pictures"] else "",
        "cut mid-way": report.get("cut", 0),
        "rejected": report["rejected"],
        "failed": report["failed_images"],
        "left": left_text(report),
        "published": f"{report['files']} files of {report['published']} assets" if report["files"] else "",
        "removed": report["removed"],
        "catalog": f"version {report['catalog_version']}" if report["catalog_version"] else "",
        "licences": terms_text(report.get("licences", {})),
        **places,
    }
    console.print(facts_table(f"{report['config']} · run {report['run']}", facts))
    if report["troubled"]:
        console.print(make_table("troubled assets", ("asset", "status"), list(report["troubled"].items())[:20]))
    lacking = [(asset_id, "; ".join(reasons)) for asset_id, reasons in report.get("refused_files", {}).items()]
    if lacking:
        console.print(make_table("files a channel lacks", ("asset", "why"), lacking[:20]))
    for problem in report["bad_rows"][:20]:
        console.print(f"bad row: {problem}", style="yellow", markup=False, highlight=False)


def made_text(report: Mapping[str, Any]) -> str:
    """What a run made; empty where it made no picture. Without an asset of its own it was an experiment's."""
    if not report["pictures"]:
        return ""
    what = f"of {report['assets']} assets" if report["assets"] else "for the experiment"
    return f"{report['pictures']} images {what}"


def left_text(report: Mapping[str, Any]) -> str:
    """What a run left for the next one, in words; empty when that is nothing."""
    images = report.get("images_left", 0)
    return f"{report['left']} assets, {images} images to make" if report["left"] else ""


def terms_text(licences: Mapping[str, str]) -> str:
    """What may be done with the weights: one line where all roles have the same licence, else one for each."""
    if len(set(licences.values())) == 1:
        return next(iter(licences.values()))
    return "\n".join(f"{role}: {terms}" for role, terms in licences.items())


def places_of(store: Store, config: Config, report: Mapping[str, Any]) -> dict[str, str]:
    """Where a person finds the pictures, the contact sheet and the catalog: paths, or keys of a bucket."""
    names = list(config.publish.channels) or [config.publish.channel]
    shown = {"pictures" if len(names) == 1 else f"pictures for {name}": f"published/{name}" for name in names}
    places = {label: place_of(store, key) for label, key in shown.items()} if report["catalog_version"] else {}
    if report.get("contact_sheet"):
        places["contact sheet"] = place_of(store, report["contact_sheet"])
    if report.get("report_page"):
        places["morning report"] = place_of(store, report["report_page"])
    if report["catalog_version"]:
        places["catalog file"] = place_of(store, f"{catalog_prefix(config.name)}latest.json")
    return places


def place_of(store: Store, key: str) -> str:
    """Where a person finds an object: the path of its file, or its URL in a bucket."""
    path = store.local_path(key)
    return str(path) if path is not None else f"{store.url.rstrip('/')}/{key}"
