"""Rehearsals and baselines as records: immutable, put if absent, apart from everything the catalog knows.

    rehearsals/<config>/made/<baseline>/<setup>/<ulid>.json    golden rows made with a setup, compared with a baseline
    rehearsals/<config>/baselines/<number>.json                whose pictures the next rehearsal is compared with

A baseline names a rehearsal and who accepted it. Of two who accept at one moment one gets the number, and the other is
told. Pictures are blobs that only these records name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from assetmill.curate.drift import Measure
from assetmill.operate.setups import setup_key
from assetmill.records import Asset, EngineOverrides, InputError, Overrides, Problem, Prompt, content_key
from assetmill.storage.layout import rehearsals_prefix
from assetmill.storage.store import CorruptObject, MissingObject, Store
from assetmill.storage.ulid import new_ulid

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """One prompt of a golden asset as it was when it became one: later edits of sheet and templates don't touch it."""

    asset_id: str
    template: str
    cell: Mapping[str, str]
    positive: str
    negative: str
    rank_text: str
    seeds: tuple[int, ...]
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def key(self) -> str:
        """Names what is asked for, whatever makes it: texts and size, but neither model nor seed."""
        own = self.overrides
        size, negative = [own.width, own.height], own.negative if own.negative is not None else self.negative
        texts = {"asset": self.asset_id, "cell": dict(self.cell), "positive": self.positive, "rank": self.rank_text}
        return content_key("golden", {**texts, "negative": negative, "size": size})

    @property
    def asset(self) -> Asset:
        return Asset(self.asset_id, {}, overrides=self.overrides)

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.asset_id, self.template, self.cell, self.positive, self.negative, self.rank_text)


