"""What a night does about a changed setup: rehearse it first, then work with it, with the old one, or not at all.

    unchanged   the setup is that of the baseline: nothing is loaded, made or written
    accepted    the first baseline, or within the limits: the new baseline
    waiting     within the limits, or nothing to compare with: a person is to accept it
    beyond      it fell further than a limit allows
    failed      it could not be rehearsed: its model does not load, or makes nothing

After `beyond` and `failed`, and after `waiting` where there is a baseline, the night works with the baseline's setup.
Where that cannot be had again (a library was replaced, a folder overwritten) it makes nothing and publishes what is
settled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from assetmill.engines.protocols import EngineError, Engines
from assetmill.operate.baselines import Baseline, Rehearsal, accept, find_rehearsal, last_baseline
from assetmill.operate.job import Job
from assetmill.operate.rehearse import hold_to_limits, rehearse
from assetmill.operate.setups import describe_changes, setup_key, setup_of, with_sections
from assetmill.operate.stages import Stages
from assetmill.records import InputError
from assetmill.storage.store import Store

WAY_OUT = "look at the rehearsal's page, then `assetmill rehearse CONFIG --accept`, or undo the change"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of a job's setup. `outcome` is one of this module's words; `num_made` pictures were made for it."""

    outcome: str
    baseline: Baseline | None
    rehearsal: Rehearsal | None = None
    num_made: int = 0
    without_measure: tuple[str, ...] = ()
    failure: str = ""

    @property
    def holds(self) -> bool:
        """Whether work may go on with the setup as it is."""
        return self.outcome in ("unchanged", "accepted") or (self.outcome == "waiting" and self.baseline is None)

    @property
    def reason(self) -> str:
        """In words, what stands against the setup; empty where nothing does."""
        if self.failure:
            return f"it cannot be rehearsed: {self.failure}"
        if self.holds or self.rehearsal is None:
            return ""
        why = "; ".join(self.rehearsal.beyond) or self.unknown or "within the limits, but a person is to accept it"
        changes = self.rehearsal.changed
        more = f" and {len(changes) - 2} more" if len(changes) > 2 else ""
        return f"{', '.join(changes[:2])}{more}: {why}"

    @property
    def unknown(self) -> str:
        """Which limits nothing could be held against, in words; empty where each could, or there is no baseline."""
        if self.baseline is None or self.rehearsal is None or not self.without_measure:
            return ""
        return f"there was nothing to compare for {', '.join(self.without_measure)}"

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and reports."""
        found = self.rehearsal
        return {
            "outcome": self.outcome,
            "baseline": self.baseline.number if self.baseline is not None else 0,
            "rehearsal": found.key if found is not None else None,
            "page": found.page_key if found is not None else None,
            "changed": list(found.changed) if found is not None else [],
            "drift": {name: asdict(m) for name, m in found.measures.items()} if found is not None else {},
            "beyond": list(found.beyond) if found is not None else [],
            "judge_shift": found.judge_shift if found is not None else None,
            "problems": list(found.problems) if found is not None else [],
            "pictures_made": self.num_made,
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True)
class Opening:
    """How a night begins: the job it works with, and why that is not the one it was given.

    `refused` is empty, or says why nothing may be made.
    """

    job: Job
    finding: Finding
    kept_model: bool = False
    refused: str = ""

    def note_in(self, report: dict[str, Any]) -> None:
        """Says so in a run's report. A night that had to keep the old model is not simply done: exit code 1."""
        why = "" if self.finding.holds else self.refused or self.finding.reason
        report["rehearsal"] = {
            **self.finding.as_dict(), "kept_model": self.kept_model, "refused": self.refused, "why": why,
        }  # fmt: skip
        if not why:
            return
        if report["exit_code"] == 0:
            report["exit_code"] = 1
            report["status"] = "nothing new was made" if self.refused else f"{report['status']}, with the old model"
        text = self.refused or f"kept the model of baseline {report['rehearsal']['baseline']}: {why}"
        report["reason"] = f"{report['reason']}; {text}" if report["reason"] else text


def look(job: Job) -> Finding | None:
    """What is known of a job's setup without making anything; None where it was not rehearsed yet."""
    baseline = last_baseline(job.store, job.config.name)
    setup = setup_of(job)
    if baseline is not None and setup_key(baseline.rehearsal.setup) == setup_key(setup):
        return Finding("unchanged", baseline, baseline.rehearsal)
    number = baseline.number if baseline is not None else 0
    found = find_rehearsal(job.store, job.config.name, number, setup)
    return _weigh(job, baseline, found) if found is not None else None


def examine(
    job: Job,
    *,
    again: bool = False,
    renew: bool = False,
    stages: Stages | None = None,
    engines: Engines | None = None,
    run_id: str = "",
) -> Finding:
    """What is known of a job's setup, rehearsed if it was not yet, or `again`; see `rehearse` for the rest.

    Accepts nothing: see `settle_finding`.
    """
    if not again and not renew:
        known = look(job)
        if known is not None:
            return known
    baseline = last_baseline(job.store, job.config.name)
    found = rehearse(job, baseline, renew=renew, stages=stages, engines=engines, run_id=run_id)
    return _weigh(job, baseline, found, num_made=len(found.takes))


def settle_finding(job: Job, finding: Finding) -> Finding:
    """Accepts what is within the limits, where the config says that this needs nobody."""
    if finding.outcome != "waiting" or finding.unknown or job.config.rehearsal.accept != "auto":
        return finding
    reason = "the first one" if finding.baseline is None else "within the limits"
    return accept_finding(job.store, finding, by="assetmill", reason=reason)


def accept_finding(store: Store, finding: Finding, *, by: str, reason: str = "") -> Finding:
    """The same finding with its rehearsal as the new baseline. Raises InputError where there is a newer baseline."""
    assert finding.rehearsal is not None
    baseline = accept(store, finding.rehearsal, by=by, reason=reason)
    log.info("rehearsal %s is baseline %d now, accepted by %s", finding.rehearsal.id, baseline.number, by)
    return Finding("accepted", baseline, finding.rehearsal, finding.num_made)


def open_night(job: Job, *, stages: Stages | None = None, engines: Engines | None = None, run_id: str = "") -> Opening:
    """Rehearses a changed setup and says what to work with. Call it under the config's lock, and only before work.

    Raises what `rehearse` raises; EngineError only before the first baseline.
    """
    try:
        finding = settle_finding(job, examine(job, stages=stages, engines=engines, run_id=run_id))
    except EngineError as error:
        baseline = last_baseline(job.store, job.config.name)
        if baseline is None:
            raise
        finding = Finding("failed", baseline, failure=str(error))
    if finding.holds:
        return Opening(job, finding)
    log.warning("the setup is not accepted: %s; %s", finding.reason, WAY_OUT)
    assert finding.baseline is not None
    old: Mapping[str, Any] = finding.baseline.rehearsal.setup
    try:
        kept = with_sections(job, finding.baseline.rehearsal.sections)
        changes = describe_changes(old, setup_of(kept))
    except (InputError, EngineError) as error:
        changes = (str(error),)
    if changes:
        why = f"{finding.reason}; the old model cannot be had again ({', '.join(changes[:3])}): {WAY_OUT}"
        return Opening(job, finding, refused=why)
    return Opening(kept, finding, kept_model=True)


def _weigh(job: Job, baseline: Baseline | None, found: Rehearsal, num_made: int = 0) -> Finding:
    found = hold_to_limits(found, job.config)
    lacking = tuple(name for name in job.config.rehearsal.limits if name not in found.measures)
    return Finding("beyond" if found.beyond else "waiting", baseline, found, num_made, lacking)
