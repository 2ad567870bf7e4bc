"""Writing the report: facts and page into the run's folder, and again when people have decided since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assetmill.intake.plan import Plan
from assetmill.operate.job import Job
from assetmill.operate.morning.arms import compare_arms
from assetmill.operate.morning.attention import look_first
from assetmill.operate.morning.comparing import changes_between, say_shift, shift_of, spikes_of
from assetmill.operate.morning.gathering import NUM_SHOWN, SCHEMA, gather_context, gather_night
from assetmill.operate.morning.page import Card, Page, arm_table, data_uri, figures_of, render_page, yield_tables
from assetmill.operate.morning.pictures import small_picture
from assetmill.operate.morning.plots import Plot, draw_nights, draw_stages
from assetmill.operate.runs import run_time
from assetmill.records import InputError, Problem
from assetmill.storage.layout import run_path, runs_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.reviews import NOTHING, ReviewState
from assetmill.storage.store import CorruptObject, MissingObject, Store

PAGE, FACTS = "report.html", "morning.json"

NUM_NIGHTS = 30
"""Former nights that a report looks back on."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What of a page can be made before the run's report is: the gathered facts, pictures, plots, and former nights."""

    facts: Mapping[str, Any]
    cards: tuple[Card, ...] = ()
    plots: tuple[Plot, ...] = ()
    earlier: tuple[Mapping[str, Any], ...] = ()
    reviews: Mapping[str, ReviewState] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Of an experiment's examples, as data URIs by blob."""


def draw_night(
    job: Job, run_id: str, plan: Plan, version: int, reviews: Mapping[str, ReviewState],
    statuses: Mapping[bytes, int] | None,
) -> Drawn:  # fmt: skip
    """Gathers and draws a night. Reads index and pictures where it made something: then `statuses` is given.

    `statuses` and the catalog `version` are those of before the run, `job.index` is of after it. A night that made
    nothing gets a page without pictures and plots, and loads nothing heavy for it.
    """
    facts = {"started": run_started(run_id), **gather_context(job, plan, version, reviews)}
    if statuses is not None:
        facts |= gather_night(job, plan, statuses, version)
    if job.experiment is not None:
        facts["experiment"] = compare_arms(job, reviews)
    return _draw(job.store, job.config.name, run_id, facts, reviews)


def _draw(
    store: Store, config_name: str, run_id: str, facts: Mapping[str, Any], reviews: Mapping[str, ReviewState]
) -> Drawn:
    earlier = tuple(read_nights(store, config_name, run_id))
    examples = [e[side] for arm in facts.get("experiment", ()) for e in arm["examples"] for side in ("control", "arm")]
    pictures = {named["blob"]: _picture(store, named) for named in examples}
    if not facts.get("num_assets"):
        return Drawn(facts, earlier=earlier, reviews=reviews, pictures=pictures)
    made = [night for night in (*earlier, facts) if night.get("num_assets")]
    cards = draw_cards(store, facts["assets"], reviews)
    return Drawn(facts, cards, tuple(draw_nights(made)), earlier, reviews, pictures)


def draw_cards(
    store: Store, assets: Sequence[Mapping[str, Any]], reviews: Mapping[str, ReviewState]
) -> tuple[Card, ...]:
    """The first assets with their best picture, and the published one it takes the place of."""

    def card(asset: Mapping[str, Any]) -> Card:
        review, blob = reviews.get(asset["id"], NOTHING), asset.get("blob", "")
        said = "approved" if blob in review.approved else "rejected" if blob in review.rejected else ""
        return Card(asset, _picture(store, asset), _picture(store, asset.get("before", {})), said)

    return tuple(map_ahead(card, assets[:NUM_SHOWN], threads=2))


def _picture(store: Store, named: Mapping[str, Any]) -> str:
    data = small_picture(store, named["blob"], named.get("media_type", "")) if named.get("blob") else None
    return data_uri(data) if data is not None else ""


def read_nights(store: Store, config_name: str, before: str) -> list[Mapping[str, Any]]:
    """The facts of the last nights before a run, oldest first. Damaged ones are passed over."""
    keys = [info.key for info in store.list(runs_prefix(config_name)) if info.key.endswith(f"/{FACTS}")]
    keys = [key for key in keys if key.split("/")[-2] < before][-NUM_NIGHTS:]
    return [night for night in map_ahead(lambda key: _read(store, key), keys, threads=4) if night]


def _read(store: Store, key: str) -> Mapping[str, Any]:
    try:
        night = json.loads(store.get(key))
        return night if isinstance(night, dict) and night.get("schema") == SCHEMA else {}
    except (ValueError, MissingObject, CorruptObject):
        return {}


