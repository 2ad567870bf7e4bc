"""Cards and decisions as the page's JSON: what a reviewer may see of an asset, in the order they see it.

In blind mode there are no scores, ranks or traces of earlier choices in what is sent, and the pictures are shuffled by
the session's seed: what is not sent cannot be looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from assetmill.records import RequestRecord
from assetmill.review.filters import statuses_of
from assetmill.review.gallery import Card, Picture
from assetmill.storage.decisions import Decision, ReviewState
from assetmill.storage.index import AssetHistory
from assetmill.storage.rankers import is_taste, taste_name

TITLES = ("name", "title", "product", "label")
"""Columns that name an asset for people, in the order they are looked for."""

FACTS = 7
"""Columns of an asset's row that the contact sheet shows."""

SHOWN = 24
"""Decisions and notes of an asset that its view lists."""


def order_pictures(card: Card, blind_seed: str = "") -> tuple[Picture, ...]:
    """An asset's pictures in the order they are shown: ranked, or shuffled by a seed, the refused ones last."""
    if not blind_seed:
        return card.pictures

    def place(picture: Picture) -> tuple[bool, str]:
        return bool(picture.refused), hashlib.sha256(f"{blind_seed} {picture.blob}".encode()).hexdigest()

    return tuple(sorted(card.pictures, key=place))


def card_json(card: Card, state: ReviewState, blind_seed: str = "") -> dict[str, Any]:
    """An asset as the contact sheet shows it. `number` is what a decision about it must have seen."""
    blind = bool(blind_seed)
    published = {p.blob for p in card.published}
    pictures = [
        {
            "blob": p.blob,
            "width": p.width,
            "height": p.height,
            "score": None if blind else p.score,
            "taste": 0 if blind else round(p.bonus, 6),
            "rank": 0 if blind else p.rank,
            "refused": p.refused,
            "other": not blind and p.other_prompt,
            "approved": p.blob in state.approved,
            "rejected": state.rejected.get(p.blob),
            "published": not blind and p.blob in published,
            "adopted": p.blob in state.adopted,
        }
        for p in order_pictures(card, blind_seed)
    ]
    last = _last(state)
    statuses = [s for s in statuses_of(card, state) if not (blind and s == "published")]
    return {
        "key": card.key,
        "id": card.id,
        "text": card.rank_text,
        "title": _title(card),
        "facts": _facts(card),
        "statuses": statuses,
        "status": state.status,
        "outcome": card.outcome,
        "reason": card.reason,
        "number": state.number,
        "pictures": pictures,
        "notes": len(state.notes),
        "queued": describe_queue(state),
        "last": None if last is None else decision_json(last),
        "lost": card.num_failed,
        "cut": card.num_cut,
    }


def detail_json(card: Card, state: ReviewState, history: AssetHistory, blind_seed: str = "") -> dict[str, Any]:
    """An asset as its own view shows it: the card, its row, and of every picture how it was made and judged."""
    blind = bool(blind_seed)
    gates: dict[str, list[dict[str, Any]]] = {}
    for gate in history.gates:
        gates.setdefault(gate.subject, []).append(
            {"gate": gate.gate, "stage": gate.stage, "passed": gate.passed, "reason": gate.reason, "value": gate.value}
        )
    scores: dict[str, list[dict[str, Any]]] = {}
    for score in (*history.scores.values(), *history.tastes.values()):
        name = taste_name(score.judge) if is_taste(score.judge) else f"judge {score.judge[:8]}"
        scores.setdefault(score.request_key, []).append({"judge": name, "value": score.value, "text": score.rank_text})
    made = {}
    for picture in card.pictures:
        request = history.requests.get(picture.request_key)
        candidate = history.candidates.get(picture.request_key)
        made[picture.blob] = {
            "settings": {} if request is None else settings_of(request),
            "positive": picture.positive,
            "negative": "" if request is None else request.request.negative,
            "gates": gates.get(picture.request_key, []),
            "scores": [] if blind else scores.get(picture.request_key, []),
            "versions": {} if candidate is None else dict(candidate.versions),
            "seconds": 0 if candidate is None else candidate.seconds,
            "request": picture.request_key,
            "master": picture.master,
        }
    return {
        "card": card_json(card, state, blind_seed),
        "row": {
            "lines": list(card.rows),
            "columns": [[name, text] for name, text in card.columns.items() if text],
        },
        "made": made,
        "published": []
        if blind
        else [
            {"rank": p.rank, "blob": p.blob, "master": p.master, "run": p.run, "created": p.created}
            for p in card.published
        ],
        "failures": [
            {"reason": f.reason, "kind": f.kind, "tries": f.tries}
            for f in history.failures.values()
            if f.kind != "lost"
        ][:SHOWN],
        "cuts": len(history.cuts),
        "decisions": [
            decision_json(d) | {"undone": d.number in state.undone} for d in reversed(state.decisions[-SHOWN:])
        ],
        "override": state.overrides.as_json(),
    }