@dataclass(frozen=True, slots=True)
class Take:
    """One picture of a golden row: what it is of (`row` is the row's key), what came out, what was said of it.

    `rejected` is the first gate that refused it, or why there is no picture; then `blob` is empty.
    """

    asset_id: str
    row: str
    seed: int
    request_key: str
    blob: str
    media_type: str
    score: float | None
    passed: bool
    rejected: str = ""
    chosen: bool = False

    @property
    def slot(self) -> tuple[str, int]:
        """What pairs takes of two rehearsals."""
        return self.row, self.seed


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Golden rows made with one setup, and how far they drifted from a baseline (0: there was none).

    `sections` are the config's, from which the setup can be opened again. `measures` are by name; `judge_shift` is by
    how much the judge of today scores the old pictures higher than it did, None where it is another judge.
    """

    id: str
    config: str
    baseline: int
    setup: Mapping[str, Any]
    sections: Mapping[str, Any]
    rows: tuple[GoldenRow, ...]
    takes: tuple[Take, ...]
    changed: tuple[str, ...] = ()
    measures: Mapping[str, Measure] = field(default_factory=dict)
    judge_shift: float | None = None
    problems: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""
    at: str = ""

    @property
    def beyond(self) -> tuple[str, ...]:
        """What fell further than its limit, in words."""
        return tuple(
            f"{m.name} fell by {-m.change:.4g} (limit {m.limit:g})" for m in self.measures.values() if m.beyond
        )

    @property
    def key(self) -> str:
        return f"{_made_prefix(self.config, self.baseline, self.setup)}{self.id}.json"

    @property
    def page_key(self) -> str:
        return self.key.removesuffix(".json") + ".html"


@dataclass(frozen=True, slots=True)
class Baseline:
    """A rehearsal that was accepted: by whom, when (ISO 8601, UTC) and why."""

    number: int
    rehearsal: Rehearsal
    by: str
    at: str
    reason: str = ""


def last_baseline(store: Store, config_name: str) -> Baseline | None:
    """The baseline that holds, None before the first. Raises CorruptObject where it cannot be read."""
    prefix = f"{rehearsals_prefix(config_name)}baselines/"
    key = max((info.key for info in store.list(prefix) if info.key.endswith(".json")), default="")
    if not key:
        return None
    record = _read(store, key)
    try:
        number = int(key.removeprefix(prefix).removesuffix(".json"))
        return Baseline(
            number, read_rehearsal(store, record["rehearsal"]), record["by"], record["at"], record["reason"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(key, error) from error


def accept(store: Store, rehearsal: Rehearsal, *, by: str, reason: str = "") -> Baseline:
    """Makes a rehearsal the next baseline. Raises InputError where another one was accepted since it was made."""
    number = rehearsal.baseline + 1
    key = f"{rehearsals_prefix(rehearsal.config)}baselines/{number:06d}.json"
    at = _now()
    record = {"rehearsal": rehearsal.key, "by": by, "at": at, "reason": reason, "id": new_ulid()}
    last = last_baseline(store, rehearsal.config)
    current = last.number if last is not None else 0
    if current != rehearsal.baseline or not _put(store, key, "baseline", record):
        raise InputError(
            Problem(
                f"rehearsal {rehearsal.id} was compared with baseline {rehearsal.baseline}, and there is a newer one",
                "rehearse again: `assetmill rehearse CONFIG`",
            )
        )
    return Baseline(number, rehearsal, by, at, reason)


def write_rehearsal(store: Store, rehearsal: Rehearsal) -> None:
    """Writes the record of a rehearsal; the pictures it names are stored by then."""
    _put(store, rehearsal.key, "rehearsal", asdict(rehearsal))


def find_rehearsal(store: Store, config_name: str, baseline: int, setup: Mapping[str, Any]) -> Rehearsal | None:
    """The latest rehearsal of a setup that was compared with a baseline."""
    prefix = _made_prefix(config_name, baseline, setup)
    key = max((info.key for info in store.list(prefix) if info.key.endswith(".json")), default="")
    found = read_rehearsal(store, key) if key else None
    return found if found is not None and setup_key(found.setup) == setup_key(setup) else None


def read_rehearsal(store: Store, key: str) -> Rehearsal:
    """The rehearsal under a key. Raises CorruptObject where it is gone or damaged."""
    record = _read(store, key)
    try:
        values = {name: record[name] for name in Rehearsal.__dataclass_fields__ if name in record}
        values["rows"] = tuple(_golden_row(row) for row in record["rows"])
        values["takes"] = tuple(Take(**take) for take in record["takes"])
        values["measures"] = {name: Measure(**m) for name, m in record["measures"].items()}
        for name in ("changed", "problems"):
            values[name] = tuple(record[name])
        return Rehearsal(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(key, error) from error


# --- inside -------------------------------------------------------------------------------------------------


def _made_prefix(config_name: str, baseline: int, setup: Mapping[str, Any]) -> str:
    return f"{rehearsals_prefix(config_name)}made/{baseline:06d}/{setup_key(setup)[:16]}/"


def _golden_row(record: Mapping[str, Any]) -> GoldenRow:
    overrides = dict(record["overrides"])
    engine = overrides["engine"]
    if engine is not None:
        loras: Sequence[Any] | None = engine["lora"]
        lora = None if loras is None else tuple((str(file), float(weight)) for file, weight in loras)
        overrides["engine"] = EngineOverrides(**{**engine, "lora": lora})
    return GoldenRow(**{**record, "seeds": tuple(record["seeds"]), "overrides": Overrides(**overrides)})


def _put(store: Store, key: str, name: str, record: Mapping[str, Any]) -> bool:
    text = json.dumps({"schema": SCHEMA, "record": name, **record}, ensure_ascii=False, indent=1)
    return store.put_if_absent(key, (text + "\n").encode("utf-8", "surrogatepass"), media_type="application/json")


def _read(store: Store, key: str) -> dict[str, Any]:
    try:
        record = json.loads(store.get(key).decode("utf-8", "surrogatepass"))
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']} is newer than this version's {SCHEMA}: update assetmill")
        return dict(record)
    except (MissingObject, ValueError, KeyError, TypeError) as error:
        raise _damaged(key, error) from error


def _damaged(key: str, error: Exception) -> CorruptObject:
    what = "it is gone" if isinstance(error, MissingObject) else repr(error)
    return CorruptObject(
        key, f"what was rehearsed cannot be read ({what}); restore it, or delete the baselines that name it"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
