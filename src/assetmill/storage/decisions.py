"""Decisions of people: a log of immutable records in the store, and what it comes to for each asset.

    decisions/<config>/<asset key>/<number>.json               one decision each: the truth
    decisions/<config>/folded/<count>-<sha256>.jsonl.gz        many of them in one object: may be deleted

The number is the next one of that asset and is written put-if-absent: whoever decides on what somebody else has
changed meanwhile, or posts the same thing twice, finds it taken (`StaleDecision`). Nothing edits or deletes a record;
to take one back is a record too. How records are folded is in `storage.reviews`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import RLock
from typing import Any, Protocol

from assetmill.records import (
    CandidateRecord,
    InputError,
    Problem,
    RequestRecord,
    asset_key,
    canonical_json,
    content_key,
)
from assetmill.storage.bans import open_bans
from assetmill.storage.catalog import open_catalog
from assetmill.storage.decision_rules import check_against, check_draft
from assetmill.storage.fold import AssetHistory
from assetmill.storage.index import open_index
from assetmill.storage.layout import decision_path, decisions_prefix
from assetmill.storage.parallel import map_ahead
from assetmill.storage.reviews import (
    ADOPTED,
    NOTHING,
    Decision,
    Draft,
    Override,
    Place,
    ReviewState,
    decision_bytes,
    decision_from_json,
    fold_decisions,
    parse_decision,
)
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob
from assetmill.storage.ulid import new_ulid

__all__ = [
    "NOTHING", "Decision", "DecisionLog", "Draft", "Override", "Place", "ReviewState", "StaleDecision", "decide",
    "read_decisions",
]  # fmt: skip

_NAME = re.compile(r"([0-9a-f]{64})/(\d{6,})\.json")
_FOLDED = re.compile(r"folded/(\d{8,})-([0-9a-f]{64})\.jsonl\.gz")
_THREADS = 8

log = logging.getLogger(__name__)


class StaleDecision(RuntimeError):
    """Somebody decided on this asset meanwhile, or the same post came twice: look again, then decide.

    `number` is that of the asset's last decision now; `taken` is the decision that was not seen, where it is whole.
    """

    def __init__(self, asset_id: str, seen: int, number: int, taken: Decision | None) -> None:
        self.asset_id, self.seen, self.number, self.taken = asset_id, seen, number, taken
        who = f" ({taken.kind} by {taken.by} at {taken.at})" if taken is not None else ""
        super().__init__(f"{asset_id}: decision {seen + 1} is there already{who}; look at the asset again, then decide")


class Histories(Protocol):
    """What earlier runs left of assets (an Index)."""

    def history(self, asset_ids: Collection[str], /) -> Mapping[str, AssetHistory]: ...


@dataclass(frozen=True, slots=True)
class _Folded:
    key: str
    count: int
    sha256: str


# --- writing ------------------------------------------------------------------------------------------------


def decide(
    store: Store,
    config_name: str,
    draft: Draft,
    seen: int,
    *,
    index: Histories | None = None,
    log: DecisionLog | None = None,
) -> Decision:
    """Puts a decision on record and gives it. `seen` is the number of the asset's last decision the person saw.

    The picture it names must be a candidate of the asset in the config's index, and its bytes must be whole; what was
    taken back cannot be approved. `index` and `log` spare reading: without them the store is asked; the new decision is
    added to `log`. A log that lags behind is no danger. Raises StaleDecision, or InputError for a decision that makes
    no sense.
    """
    check_draft(draft)
    key = asset_key(draft.asset_id)
    state = log.of(key) if log is not None else NOTHING
    if state.number != seen:
        if log is not None:
            log.refresh()
        state = _read_asset(store, config_name, key)
    if seen < state.number:
        raise StaleDecision(draft.asset_id, seen, state.number, _with_number(state, seen + 1))
    if seen > state.number:
        raise InputError(
            Problem(f"{draft.asset_id}: it has {state.number} decisions, not {seen}", "look at the asset again")
        )
    check_against(draft, state)
    values: dict[str, Any] = {**asdict(draft), "number": seen + 1, "id": new_ulid()}
    values["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    if draft.blob:
        values |= _find_picture(store, config_name, draft, state, index)
    path = decision_path(config_name, key, seen + 1)
    data = decision_bytes(Decision(**values))
    if not store.put_if_absent(path, data, media_type="application/json"):
        state = _read_asset(store, config_name, key)
        raise StaleDecision(draft.asset_id, seen, state.number, _with_number(state, seen + 1))
    decision = parse_decision(path, data)  # as everybody else will read it
    if log is not None:
        log.add(decision)
    return decision


def _with_number(state: ReviewState, number: int) -> Decision | None:
    return next((d for d in state.decisions if d.number == number), None)


def _find_picture(
    store: Store, config_name: str, draft: Draft, state: ReviewState, index: Histories | None
) -> dict[str, Any]:
    """Request key, template and cell of the picture a draft names.

    Raises InputError where no candidate of the asset has it, or where it is wanted and its bytes are gone.
    """
    index = index or open_index(store, config_name)
    history = index.history([draft.asset_id])[draft.asset_id]
    made = next((c for c in history.candidates.values() if c.blob == draft.blob), None)
    wanted = draft.kind in ("approve", "adopt", "vary")
    if made is not None:
        if wanted:
            _check_bytes(store, draft, made)
        request = history.requests[made.request_key]
        if draft.kind == "approve":
            _check_bans(store, config_name, draft, request)
        return {"request_key": request.key, "template": request.template, "cell": dict(request.cell)}
    # What was decided on may be lost since; it can still be let go of.
    known = next((d for d in state.decisions if d.blob == draft.blob), None)
    if known is not None and not wanted:
        return {"request_key": known.request_key, "template": known.template, "cell": dict(known.cell)}
    raise InputError(
        Problem(
            f"{draft.asset_id}: it has no candidate with the picture {draft.blob[:12]}…",
            "look at the asset again: pictures of other assets, masters and renditions cannot be decided on",
        )
    )


def _check_bytes(store: Store, draft: Draft, made: CandidateRecord) -> None:
    try:
        get_blob(store, made.blob, made.media_type.rpartition("/")[2])
    except (MissingObject, CorruptObject) as error:
        raise InputError(
            Problem(
                f"{draft.asset_id}: the bytes of the picture {draft.blob[:12]}… are gone or damaged ({error})",
                "choose another candidate, or let a run make this one again",
            )
        ) from error


def _check_bans(store: Store, config_name: str, draft: Draft, made: RequestRecord) -> None:
    """Raises InputError where a ban covers a picture that is to be approved: it would not leave all the same."""
    try:
        bans = open_bans(store, config_name)
    except CorruptObject as error:
        raise InputError(Problem(f"{draft.asset_id}: whether it was recalled cannot be read: {error}")) from error
    request = made.request
    licence = ""
    if request.engine == ADOPTED:
        licence = str(dict(request.options).get("licence", ""))
    elif any(ban.kind == "licence" for ban in bans.bans):
        licence = open_catalog(store, config_name).licence_of(request.revision)
    reason = bans.reason(
        asset_id=draft.asset_id, template=made.template, request=request, licence=licence, reviewer=draft.by,
        blob=draft.blob,
    ) or next((str(ban) for ban in bans.bans if draft.blob in ban.blobs), "")  # fmt: skip
    if reason:
        way_out = "approve another picture, or lift the ban (`assetmill catalog lift`) before"
        raise InputError(Problem(f"{draft.asset_id}: the picture {draft.blob[:12]}… cannot leave: {reason}", way_out))


def _read_asset(store: Store, config_name: str, key: str) -> ReviewState:
    """The state of one asset, read from its own records."""
    reader = DecisionLog(store, config_name, under=key)
    return reader.of(key)


# --- reading ------------------------------------------------------------------------------------------------


def read_decisions(store: Store, config_name: str) -> DecisionLog:
    """The decisions of a config as they are now; `refresh` takes in what came later."""
    return DecisionLog(store, config_name)


class DecisionLog:
    """All decisions of a config, and what they come to for each asset. Safe to use from several threads.

    `problems` names records that are damaged or of a newer version: they do not count, and nothing takes their place.
    """

    def __init__(self, store: Store, config_name: str, *, under: str = "") -> None:
        self.store = store
        self._prefix = decisions_prefix(config_name)
        self._under = f"{self._prefix}{under}/" if under else self._prefix
        self._decisions: dict[str, dict[int, Decision]] = {}
        self._numbers: dict[str, int] = {}
        self._names: set[str] = set()
        self._damaged: dict[str, str] = {}
        self._states: dict[str, ReviewState] = {}
        self._folded: list[_Folded] = []
        self._num_folded = 0
        self._lock = RLock()
        self.refresh()

    @property
    def problems(self) -> list[str]:
        return list(self._damaged.values())

    @property
    def num_tail(self) -> int:
        """How many decisions no folded object holds."""
        return len(self) - self._num_folded

    @property
    def digest(self) -> str:
        """Names what is in the log: the same for the same records."""
        with self._lock:
            return content_key("decisions", {"names": sorted(self._names)})

    def __len__(self) -> int:
        return sum(map(len, self._decisions.values()))

    def __iter__(self) -> Iterator[Decision]:
        """All decisions, in the order they were made in."""
        with self._lock:
            return iter(sorted((d for of in self._decisions.values() for d in of.values()), key=_moment))

    def assets(self) -> list[str]:
        """Keys of the assets that somebody decided about."""
        with self._lock:
            return list(self._numbers)

    def of(self, key: str) -> ReviewState:
        """The state of an asset, by its key; NOTHING where nobody decided anything."""
        number = self._numbers.get(key)
        if number is None:
            return NOTHING
        with self._lock:
            if key not in self._states:
                of = self._decisions.get(key, {})
                self._states[key] = fold_decisions([of[n] for n in sorted(of)], self._numbers[key])
            return self._states[key]

    def states(self) -> dict[str, ReviewState]:
        """The states of all assets that somebody decided about, by the assets' ids."""
        with self._lock:
            return {next(iter(of.values())).asset_id: self.of(key) for key, of in self._decisions.items()}

    def add(self, decision: Decision) -> None:
        """Takes in a decision that was just written."""
        with self._lock:
            self._take(f"{decision.asset_key}/{decision.number:06d}.json", decision)

    def refresh(self) -> int:
        """Takes in what is in the store and not yet here; says how many decisions that were."""
        with self._lock:
            names = [info.key[len(self._prefix) :] for info in self.store.list(self._under)]
            self._folded = sorted(
                (_Folded(name, int(m[1]), m[2]) for name in names if (m := _FOLDED.fullmatch(name))),
                key=lambda f: -f.count,
            )
            before = len(self)
            new = {name for name in names if name not in self._names and _NAME.fullmatch(name)}
            if not self._names and new:
                new -= self._take_folded(new)
            listed = sorted(new)
            for name, found in zip(listed, map_ahead(self._read, listed, threads=_THREADS), strict=True):
                if isinstance(found, Decision):
                    self._take(name, found)
                else:
                    self._damaged[name] = found
                    self._note(name)
            return len(self) - before

    def fold(self, min_tail: int = 256) -> str | None:
        """Writes all decisions into one object, so that they are read at once; gives its key.

        None, and nothing written, where fewer than `min_tail` are new since the last time. Readers do as well without
        it; two that fold at once do no harm.
        """
        with self._lock:
            if self._under != self._prefix or self.num_tail < max(min_tail, 1):
                return None
            lines = [canonical_json(asdict(d)) + "\n" for _, of in sorted(self._decisions.items()) for d in of.values()]
            data = gzip.compress("".join(lines).encode("utf-8", "surrogatepass"), 3, mtime=0)
            name = f"folded/{len(lines):08d}-{hashlib.sha256(data).hexdigest()}.jsonl.gz"
            self.store.put_if_absent(self._prefix + name, data, media_type="application/gzip")
            # One older one stays for those who are just reading it.
            for old in self._folded[1:]:
                if old.key != name:
                    self.store.delete(self._prefix + old.key)
            self._num_folded = len(lines)
            return self._prefix + name

    # --- inside -----------------------------------------------------------------------------------------------

    def _take_folded(self, listed: set[str]) -> set[str]:
        """Takes in the fullest folded object that is whole, and gives the names of its decisions.

        Only those whose records are there: these are the truth.
        """
        for folded in self._folded:
            try:
                data = self.store.get(self._prefix + folded.key)
                if hashlib.sha256(data).hexdigest() != folded.sha256:
                    raise CorruptObject(folded.key, "its bytes do not have the hash in its name")
                text = gzip.decompress(data).decode("utf-8", "surrogatepass")
                decisions = [decision_from_json({"schema": 1, **json.loads(x)}) for x in text.split("\n")[:-1]]
            except (MissingObject, CorruptObject, ValueError, TypeError, KeyError) as error:
                log.warning("decisions are read one by one: %s", error)
                continue
            keys: dict[str, str] = {}
            taken = set()
            for decision in decisions:
                key = keys.get(decision.asset_id) or keys.setdefault(decision.asset_id, decision.asset_key)
                name = f"{key}/{decision.number:06d}.json"
                if name in listed:
                    self._take(name, decision)
                    taken.add(name)
            self._num_folded = len(taken)
            return taken
        return set()

    def _read(self, name: str) -> Decision | str:
        try:
            return parse_decision(name, self.store.get(self._prefix + name))
        except (CorruptObject, MissingObject) as error:
            return str(error)

    def _take(self, name: str, decision: Decision) -> None:
        self._decisions.setdefault(name[:64], {})[decision.number] = decision
        self._note(name)

    def _note(self, name: str) -> None:
        key, number = name[:64], int(name[65:-5])
        self._names.add(name)
        self._numbers[key] = max(self._numbers.get(key, 0), number)
        self._states.pop(key, None)


def _moment(decision: Decision) -> tuple[str, int, str]:
    """When it was made; within a millisecond an asset's numbers say it, the random part of an id does not."""
    return decision.id[:10], decision.number, decision.id
