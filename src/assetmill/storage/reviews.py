"""What people decided about one asset's pictures, and what it comes to: the record, and how records are folded.

A decision is about one asset. The decisions of an asset are numbered from 1 without a gap, and that order, not the
clock, is the order they count in. Folding them is a pure function of that list:

1. Undo first. A decision counts unless an `undo` that itself counts names its number. An undo names a smaller number,
   so going from the last decision to the first settles each of them: undoing an undo restores.
2. Then those that count, in order:
   `approve` puts its picture behind those approved before, and takes it off the rejected ones;
   `reject` puts its picture among the rejected, with its reason, and takes it off the approved ones;
   `reopen` takes its picture (all approved pictures, where it names none) off both lists;
   `adopt` adds a picture from outside to the asset's pictures, neither approved nor rejected;
   `reroll` adds seeds and lays texts and settings over the row's, the later over the earlier;
   `vary` adds seeds of a variation of its picture;
   `note` is kept, and `undo` has had its say.
3. The status is `approved` while a picture is; else `rerolled` or `rejected` as the last of reroll, vary and reject
   says that counts after the last adopt or reopen; else `open`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from assetmill.records import Scalar, asset_key, canonical_json
from assetmill.storage.store import CorruptObject

SCHEMA = 1

ADOPTED = "adopted"
"""The engine of requests for pictures that people brought from outside: nothing here made them, or can again."""

AS_IS = "as_is"
"""The option of an adopted picture that is large enough: it is not enlarged."""

KINDS = ("approve", "reject", "reopen", "note", "reroll", "vary", "adopt", "undo")

REROLL_SETTINGS = ("steps", "guidance", "strength", "scheduler", "operation", "image", "width", "height")
"""What a reroll may set for one asset beside seeds and texts: names as in the sheet's overrides."""