def _complete(night: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """The gathered facts with those of the report that later nights compare themselves with."""
    names = ("run", "config", "started", "status", "seconds", "pictures", "versions", "lanes")
    stages = report["stages"]
    device = stages.get("generate", {}).get("seconds", 0.0) / max(report.get("lanes", 1), 1)
    device += sum(stages.get(name, {}).get("seconds", 0.0) for name in ("judge", "upscale"))
    return {
        "schema": SCHEMA,
        "record": "morning",
        **{name: report[name] for name in names},
        "device_seconds": round(device, 3),
        **night,
    }


def write_report(store: Store, drawn: Drawn, report: Mapping[str, Any]) -> str:
    """Writes `morning.json` and `report.html` of a run, and gives the page's key."""
    facts = _complete(drawn.facts, report)
    name, run_id = report["config"], report["run"]
    body = (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "surrogatepass")
    store.put_if_absent(run_path(name, run_id, FACTS), body, media_type="application/json")
    key = run_path(name, run_id, PAGE)
    store.put_if_absent(key, _page_bytes(facts, report, drawn), media_type="text/html; charset=utf-8")
    return key


def rebuild_report(store: Store, config_name: str, run: str, reviews: Mapping[str, ReviewState]) -> str:
    """Draws the page of a run again, with what people decided since, and gives its key.

    `run` may be the beginning of an id; empty is the last run that has a report. Raises InputError where there is none.
    """
    prefix = runs_prefix(config_name)
    names = [i.key.split("/")[-2] for i in store.list(prefix) if i.key.endswith(f"/{FACTS}")]
    found = [name for name in names if name.startswith(run)] if run else names[-1:]
    if len(found) != 1:
        what = f"{len(found)} runs have a report and are" if found else "no run with a morning report is"
        named = f" named {run!r}" if run else ""
        raise InputError(Problem(f"{what}{named or ' there'}", "see `assetmill runs list CONFIG`"))
    (run_id,) = found
    facts = _read(store, run_path(config_name, run_id, FACTS))
    report = _read_report(store, run_path(config_name, run_id, "report.json"))
    if not facts or not report:
        raise InputError(Problem(f"the facts of run {run_id} are damaged", "look at `assetmill runs show`"))
    drawn = _draw(store, config_name, run_id, facts, reviews)
    key = run_path(config_name, run_id, PAGE)
    store.replace(key, _page_bytes(facts, report, drawn), media_type="text/html; charset=utf-8")
    return key


def _read_report(store: Store, key: str) -> Mapping[str, Any]:
    try:
        report = json.loads(store.get(key))
        return report if isinstance(report, dict) else {}
    except (ValueError, MissingObject, CorruptObject):
        return {}


def _page_bytes(facts: Mapping[str, Any], report: Mapping[str, Any], drawn: Drawn) -> bytes:
    html = render_page(build_page(facts, report, drawn))
    return html.encode("utf-8", "replace")  # a lone surrogate of a broken sheet is no valid HTML


def build_page(facts: Mapping[str, Any], report: Mapping[str, Any], drawn: Drawn) -> Page:
    """What a page shows of a night, beside the nights before it."""
    earlier, reviews = drawn.earlier, drawn.reviews
    former = earlier[-1] if earlier else None
    made = [night for night in earlier if night.get("num_assets")]
    last_made = made[-1] if made else None
    shift = shift_of(facts, last_made) if facts.get("num_assets") else None
    shifts = []
    if shift is not None and shift.overall is not None:
        shifts.append(say_shift(shift.overall, "The mean score of the chosen"))
    if shift is not None and shift.paired is not None:
        shifts.append(say_shift(shift.paired, "The mean score of assets that had a picture before"))
    plots = [*drawn.plots, *draw_stages(report["stages"])] if facts.get("num_assets") else []
    changes = changes_between(_known_of(earlier), facts) if former is not None else []
    return Page(
        night=facts,
        report=report,
        former=former,
        notices=look_first(facts, report, spikes_of(facts, made)),
        changes=changes,
        shifts=shifts,
        yields=yield_tables(facts.get("yields", {})),
        cards=drawn.cards,
        plots=plots,
        figures=figures_of(facts, report, _approvals([*earlier, facts], reviews)),
        people=_say_people(former, reviews),
        arms=[arm_table(arm, drawn.pictures) for arm in facts.get("experiment", ())],
    )


def _known_of(nights: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last night, with the library versions of the last that loaded any."""
    versions: Mapping[str, str] = next((night["versions"] for night in reversed(nights) if night.get("versions")), {})
    return {**nights[-1], "versions": versions}


def _approvals(nights: Sequence[Mapping[str, Any]], reviews: Mapping[str, ReviewState]) -> dict[str, Any]:
    """What people approved since the first of some nights, and what those nights cost."""
    since = nights[0]["started"]
    approved = sum(any(_stamp(d.at) >= _stamp(since) for d in r.approvals.values()) for r in reviews.values())
    return {
        "approved": approved,
        "nights": len(nights),
        "device_seconds": sum(night.get("device_seconds", 0.0) for night in nights),
    }


def _say_people(former: Mapping[str, Any] | None, reviews: Mapping[str, ReviewState]) -> list[str]:
    """What people decided since the last night, and in all."""
    approved = sum(bool(r.approved) for r in reviews.values())
    rejected = sum(len(r.rejected) for r in reviews.values())
    said = []
    if approved or rejected:
        said.append(f"In all {approved:,} assets are approved and {rejected:,} pictures rejected.")
    if former is not None:
        since = _stamp(former["started"])
        new = [d for r in reviews.values() for d in r.decisions if d.number not in r.undone and _stamp(d.at) >= since]
        kinds = {kind: sum(d.kind == kind for d in new) for kind in ("approve", "reject", "reroll", "vary", "adopt")}
        words = {
            "approve": "approved", "reject": "rejected", "reroll": "asked for more or others", "vary": "varied",
            "adopt": "brought from outside",
        }  # fmt: skip
        parts = [f"{count:,} {words[kind]}" for kind, count in kinds.items() if count]
        if parts:
            said.append(f"Since the last night: {', '.join(parts)}.")
    return said


def run_started(run_id: str) -> str:
    """When a run began, ISO 8601 in UTC, from its id."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(run_time(run_id), UTC).isoformat(timespec="seconds")


def _stamp(iso: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(iso).timestamp()
