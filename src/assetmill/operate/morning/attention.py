"""What to look at first in the morning: a short list, most pressing first, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Any

from assetmill.operate.morning.comparing import Spike

_PER_KIND = 5
"""How many assets of one kind are named; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to look at. `level` is `stop` (nothing goes on by itself), `act` (a person is needed) or `look`.

    `assets` are ids, the most pressing first, with what is to be said of each; `more` counts those left out.
    """

    level: str
    title: str
    why: str = ""
    assets: tuple[tuple[str, str], ...] = ()
    more: int = 0


def look_first(night: Mapping[str, Any], report: Mapping[str, Any], spikes: Sequence[Spike]) -> list[Notice]:
    """The notices of a night, from its facts and its report."""
    return [
        *_of_the_run(report),
        *_of_troubled(night, report),
        *_of_the_waiting(night),
        *_of_scores(night),
        *(_of_spike(spike, night) for spike in spikes),
        *_of_input(report),
        *_of_experiment(night),
    ]


def _of_the_run(report: Mapping[str, Any]) -> list[Notice]:
    found = []
    status, reason = report["status"], report.get("reason", "")
    rehearsal = report.get("rehearsal") or {}
    if rehearsal.get("why"):
        title = "The old model was kept" if rehearsal["kept_model"] else "Nothing new was made"
        see = f" The golden pictures, old and new: {rehearsal['page']} in the store." if rehearsal["page"] else ""
        found.append(Notice("act" if rehearsal["kept_model"] else "stop", title, f"{rehearsal['why']}.{see}"))
    if status == "catalog held":
        found.append(Notice("stop", "Nothing is published: the catalog is held", reason))
    elif status in ("stopped", "budget reached"):
        left = f"{report['left']} assets are left; the next run takes them up." if report["left"] else ""
        title = "The budget was used up" if status == "budget reached" else "The run was stopped"
        found.append(Notice("act", title, " ".join(filter(None, (f"{reason}." if reason else "", left)))))
    elif reason and not rehearsal.get("why"):
        found.append(Notice("act", "The run ended early", reason))
    if missed := report.get("missed", ()):
        title = f"{_count(len(missed), 'night')} before this one did not run"
        found.append(Notice("look", title, f"{', '.join(missed[:7])}. This night made what was left."))
    if report.get("damaged"):
        found.append(
            Notice(
                "act", f"{_count(len(report['damaged']), 'stored record')} could not be read",
                f"They are left out: {'; '.join(report['damaged'][:3])}",
            )
        )  # fmt: skip
    return found


def _of_troubled(night: Mapping[str, Any], report: Mapping[str, Any]) -> list[Notice]:
    """Assets that ended without a picture, by why."""
    known = {a["id"]: a for a in night.get("assets", ())}
    groups: dict[str, list[tuple[str, str]]] = {}
    for asset_id, status in report.get("troubled", {}).items():
        kind, _, said = status.partition(":")
        said = said.strip() or known.get(asset_id, {}).get("reason", "")
        groups.setdefault(kind, []).append((asset_id, said))
    titles = {
        "failed": "could not be made",
        "exhausted": "used up their seeds, and none passed",
        "transient": "failed for now and are tried again by the next run",
        "set aside": "were set aside: runs died while they were being made",
        "not published": "could not be published",
        "picture lost, made again by the next run": "lost a picture; the next run makes it again",
    }
    levels = {"transient": "look", "picture lost, made again by the next run": "look"}
    found = [
        _notice(levels.get(kind, "act"), f"{_count(len(assets), 'asset')} {titles.get(kind, kind)}", assets)
        for kind, assets in groups.items()
    ]
    refused = [(asset_id, "; ".join(reasons)) for asset_id, reasons in report.get("refused_files", {}).items()]
    if refused:
        found.append(_notice("act", f"{_count(len(refused), 'asset')} lack files of a channel", refused))
    return sorted(found, key=lambda notice: notice.level)  # `act` before `look`


def _of_the_waiting(night: Mapping[str, Any]) -> list[Notice]:
    """What waits for a person, of this night and of those before."""
    waiting = night.get("waiting", {})
    new = [(a["id"], a["reason"]) for a in night.get("assets", ()) if a["status"] == "pending_review"]
    old = waiting.get("pending_review", {"count": 0, "assets": []})
    found = []
    count = len(new) + old["count"]
    if count:
        pairs = new + [(i, why) for i, why in old["assets"]]
        found.append(_notice("act", f"{_count(count, 'asset')} wait for review", pairs, count))
    for state, words in (("exhausted", "still lack a picture that passes"), ("failed", "still cannot be made")):
        if (kept := waiting.get(state)) is not None:
            pairs = [(i, why) for i, why in kept["assets"]]
            title = f"{_count(kept['count'], 'asset')} of earlier nights {words}"
            found.append(_notice("look", title, pairs, kept["count"], "A run with --force tries them again."))
    return found


def _of_scores(night: Mapping[str, Any]) -> list[Notice]:
    """Scores that fell, that only just passed, or that lie far below the rest."""
    chosen = [a for a in night.get("assets", ()) if a["chosen"] and a["score"] is not None]
    scores = night.get("scores", ())
    if len(scores) < 4:
        return []  # with so few there is no rest to compare with
    spread = pstdev(scores)
    found = []
    dropped = [(a["before"]["score"] - a["score"], a) for a in chosen if a.get("before", {}).get("score") is not None]
    dropped = sorted(((d, a) for d, a in dropped if d > spread / 2 > 0), key=lambda pair: -pair[0])
    if dropped:
        pairs = [(a["id"], f"{a['before']['score']:.3f} before, {a['score']:.3f} now") for _, a in dropped]
        why = "The picture that was published scored higher than the one chosen now."
        found.append(_notice("look", f"{_count(len(pairs), 'asset')} scored clearly worse than before", pairs, why=why))
    limit = night.get("min_score")
    if limit is not None:
        near = sorted((a for a in chosen if 0 <= a["score"] - limit < spread / 4), key=lambda a: a["score"])
        pairs = [(a["id"], f"{a['score']:.3f}, the threshold is {limit:g}") for a in near]
        if pairs:
            found.append(_notice("look", f"{_count(len(pairs), 'asset')} only just passed the threshold", pairs))
    fence = _lower_fence(scores)
    low = sorted((a for a in chosen if a["score"] < fence), key=lambda a: a["score"])
    if low:
        pairs = [(a["id"], f"{a['score']:.3f}") for a in low]
        why = "Their best picture fits the text far less than is usual tonight."
        found.append(_notice("look", f"{_count(len(pairs), 'asset')} scored far below the rest", pairs, why=why))
    return found


def _lower_fence(scores: Sequence[float]) -> float:
    """Below it a score stands apart: the first quartile less 1.5 times the distance of the quartiles (Tukey 1977)."""
    import numpy as np

    first, third = np.quantile(scores, [0.25, 0.75])
    return float(first - 1.5 * (third - first))


def _of_spike(spike: Spike, night: Mapping[str, Any]) -> Notice:
    reason = night["rejections"][spike.gate]["reason"]
    return Notice(
        "look",
        f"The gate {spike.gate} refuses more than it used to",
        f"{spike.now.value:.0%} of tonight's images, {spike.before.value:.0%} before. Most often: {reason}",
    )


def _of_input(report: Mapping[str, Any]) -> list[Notice]:
    rows = report.get("bad_rows", ())
    if not rows:
        return []
    shown = "; ".join(rows[:3]) + (" …" if len(rows) > 3 else "")
    return [Notice("act", f"{_count(len(rows), 'row')} of the sheet could not be used", shown)]


def _of_experiment(night: Mapping[str, Any]) -> list[Notice]:
    """Arms of an experiment that are made and differ by more than chance: somebody may want to decide."""
    return [
        Notice("look", f"Experiment {arm['experiment']}: {arm['verdict']}", "The pictures of both sides are below.")
        for arm in night.get("experiment", ())
        if not arm["waiting"] and any(m["leads"] for m in arm["measures"].values())
    ]


def _notice(
    level: str, title: str, assets: Sequence[tuple[str, str]], count: int | None = None, why: str = ""
) -> Notice:
    count = len(assets) if count is None else count
    named = tuple(assets[:_PER_KIND])
    return Notice(level, title, why, named, count - len(named))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
