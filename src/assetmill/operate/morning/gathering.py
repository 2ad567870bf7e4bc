"""What a night did, gathered from the index while it still knows what was there before: the facts of its report.

The facts are plain JSON values (`morning.json` in the run's folder). With them a page can be drawn again at any time,
and later nights compare themselves with this one without reading the index for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assetmill.config import Config
from assetmill.intake.arms import template_of
from assetmill.intake.plan import AssetPlan, Plan
from assetmill.operate.job import Job
from assetmill.records import CandidateRecord, RequestRecord, asset_key
from assetmill.storage.catalog import CatalogEntry, open_catalog
from assetmill.storage.index import CUT, OK, POISON, REJECTED, AssetHistory
from assetmill.storage.reviews import ReviewState
from assetmill.storage.segments import EXPIRED

SCHEMA = 1

NUM_SHOWN = 96
"""Assets whose best picture is on the page: more make it heavy and are not looked at."""

MAX_VALUES = 12
"""Distinct values up to which a column or axis is broken down: more are ids, not groups."""

_MAX_SCORES = 1000
_MAX_LISTED = 200
_SLICE = 256
_ENDED = (OK, REJECTED, POISON, CUT)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One image that was asked for and came to an end tonight. `gates` are those it failed, with their reasons."""

    asset_id: str
    place: Mapping[str, str]
    """What it is counted by: template, model, axes (`axis style`) and columns (`column type`)."""
    ended: str
    """`passed`, `rejected`, `failed` or `cut`."""
    score: float | None = None
    gates: tuple[tuple[str, str], ...] = ()
    chosen: bool = False


def gather_night(job: Job, plan: Plan, statuses: Mapping[bytes, int], version: int) -> dict[str, Any]:
    """The facts of a night that made something, but for what its report says (see `morning.writing`).

    `statuses` and the catalog `version` are those of before the run; `job.index` is of after it.
    """
    attempts: list[Attempt] = []
    assets: list[dict[str, Any]] = []
    failures: Counter[str] = Counter()
    # A catalog of its own: that of the job is being written to meanwhile.
    catalog = open_catalog(job.store, job.config.name)
    todo = plan.todo
    broken_down = _columns_to_break_down(todo, job.config.publish.columns)
    for start in range(0, len(todo), _SLICE):
        part = todo[start : start + _SLICE]
        ids = [p.asset.id for p in part]
        histories = job.index.history(ids)
        entries = catalog.entries_of(ids, version) if version else []
        shown_before = {e.asset_id: e for e in entries if e.rank == 1}
        for each in part:
            history = histories[each.asset.id]
            keys = _ended_tonight(history, statuses, job.config)
            for failure in (history.failures[k] for k in keys if k in history.failures):
                failures[failure.reason] += 1
            attempts += _attempts_of(each, history, keys, broken_down)
            assets.append(_describe(job, each, history, shown_before.get(each.asset.id)))
    limits = [m for m in (job.config.publish.min_score, job.config.select.min_score) if m is not None]
    return {
        "yields": count_yields(attempts),
        "rejections": _count_gates(attempts),
        "failures": dict(failures.most_common(MAX_VALUES)),
        **_scores_of(assets, job.judge.key),
        "min_score": max(limits, default=None),
        "assets": _worth_keeping(assets, limits),
        "num_assets": len(assets),
    }


def gather_context(job: Job, plan: Plan, version: int, reviews: Mapping[str, ReviewState]) -> dict[str, Any]:
    """What a night started from, whether or not it made anything: settings, models, sheet, what changed, what waits.

    `version` is the catalog's before the run.
    """
    changed: dict[str, list[str]] = defaultdict(list)
    why: dict[str, Counter[str]] = defaultdict(Counter)
    waiting: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in plan.assets:
        if each.state in ("new", "changed", "metadata_only"):
            changed[each.state].append(each.asset.id)
            why[each.state][each.reason or "not made before"] += 1
        elif each.state in ("pending_review", "exhausted", "failed", "banned"):
            waiting[each.state].append((each.asset.id, each.reason))
    removed = set(plan.removed)
    gone = []
    if removed:
        catalog = open_catalog(job.store, job.config.name)
        ids = catalog.entries(version, columns=["asset_id"]).column("asset_id").to_pylist()
        gone = sorted({i for i in ids if asset_key(i) in removed})
    return {
        "pins": {k: v for k, v in plan.pins.items() if k in ("sheet", "templates", "model", "judge", "upscaler")},
        "models": {role: spec.id for role, spec in job.recipes.specs.items()},
        "settings": job.config.model_dump(mode="json"),
        "changes": {
            state: {"count": len(ids), "ids": ids[:_MAX_LISTED], "why": dict(why[state].most_common(5))}
            for state, ids in changed.items()
        },
        "removed": {"count": len(plan.removed), "ids": gone[:_MAX_LISTED]},
        "waiting": {
            state: {"count": len(found), "assets": [list(pair) for pair in found[:_MAX_LISTED]]}
            for state, found in waiting.items()
        },
        "wishes": sum(bool(r.overrides) for r in reviews.values()),
    }


