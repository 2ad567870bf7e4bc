"""The decisions as files for people and other systems: CSV that no spreadsheet runs as a formula, and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from assetmill.deliver.export import escape_formula
from assetmill.storage.decisions import Decision, DecisionLog

COLUMNS = (
    "asset_id", "number", "kind", "counts", "by", "at", "blob", "score_shown", "place_shown", "blind", "reason", "note",
    "template", "request_key", "undoes", "override", "run", "id",
)  # fmt: skip
"""Columns of the CSV. `counts` is no where the decision was undone; scores and places are those the person saw."""


def decisions_csv(log: DecisionLog) -> bytes:
    """All decisions in the order they were made: UTF-8 with its mark, a line each."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for decision in log:
        row = _row(decision, decision.number not in log.of(decision.asset_key).undone)
        # A lone surrogate from a broken sheet has no UTF-8.
        writer.writerow({k: escape_formula(v).encode("utf-8", "replace").decode() for k, v in row.items()})
    return b"\xef\xbb\xbf" + out.getvalue().encode()


def decisions_json(log: DecisionLog) -> bytes:
    """All decisions in the order they were made, every field, and whether each counts."""
    rows = [
        {**decision.as_json(), "counts": decision.number not in log.of(decision.asset_key).undone} for decision in log
    ]
    return json.dumps({"schema": 1, "decisions": rows}, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"


def reviewers(decisions: Iterable[Decision]) -> list[str]:
    """Everybody who decided anything."""
    return sorted({decision.by for decision in decisions}, key=str.casefold)


def _row(decision: Decision, counts: bool) -> dict[str, str]:
    ranking = decision.shown.get("ranking", ())
    place, score = next(((i, s) for i, (blob, s) in enumerate(ranking, 1) if blob == decision.blob), ("", None))
    return {
        "asset_id": decision.asset_id,
        "number": str(decision.number),
        "kind": decision.kind,
        "counts": "yes" if counts else "no",
        "by": decision.by,
        "at": decision.at,
        "blob": decision.blob,
        "score_shown": "" if score is None or decision.shown.get("blind") else repr(score),
        "place_shown": str(place),
        "blind": "yes" if decision.shown.get("blind") else "no",
        "reason": decision.reason,
        "note": decision.note,
        "template": decision.template,
        "request_key": decision.request_key,
        "undoes": str(decision.undoes or ""),
        "override": json.dumps(dict(decision.override), ensure_ascii=False) if decision.override else "",
        "run": decision.run,
        "id": decision.id,
    }
