"""What a run did: its totals, its report, its contact sheet, and what pictures cost for the next plan."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assetmill.config import BudgetConfig, Config
from assetmill.deliver.contact_sheet import ContactRow, draw_contact_sheet
from assetmill.intake.plan import Plan, Rates, guess_rates
from assetmill.operate.outlets import Outlets
from assetmill.operate.produce import Chunk, ChunkResult
from assetmill.operate.publish import Publication
from assetmill.operate.runs import run_time
from assetmill.operate.settle import extension_of
from assetmill.operate.stages import Stages
from assetmill.operate.stopping import CANCELLED, TIMED_OUT
from assetmill.records import Prompt, Request, content_key
from assetmill.storage.index import AssetHistory, Index
from assetmill.storage.layout import run_path, runs_prefix
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob

_SHEET_ASSETS = 60
"""Assets on a run's contact sheet: more would not be looked at on one page."""

_RATE_RUNS = 20
"""How many of the latest reports are searched for rates."""


@dataclass(slots=True)
class RunTotals:
    """Counts that grow while a run goes on. `clock` starts when the totals are made."""

    chunks: int = 0
    pictures: int = 0
    rejected: int = 0
    failed_images: int = 0
    chosen: int = 0
    cut: int = 0
    lanes: int = 1
    in_flight: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    finished: set[str] = field(default_factory=set)
    troubled: dict[str, str] = field(default_factory=dict)
    set_aside: tuple[str, ...] = ()
    crashed: tuple[str, ...] = ()
    workers: Counter[str] = field(default_factory=Counter)
    versions: Mapping[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def opened(self, chunk: Chunk) -> None:
        with self._lock:
            self.in_flight += sum(p.missing for p in chunk.plans)

    def add(self, result: ChunkResult) -> None:
        with self._lock:
            self.chunks += 1
            self.pictures += result.pictures
            self.rejected += result.rejected
            self.failed_images += result.failed
            self.chosen += result.chosen
            self.cut += result.cut
            self.outcomes.update(result.outcomes.values())
            self.finished.update(result.outcomes)
            for asset_id, status in result.outcomes.items():
                if status in ("exhausted", "failed", "transient"):
                    self.troubled[asset_id] = status

    def over_budget(self, budget: BudgetConfig, stages: Stages, num_images: int = 0) -> str:
        """Which budget is used up, or would be by that many more images, in words; empty when none is.

        Chunks already begun are counted in full. The first chunk may always begin, so that a night gets somewhere.
        """
        begun = max(self.in_flight, stages.count("generate"))
        seconds = stages.seconds("generate") / self.lanes + sum(stages.seconds(name) for name in ("judge", "upscale"))
        minutes = seconds / 60
        if budget.images is not None and begun and begun + num_images > budget.images:
            return f"budget reached: {budget.images} images"
        if budget.device_minutes is not None and minutes >= budget.device_minutes:
            return f"budget reached: {budget.device_minutes:g} device minutes"
        if budget.bytes is not None and stages.num_bytes("store") >= budget.bytes:
            return f"budget reached: {budget.bytes} bytes"
        return ""


def build_report(
    run_id: str,
    config: Config,
    base: Request,
    plan: Plan,
    totals: RunTotals,
    published: Publication,
    stages: Stages,
    reason: str,
    *,
    num_chunks: int = 0,
    damaged: Sequence[str] = (),
    outlets: Outlets | None = None,
) -> dict[str, Any]:
    """A run's report as JSON. `exit_code` follows the table in the README.

    `num_chunks` counts the chunks that the run set out to make; `damaged` says which stored records could not be read
    and are left out.
    """
    seconds = time.monotonic() - totals.began
    left = max(len(plan.todo) - sum(totals.outcomes.values()), 0)
    troubled = {**totals.troubled, **dict.fromkeys(totals.set_aside, "set aside")}
    troubled |= dict.fromkeys(totals.crashed, "its worker process died; tried alone by the next run")
    troubled |= dict.fromkeys(published.damaged, "picture lost, made again by the next run")
    troubled |= {asset_id: f"not published: {reason}" for asset_id, reason in published.failed.items()}
    if reason.startswith("budget"):
        status, code = "budget reached", 4
    elif published.held:
        status, code = "catalog held", 2
    elif left > len(totals.set_aside) + len(totals.crashed) and totals.chunks < num_chunks:
        status, code = next((s for s in (CANCELLED, TIMED_OUT) if reason.startswith(s)), "stopped"), 1
    elif troubled or published.refused or plan.bad_rows or (outlets is not None and outlets.problems):
        status, code = "done, some items failed", 1
    elif not plan.work and not published.files and not published.removed:
        status, code = "nothing to do", 0
    else:
        status, code = "done", 0
    return {
        "schema": 1,
        "record": "report",
        "run": run_id,
        "config": config.name,
        "status": status,
        "exit_code": code,
        "reason": reason or published.held,
        "started": _iso(run_time(run_id)),
        "seconds": round(seconds, 3),
        "states": plan.counts(),
        "assets": sum(totals.outcomes.values()),
        "outcomes": dict(totals.outcomes),
        "left": left,
        "images_left": sum(p.missing for p in plan.todo if p.asset.id not in totals.finished),
        "chunks": totals.chunks,
        "pictures": totals.pictures,
        "rejected": totals.rejected,
        "failed_images": totals.failed_images,
        "chosen": totals.chosen,
        "cut": totals.cut,
        "lanes": totals.lanes,
        "workers": dict(totals.workers),
        "troubled": troubled,
        "bad_rows": [str(p) for p in plan.bad_rows],
        "damaged": list(damaged),
        "published": published.published,
        "files": published.files,
        "files_made": published.num_made,
        "refused_files": {asset_id: list(reasons) for asset_id, reasons in published.refused.items()},
        "removed": published.removed,
        "catalog_version": published.version,
        **(outlets or Outlets()).as_dict(),
        "stages": stages.as_dict(),
        "images_per_second": round(totals.pictures / seconds, 3) if totals.pictures else 0.0,
        "rates": _measured_rates(totals, stages),
        "rates_of": rates_key(config, base),
        "versions": dict(totals.versions),
    }


def rates_key(config: Config, base: Request) -> str:
    """Names what a rate holds for: model, size, steps, upscaler and device settings."""
    payload = {
        "model": [base.engine, base.epoch, base.revision, base.width, base.height, base.steps, base.scheduler],
        "upscale": config.upscale.model_dump(mode="json"),
        "device": [config.model.device, config.model.dtype, config.model.compile],
    }
    return content_key("rates", payload)


def _measured_rates(totals: RunTotals, stages: Stages) -> dict[str, float] | None:
    if not totals.pictures:
        return None
    made = max(stages.count("generate"), 1)
    enlarged = stages.count("upscale")
    per_file = stages.num_bytes("store") / max(stages.count("store"), 1)
    return {
        "candidate_seconds": (stages.seconds("generate") / totals.lanes + stages.seconds("judge")) / made,
        "upscale_seconds": stages.seconds("upscale") / enlarged if enlarged else 0.0,
        "candidate_bytes": per_file,
        "upscale_bytes": per_file,
    }


def best_known_rates(store: Store, config: Config, base: Request, scale: int) -> Rates:
    """Rates of the latest run with the same model and settings, else a guess that says so."""
    wanted = rates_key(config, base)
    keys = [i.key for i in store.list(runs_prefix(config.name)) if i.key.endswith("/report.json")]
    for key in reversed(keys[-_RATE_RUNS:]):
        try:
            report = json.loads(store.get(key))
            if report.get("rates_of") == wanted and report.get("rates"):
                return Rates(**report["rates"], basis=f"measured in run {report['run']}")
        except (ValueError, TypeError, AttributeError, MissingObject):
            continue  # a damaged report is told of by `assetmill runs`; here it only lends no rates
    return guess_rates(config, base, scale)


def draw_run_sheet(store: Store, config: Config, index: Index, run_id: str, plan: Plan) -> str | None:
    """Draws the contact sheet of a run's first assets into its folder; gives its key, or None without pictures."""
    shown = [p for p in plan.todo if p.prompts][:_SHEET_ASSETS]
    histories = index.history([p.asset.id for p in shown])
    rows = []
    for asset_plan in shown:
        history = histories.get(asset_plan.asset.id)
        row = contact_row(store, history, asset_plan.asset.id, asset_plan.prompts)
        if row is not None:
            rows.append(row)
    if not rows:
        return None
    data = draw_contact_sheet(rows, title=config.name, date=f"{_iso(run_time(run_id))}  ·  run {run_id}")
    key = run_path(config.name, run_id, "contact-sheet.png")
    store.put_if_absent(key, data, media_type="image/png")
    return key


def contact_row(
    store: Store, history: AssetHistory | None, asset_id: str, prompts: Sequence[Prompt], *, limit: int = 8
) -> ContactRow | None:
    """An asset's candidates for a contact sheet: the chosen ones by rank, then the others, best first.

    Candidates of other texts than those of `prompts` (the row was changed since) are left out.
    """
    if history is None or not history.candidates:
        return None
    texts = {p.positive for p in prompts}
    scores: Mapping[str, float] = {s.request_key: s.value for s in history.scores.values() if s.value is not None}
    rejected = {g.subject: g.reason or g.gate for g in history.gates if not g.passed}
    chosen: dict[str, int] = {}
    if history.outcome is not None:
        found = [history.variants[k].request_key for k in history.outcome.chosen if k in history.variants]
        chosen = {key: rank for rank, key in enumerate(found)}
    current = [k for k in history.candidates if k in history.requests and history.requests[k].request.positive in texts]
    keys = sorted(current, key=lambda k: (chosen.get(k, limit), k in rejected, -scores.get(k, float("-inf")), k))[
        :limit
    ]
    pictures: list[bytes] = []
    captions: list[str] = []
    shown: list[str] = []
    for key in keys:
        try:
            made = history.candidates[key]
            pictures.append(get_blob(store, made.blob, extension_of(made.media_type)))
        except (MissingObject, CorruptObject):
            continue
        score = f"{scores[key]:.3f}" if key in scores else "no score"
        captions.append(f"rejected\n{rejected[key]}" if key in rejected else score)
        shown.append(key)
    if not pictures:
        return None
    return ContactRow(
        asset_id,
        prompts[0].rank_text if prompts else "",
        pictures,
        captions,
        chosen=[i for i, key in enumerate(shown) if key in chosen],
        rejected=[i for i, key in enumerate(shown) if key in rejected],
        note=history.outcome.reason if history.outcome is not None else "",
    )


def _iso(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