def count_yields(attempts: Sequence[Attempt]) -> dict[str, dict[str, dict[str, Any]]]:
    """By each thing images are counted by (`template`, `axis style` …) and each value of it: how many came to what.

    Images cut mid-way are no trials: nobody knows what would have become of them.
    """
    found: dict[str, dict[str, list[Attempt]]] = defaultdict(lambda: defaultdict(list))
    for each in attempts:
        for name, value in each.place.items():
            found[name][value].append(each)
    return {
        name: {value: _tally(of) for value, of in sorted(values.items())}
        for name, values in found.items()
        if len(values) <= MAX_VALUES
    }


def _tally(attempts: Sequence[Attempt]) -> dict[str, Any]:
    ended = Counter(a.ended for a in attempts)
    scores = [a.score for a in attempts if a.score is not None and a.ended == "passed"]
    return {
        "trials": len(attempts) - ended["cut"],
        "passed": ended["passed"],
        "failed": ended["failed"],
        "cut": ended["cut"],
        "chosen": sum(a.chosen for a in attempts),
        "score": round(sum(scores) / len(scores), 5) if scores else None,
    }


def _count_gates(attempts: Sequence[Attempt]) -> dict[str, dict[str, Any]]:
    """By gate: how many images it refused, and the reason it gave most often."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for each in attempts:
        for gate, reason in dict(each.gates).items():
            reasons[gate][reason] += 1
    return {
        gate: {"count": sum(said.values()), "reason": said.most_common(1)[0][0]}
        for gate, said in sorted(reasons.items(), key=lambda pair: -sum(pair[1].values()))
    }


def _columns_to_break_down(plans: Sequence[AssetPlan], allowed: Sequence[str]) -> tuple[str, ...]:
    """The columns that may leave, with at least two and few values: only what may be published is named in a report."""
    values = {name: {p.asset.columns.get(name, "") for p in plans} for name in allowed}
    return tuple(name for name, found in values.items() if 2 <= len(found) <= min(MAX_VALUES, len(plans) - 1))


def _ended_tonight(history: AssetHistory, statuses: Mapping[bytes, int], config: Config) -> list[str]:
    """Keys of the requests that had come to no end before the run, and have now; those of an experiment left out."""
    ended = {*history.candidates, *history.cuts, *(k for k, f in history.failures.items() if f.kind != EXPIRED)}
    return [
        k for k, asked in history.requests.items()
        if k in ended and statuses.get(bytes.fromhex(k), 0) not in _ENDED
        and template_of(asked.template, config) == asked.template
    ]  # fmt: skip


def _attempts_of(
    plan: AssetPlan, history: AssetHistory, keys: Sequence[str], columns: Sequence[str]
) -> Iterator[Attempt]:
    scores = _scores_by_request(history)
    refused: dict[str, dict[str, str]] = defaultdict(dict)
    for gate in history.gates:
        if not gate.passed:
            refused[_request_of(history, gate.subject)][gate.gate] = gate.reason
    chosen = _chosen_requests(history)
    of_columns = {f"column {name}": plan.asset.columns.get(name, "") for name in columns}
    for key in keys:
        asked = history.requests[key]
        place = {
            "template": asked.template,
            "model": asked.request.model,
            **{f"axis {name}": value for name, value in asked.cell.items()},
            **of_columns,
        }
        gates = tuple(refused[key].items()) if key in refused else ()
        if key in history.candidates:
            ended = "rejected" if gates else "passed"
        else:
            ended = "cut" if key in history.cuts else "failed"
        yield Attempt(plan.asset.id, place, ended, scores.get(key), gates, key in chosen)


def _request_of(history: AssetHistory, subject: str) -> str:
    """The request a gate spoke of: itself, or that of the variant it is or whose master it is."""
    variant = history.variants.get(subject)
    if variant is None:
        variant = next((v for v in history.variants.values() if v.master == subject), None)
    return variant.request_key if variant is not None else subject


def _scores_by_request(history: AssetHistory) -> dict[str, float]:
    """The latest score of each request; the order of an asset's scores is that in which they count."""
    return {s.request_key: s.value for s in history.scores.values() if s.value is not None}