TEXTS = ("positive", "negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A decision as a person makes it, before it has a number.

    `blob` is the SHA-256 of the candidate's picture it binds to; `by` is who decides. `shown` is the ranking the
    person saw: `{"judge": key, "blind": bool, "ranking": [[blob, score], …]}`. `undoes` is the number of the decision
    that an undo takes back. `run` is the run whose pictures were looked at.

    `override` says what a reroll or vary asks for: `seeds` (how many more), `positive` and `negative` (texts instead
    of the template's, for the place `template` and `cell` where these are given), and for a reroll any of
    REROLL_SETTINGS (`image` by the SHA-256 of a stored picture), for a vary `operation`, `strength` and `weight`.
    """

    asset_id: str
    kind: str
    by: str
    blob: str = ""
    reason: str = ""
    note: str = ""
    shown: Mapping[str, Any] = field(default_factory=dict)
    undoes: int = 0
    override: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Draft):
    """A decision on record, never changed. `number` counts from 1 within its asset, `id` is a ULID.

    `at` is ISO 8601 in UTC. `request_key`, `template` and `cell` are those of the picture's request.
    """

    number: int
    id: str
    at: str
    request_key: str = ""
    template: str = ""
    cell: Mapping[str, str] = field(default_factory=dict)

    @property
    def asset_key(self) -> str:
        return asset_key(self.asset_id)

    @property
    def place(self) -> Place:
        return Place(self.template, tuple(sorted(self.cell.items())))

    def as_json(self) -> dict[str, Any]:
        """The decision as plain JSON values, fields at their default included."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Place:
    """Where among an asset's pictures one belongs: its template and its cell of the template's axes, sorted."""

    template: str = ""
    cell: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TextOverride:
    """Texts instead of the template's; None keeps it. Without `place` they hold for all prompts of the asset."""

    positive: str | None = None
    negative: str | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Variation:
    """Pictures made from one that somebody liked: `seeds` of them, at its place. Empty and None: the model's own."""

    blob: str
    place: Place
    seeds: int
    operation: str = ""
    strength: float | None = None
    weight: float | None = None
    positive: str | None = None
    negative: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """All that people ask for of one asset beyond its row. `settings` are named as in REROLL_SETTINGS."""

    seeds: int = 0
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    texts: tuple[TextOverride, ...] = ()
    variations: tuple[Variation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.seeds or self.settings or self.texts or self.variations)

    def as_json(self) -> dict[str, Any]:
        """What is asked for, as plain JSON values; what isn't is left out."""
        plain = {
            "seeds": self.seeds,
            "settings": dict(self.settings),
            "texts": [_without_nothing(asdict(t)) for t in self.texts],
            "variations": [_without_nothing(asdict(v)) for v in self.variations],
        }
        return _without_nothing(plain)


@dataclass(frozen=True, slots=True)
class ReviewState:
    """What an asset's decisions come to. `number` is that of the last one: what a new decision must have seen.

    `approved` and `adopted` are pictures in order, `rejected` their reasons by picture. `approvals` and `rejections`
    are the decisions behind them. `decisions` are all, `undone` the numbers of those that do not count.
    """

    number: int = 0
    status: str = "open"
    approved: tuple[str, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    adopted: tuple[str, ...] = ()
    overrides: Override = Override()
    notes: tuple[Decision, ...] = ()
    decisions: tuple[Decision, ...] = ()
    undone: frozenset[int] = frozenset()
    approvals: Mapping[str, Decision] = field(default_factory=dict)
    rejections: Mapping[str, Decision] = field(default_factory=dict)


NOTHING = ReviewState()
"""The state of an asset that nobody decided anything about."""


def fold_decisions(decisions: Sequence[Decision], number: int = 0) -> ReviewState:
    """What one asset's decisions, in order of their numbers, come to (rules: this module's text).

    `number` is that of the last record of the asset where it is damaged, so that no new decision takes its place.
    """
    undone: set[int] = set()
    for decision in reversed(decisions):
        if decision.kind == "undo" and decision.number not in undone and decision.undoes < decision.number:
            undone.add(decision.undoes)
    approved: dict[str, Decision] = {}
    rejected: dict[str, Decision] = {}
    adopted: dict[str, None] = {}
    notes: list[Decision] = []
    asked: list[Decision] = []
    last = "open"
    for decision in decisions:
        if decision.number in undone:
            continue
        match decision.kind:
            case "approve":
                approved.setdefault(decision.blob, decision)
                rejected.pop(decision.blob, None)
            case "reject":
                rejected[decision.blob] = decision
                approved.pop(decision.blob, None)
                last = "rejected"
            case "reopen":
                if decision.blob:
                    approved.pop(decision.blob, None)
                    rejected.pop(decision.blob, None)
                else:
                    approved.clear()
                last = "open"
            case "adopt":
                adopted.setdefault(decision.blob)
                last = "open"
            case "reroll" | "vary":
                asked.append(decision)
                last = "rerolled"
            case "note":
                notes.append(decision)
    return ReviewState(
        number=max(number, decisions[-1].number if decisions else 0),
        status="approved" if approved else last,
        approved=tuple(approved),
        rejected=MappingProxyType({blob: d.reason for blob, d in rejected.items()}),
        adopted=tuple(adopted),
        overrides=_fold_overrides(asked),
        notes=tuple(notes),
        decisions=tuple(decisions),
        undone=frozenset(undone),
        approvals=MappingProxyType(approved),
        rejections=MappingProxyType(rejected),
    )


def _fold_overrides(asked: Sequence[Decision]) -> Override:
    seeds = 0
    settings: dict[str, Scalar] = {}
    texts: dict[Place | None, TextOverride] = {}
    variations: dict[Variation, int] = {}
    for decision in asked:
        override = decision.override
        positive, negative = override.get("positive"), override.get("negative")
        if decision.kind == "vary":
            variation = Variation(
                decision.blob, decision.place, 0, override.get("operation", ""), override.get("strength"),
                override.get("weight"), positive, negative,
            )  # fmt: skip
            variations[variation] = variations.get(variation, 0) + override["seeds"]
            continue
        seeds += override.get("seeds", 0)
        settings |= {name: override[name] for name in REROLL_SETTINGS if name in override}
        if positive is not None or negative is not None:
            place = None
            if "template" in override:
                place = Place(override["template"], tuple(sorted(override.get("cell", {}).items())))
            old = texts.pop(place, TextOverride())
            texts[place] = TextOverride(
                old.positive if positive is None else positive, old.negative if negative is None else negative, place
            )
    return Override(
        seeds,
        MappingProxyType(settings),
        tuple(texts.values()),
        tuple(Variation(**{**_shallow(v), "seeds": count}) for v, count in variations.items()),
    )


def _shallow(variation: Variation) -> dict[str, Any]:
    return {f.name: getattr(variation, f.name) for f in fields(variation)}


def _without_nothing(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if value not in (None, "", 0, {}, [], ())}


# --- as stored ----------------------------------------------------------------------------------------------


def decision_bytes(decision: Decision) -> bytes:
    """A decision as one JSON document, sealed by the hash of the rest."""
    plain = {"schema": SCHEMA, "record": "decision", **asdict(decision)}
    return (canonical_json({**plain, "sha256": _seal(plain)}) + "\n").encode("utf-8", "surrogatepass")


def parse_decision(key: str, data: bytes | str) -> Decision:
    """The decision stored under a key. Raises CorruptObject: damaged, in the wrong place, or of a newer version."""
    try:
        plain = json.loads(data)
        if plain["record"] != "decision" or plain.pop("sha256") != _seal(plain):
            raise ValueError("it does not have the hash in its seal")
        decision = decision_from_json(plain)
        if not key.endswith(f"{decision.asset_key}/{decision.number:06d}.json"):
            raise ValueError("it lies in another decision's place")
        return decision
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptObject(key, f"{error}; this decision does not count") from error


def decision_from_json(plain: Mapping[str, Any]) -> Decision:
    """The decision of a stored document's fields. Raises ValueError, KeyError or TypeError."""
    values = {k: v for k, v in plain.items() if k not in ("schema", "record", "sha256")}
    if plain["schema"] > SCHEMA or values["kind"] not in KINDS:
        raise ValueError(f"it is a {values['kind']!r} of schema {plain['schema']}: update assetmill")
    return Decision(**values)


def _seal(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(plain).encode("utf-8", "surrogatepass")).hexdigest()
