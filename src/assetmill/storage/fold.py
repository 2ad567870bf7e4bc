"""How facts become rows: which of two records of one thing counts.

Later records win, with these exceptions. The first candidate of a request wins, so that the same request on two
machines has one blob. A failure or a cut never undoes a candidate or a rejection; only a failure of kind `lost` (the
blob is gone or damaged) does, and then the next candidate counts. A segment brings all verdicts of a subject at one
stage, so they replace all older ones of that stage: a gate that was taken out of the config stops counting.

Rows are `(asset_key, kind, key)`: a request with its candidate, gates, scores, failure and cut; a variant with its
gates; an asset's outcome.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from assetmill.records import (
    CandidateRecord,
    CutRecord,
    FailureRecord,
    GateRecord,
    OutcomeRecord,
    Record,
    RequestRecord,
    ScoreRecord,
    VariantRecord,
    parse_record,
)
from assetmill.storage.rankers import is_taste
from assetmill.storage.segments import LOST, Fact, slot_of

OK, REJECTED, POISON, TRANSIENT, CUT = 1, 2, 3, 4, 5
"""What became of a request. 0: nothing yet."""

_DONE = (OK, REJECTED)
_TROUBLE = {"poison": POISON, "transient": TRANSIENT, "cut": CUT}


@dataclass(slots=True)
class Row:
    """One row of the index in the making: its status and the line that counts for each slot, in order of arrival."""

    status: int = 0
    slots: dict[str, str] = field(default_factory=dict)

    def text(self) -> bytes:
        return "\n".join(self.slots.values()).encode("utf-8", "surrogatepass")


Rows = dict[tuple[str, str], Row]
"""The rows of one asset by (kind, key)."""


@dataclass(slots=True)
class AssetHistory:
    """All that counts of one asset: what was asked for, what came of it, what was chosen. Keys as in the records.

    `scores` are the judges'; `tastes` those of house rankers, the latest of each request by its key.
    """

    requests: dict[str, RequestRecord] = field(default_factory=dict)
    candidates: dict[str, CandidateRecord] = field(default_factory=dict)
    gates: list[GateRecord] = field(default_factory=list)
    scores: dict[str, ScoreRecord] = field(default_factory=dict)
    tastes: dict[str, ScoreRecord] = field(default_factory=dict)
    failures: dict[str, FailureRecord] = field(default_factory=dict)
    cuts: dict[str, CutRecord] = field(default_factory=dict)
    variants: dict[str, VariantRecord] = field(default_factory=dict)
    outcome: OutcomeRecord | None = None

    def add(self, line: str) -> None:
        """Takes in one record, given as its line."""
        self.take(parse_record(line))

    def take(self, record: Record) -> None:
        """Takes in one record."""
        match record:
            case RequestRecord():
                self.requests[record.key] = record
            case CandidateRecord():
                self.candidates[record.request_key] = record
            case GateRecord():
                self.gates.append(record)
            case ScoreRecord() if is_taste(record.judge):
                self.tastes[record.request_key] = record
            case ScoreRecord():
                self.scores[record.key] = record
            case FailureRecord():
                self.failures[record.request_key] = record
            case CutRecord():
                self.cuts[record.request_key] = record
            case VariantRecord():
                self.variants[record.key] = record
            case OutcomeRecord():
                self.outcome = record


def next_status(status: int, signals: Sequence[str]) -> int:
    """The status of a request after one segment's signals about it (see `Fact.signal`)."""
    made = status in _DONE
    trouble = 0 if made else status
    for signal in signals:
        if signal == "candidate":
            made = True
        elif signal == LOST:
            made, status, trouble = False, 0, TRANSIENT
        else:
            trouble = _TROUBLE.get(signal, trouble)
    if "fail" in signals:
        return REJECTED
    if made:
        return OK if status not in _DONE or "pass" in signals else status
    return trouble


def add_segment(rows: Rows, facts: Iterable[Fact]) -> None:
    """Adds what one segment says of one asset to that asset's rows."""
    signals: dict[str, list[str]] = {}
    checked: set[tuple[str, str, str]] = set()
    for fact in facts:
        row = rows.setdefault((fact.kind, fact.key), Row())
        if fact.kind == "request":
            signals.setdefault(fact.key, []).append(fact.signal)
        if fact.slot == "candidate" and "candidate" in row.slots:
            continue
        if fact.signal == LOST:
            row.slots.pop("candidate", None)
        if fact.slot.startswith("gate "):
            stage = " ".join(fact.slot.split(" ", 3)[:3]) + " "
            if (fact.kind, fact.key, stage) not in checked:
                checked.add((fact.kind, fact.key, stage))
                row.slots = {slot: line for slot, line in row.slots.items() if not slot.startswith(stage)}
        row.slots.pop(fact.slot, None)  # so that a record that counts now stands behind those before it
        row.slots[fact.slot] = fact.line
    for key, said in signals.items():
        row = rows["request", key]
        row.status = next_status(row.status, said)


def row_from_text(status: int, text: bytes) -> Row:
    """A row as it was stored."""
    lines = text.decode("utf-8", "surrogatepass").split("\n")
    return Row(status, {slot_of(json.loads(line)): line for line in lines})


def history_of(rows: Iterable[Row]) -> AssetHistory:
    """The records of some rows."""
    history = AssetHistory()
    for row in rows:
        for line in row.slots.values():
            history.add(line)
    return history