def _chosen_requests(history: AssetHistory) -> list[str]:
    if history.outcome is None:
        return []
    return [history.variants[k].request_key for k in history.outcome.chosen if k in history.variants]


def _describe(job: Job, plan: AssetPlan, history: AssetHistory, before: CatalogEntry | None) -> dict[str, Any]:
    """An asset worked on: its best picture, score, what it was before, and how it ended."""
    chosen = _chosen_requests(history)
    scores = _scores_by_request(history)
    best = chosen[0] if chosen else _best_unchosen(plan, history, scores)
    asked = history.requests.get(best)
    made = history.candidates.get(best)
    outcome = history.outcome
    described: dict[str, Any] = {
        "id": plan.asset.id,
        "state": plan.state,
        "status": outcome.status if outcome is not None else "",
        "reason": outcome.reason if outcome is not None else "",
        "chosen": bool(chosen),
        "candidates": len(history.candidates),
        "passed": _num_passed(history, asked),
        "score": scores.get(best),
    }
    if asked is not None:
        described |= {"template": asked.template, "cell": dict(asked.cell), "prompt": asked.request.positive}
    if made is not None:
        described |= {"blob": made.blob, "media_type": made.media_type}
    if before is not None and (made is None or before.blob != made.blob):
        old = next((c for c in history.candidates.values() if c.blob == before.blob), None)
        described["before"] = {
            "blob": before.blob,
            "media_type": old.media_type if old is not None else "",
            # Scores of another judge or another text are no measure of these.
            "score": before.score if before.judge == job.judge.key and _same_text(before, asked) else None,
        }
    return described


def _best_unchosen(plan: AssetPlan, history: AssetHistory, scores: Mapping[str, float]) -> str:
    """The best picture of the row as it is now, where none was chosen: what people look at to see why."""
    texts = {p.positive for p in plan.prompts}
    keys = [k for k in history.candidates if k in history.requests and history.requests[k].request.positive in texts]
    return max(keys, key=lambda k: (scores.get(k, float("-inf")), k), default="")


def _num_passed(history: AssetHistory, asked: RequestRecord | None) -> int:
    """How many of the candidates of the best one's text passed their gates."""
    if asked is None:
        return 0
    refused = {g.subject for g in history.gates if not g.passed}
    made: Mapping[str, CandidateRecord] = history.candidates
    return sum(
        k not in refused
        for k in made
        if k in history.requests and history.requests[k].request.positive == asked.request.positive
    )


def _same_text(before: CatalogEntry, asked: RequestRecord | None) -> bool:
    return asked is not None and before.rank_text == asked.rank_text


def _scores_of(assets: Sequence[Mapping[str, Any]], judge: str) -> dict[str, Any]:
    """Scores of the chosen, thinned evenly where they are many, and those of assets that had one before."""
    scores = sorted(a["score"] for a in assets if a["chosen"] and a["score"] is not None)
    pairs = [
        (a["before"]["score"], a["score"])
        for a in assets
        if a["chosen"] and a["score"] is not None and a.get("before", {}).get("score") is not None
    ]
    thin = max(1, -(-len(scores) // _MAX_SCORES))
    return {
        "judge": judge,
        "scores": [round(s, 5) for s in scores[thin // 2 :: thin]],
        "num_scores": len(scores),
        "pairs": [[round(old, 5), round(new, 5)] for old, new in pairs[:_MAX_SCORES]],
    }


def _worth_keeping(assets: Sequence[dict[str, Any]], limits: Sequence[float]) -> list[dict[str, Any]]:
    """Those of the first page, and beyond it those that may deserve a look: not chosen, worst or dropped scores."""
    scored = sorted((a for a in assets if a["score"] is not None), key=lambda a: a["score"])
    dropped = sorted((a for a in scored if _drop(a) > 0), key=_drop, reverse=True)
    near = sorted(scored, key=lambda a: min((abs(a["score"] - m) for m in limits), default=0.0)) if limits else []
    unsettled = [a for a in assets if not a["chosen"]]
    kept = {
        id(a)
        for some in (assets[:NUM_SHOWN], scored[:20], dropped[:20], near[:20], unsettled[:_MAX_LISTED])
        for a in some
    }
    return [a for a in assets if id(a) in kept]


def _drop(asset: Mapping[str, Any]) -> float:
    before = asset.get("before", {}).get("score")
    return float(before - asset["score"]) if before is not None else 0.0