def settings_of(record: RequestRecord) -> dict[str, Any]:
    """The settings of a picture by name, for people and for comparing two pictures: those that say something."""
    request = record.request
    found: dict[str, Any] = {
        "template": record.template,
        **{f"axis {name}": value for name, value in record.cell.items()},
        "seed": request.seed,
        "size": f"{request.width} × {request.height}",
        "steps": request.steps,
        "guidance": request.guidance,
        "scheduler": request.scheduler,
        "operation": request.operation,
        "strength": request.strength,
        "engine": request.engine,
        "model": request.model,
        "revision": request.revision[:12],
        **{f"{r.role} image": f"{r.blob[:12]} × {r.weight:g}" for r in request.references},
        **{f"{a.kind} {n}": f"{a.sha256[:12]} × {a.weight:g}" for n, a in enumerate(request.adapters, 1)},
        **dict(request.options),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as the page tells of it."""
    return {
        "number": decision.number,
        "kind": decision.kind,
        "by": decision.by,
        "at": decision.at,
        "blob": decision.blob,
        "reason": decision.reason,
        "note": decision.note,
        "undoes": decision.undoes,
        "override": dict(decision.override),
    }


def describe_queue(state: ReviewState) -> list[str]:
    """What people asked for beyond the sheet, in words: what the next run will do for this asset."""
    override, words = state.overrides, []
    if override.seeds:
        words.append(f"{override.seeds} more {'picture' if override.seeds == 1 else 'pictures'}")
    if any(t.positive is not None for t in override.texts):
        words.append("changed prompt")
    if any(t.negative is not None for t in override.texts):
        words.append("changed negative prompt")
    words.extend(f"{name} {value}" for name, value in override.settings.items())
    words.extend(f"{v.seeds} × variation of {v.blob[:8]}" for v in override.variations)
    return words


def shown_ranking(card: Card, order: Sequence[str], judge: str, blind_seed: str = "") -> dict[str, Any]:
    """What a decision records of the ranking that was seen: `order` are the blobs as they stood on the page.

    Blobs that are none of the asset's are left out. In blind mode the scores are kept (they train the ranker), and
    `blind` with `seed` says that the person did not see them.
    """
    by_blob = {p.blob: p for p in card.pictures}
    known = [by_blob[blob] for blob in dict.fromkeys(order) if blob in by_blob]
    if not known:
        known = list(order_pictures(card, blind_seed))
    judges = {p.judge for p in known if p.judge}
    shown: dict[str, Any] = {
        "judge": judge if judge in judges or not judges else min(judges),
        "blind": bool(blind_seed),
        "ranking": [[p.blob, p.score] for p in known],
    }
    return {**shown, "seed": blind_seed} if blind_seed else shown


def _last(state: ReviewState) -> Decision | None:
    """The last decision that changed what becomes of the asset."""
    kinds = ("approve", "reject", "reopen", "reroll", "vary", "adopt")
    return next((d for d in reversed(state.decisions) if d.kind in kinds and d.number not in state.undone), None)


def _title(card: Card) -> str:
    """What people call the asset: its name or title column."""
    named = {name.casefold(): text for name, text in card.columns.items()}
    return next((named[name] for name in TITLES if named.get(name)), "")


def _facts(card: Card) -> list[list[str]]:
    """The first columns of an asset's row, cut short: what fits beside its pictures."""
    told = [(n, t) for n, t in card.columns.items() if t and t != card.id and n.casefold() not in TITLES]
    return [[name, text[:60]] for name, text in told[:FACTS]]
