"""Segments: the log of all that was ever made, one object per chunk of work, never changed and never deleted.

A segment is JSON lines, a record each (`assetmill.records`), and a last line that seals it: the hash of all lines
before it and the time they were written. The seal is what tells a truncated or damaged segment from a whole one, and
the time is what orders segments: it travels with the bytes when a store is copied, unlike an object's own date.

A segment brings the RequestRecord of every request that its other records speak of, so that each of them can be
brought home to its asset without looking elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from assetmill.records import (
    RECORD_TYPES,
    SCHEMA,
    Record,
    RecordError,
    asset_key,
    canonical_json,
    parse_record,
    record_line,
    segment_bytes,
)
from assetmill.storage.layout import segment_path
from assetmill.storage.store import CorruptObject, MissingObject, Store

EXPIRED = "expired"
"""The kind of a FailureRecord that says that a candidate's blob was let go: it counts as made and cannot be chosen."""

LOST = "lost"
"""The kind of a FailureRecord that voids a candidate whose blob is gone or damaged: the next one made counts."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A whole segment: its key in the store, when it was written (ISO 8601, UTC), and the lines of its records."""

    key: str
    written: str
    lines: tuple[str, ...]

    @property
    def order(self) -> tuple[str, str]:
        """What segments are read in the order of."""
        return self.written, self.key


@dataclass(frozen=True, slots=True)
class Fact:
    """One record of a segment, brought home: whose row it belongs to, which place in it, and what it says.

    `kind` is the kind of row (request, variant or outcome) and `key` that row's key (hex; the asset's own for an
    outcome). Of two facts for one `slot` of a row the later counts. `signal` is what the fact says about whether the
    request is done: candidate, pass, fail, the kind of a failure, cut, or nothing.
    """

    asset_key: str
    kind: str
    key: str
    slot: str
    signal: str
    line: str


def write_segment(store: Store, config_name: str, chunk_key: str, attempt: int, records: Sequence[Record]) -> str:
    """Stores the records of one chunk as a segment and returns its key in the store.

    The segment is the commit mark: call this when all blobs it names are stored. Where the attempt's place is taken
    by other records (a second worker on the same chunk, or a damaged segment), the next free one is used: nothing is
    lost, and of two candidates of a request the first counts. ValueError if a record speaks of a request, variant or
    blob that the segment does not hold.
    """
    body = segment_bytes(records)
    seal = {
        "schema": SCHEMA,
        "record": "seal",
        "lines": len(records),
        "sha256": hashlib.sha256(body).hexdigest(),
        "written": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    data = body + (canonical_json(seal) + "\n").encode()
    segment = parse_segment(f"a segment of chunk {chunk_key}", data)
    for _ in facts_of(segment):  # a record that could not be found again must not be written
        pass
    while True:
        path = segment_path(config_name, chunk_key, attempt)
        if store.put_if_absent(path, data, media_type="application/x-ndjson"):
            return path
        try:
            if read_segment(store, path).lines == segment.lines:
                return path
        except CorruptObject:
            pass  # readers report it; our records need a place of their own
        attempt += 1


def read_segment(store: Store, key: str) -> Segment:
    """The segment of that key. Raises CorruptObject when it is missing, truncated or damaged."""
    try:
        data = store.get(key)
    except MissingObject as error:
        raise CorruptObject(key, "it is missing") from error
    return parse_segment(key, data)


def parse_segment(key: str, data: bytes) -> Segment:
    """A segment from its bytes, its seal checked. Raises CorruptObject."""
    end = data.rfind(b"\n", 0, -1) + 1
    body, seal_line = data[:end], data[end:]
    try:
        seal = json.loads(seal_line)
        if seal["record"] != "seal" or not seal_line.endswith(b"\n"):
            raise ValueError("its last line is not a seal")
        if seal["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its lines do not have the hash in its seal")
        # Not splitlines(): a text may hold U+2028 and friends, which are no ends of lines in JSON.
        lines = tuple(body.decode("utf-8", "surrogatepass").split("\n")[:-1])
        return Segment(key, seal["written"], lines)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObject(key, f"{error}; its records are left out") from error


def facts_of(segment: Segment) -> Iterator[Fact]:
    """Brings the records of a segment home to their assets. ValueError (RecordError) if one cannot be."""
    read = [_load(line) for line in segment.lines]
    asset_keys: dict[str, str] = {}

    def key_of(asset_id: str) -> str:
        if asset_id not in asset_keys:
            asset_keys[asset_id] = asset_key(asset_id)
        return asset_keys[asset_id]

    # Two assets may share a request (equal prompts, equal seeds), and so a variant: what is said of it goes to both.
    requests: dict[str, list[str]] = {}
    variants: dict[str, list[str]] = {}
    masters: dict[str, str] = {}
    for _, data in read:
        if data["record"] == "request":
            requests.setdefault(data["key"], []).append(key_of(data["asset_id"]))
        elif data["record"] == "variant":
            variants.setdefault(data["key"], []).append(key_of(data["asset_id"]))
            masters[data["master"]] = data["key"]
    for line, data in read:
        name, subject = data["record"], _subject(data)
        signal = ""
        if name == "outcome":
            home = key_of(data["asset_id"])
            yield Fact(home, "outcome", home, "outcome", "", line)
            continue
        if name == "variant":
            yield Fact(key_of(data["asset_id"]), "variant", subject, "variant", "", line)
            continue
        if name == "gate" and subject not in requests:
            variant = subject if subject in variants else masters.get(subject, "")
            if variant:
                for home in variants[variant]:
                    yield Fact(home, "variant", variant, slot_of(data), "", line)
                continue
        if subject not in requests:
            raise RecordError(
                f"{segment.key}: a {name} record speaks of {subject}, which the segment does not hold; "
                "write the RequestRecord (or VariantRecord) with it"
            )
        if name == "candidate":
            signal = "candidate"
        elif name == "gate" and data["stage"] == "candidate":
            signal = "pass" if data["passed"] else "fail"
        elif name == "failure":
            signal = data["kind"]
        elif name == "cut":
            signal = "cut"
        for home in requests[subject]:
            yield Fact(home, "request", subject, slot_of(data), signal, line)


def slot_of(data: dict[str, Any]) -> str:
    """The place of a record in its row: one per type, for gates one per subject, stage and name, for scores per key."""
    name: str = data["record"]
    if name == "gate":
        return f"gate {data['subject']} {data['stage']} {data['gate']}"
    return f"score {data['key']}" if name == "score" else name


def _subject(data: dict[str, Any]) -> str:
    name = data["record"]
    if name in ("request", "variant"):
        return str(data["key"])
    if name == "outcome":
        return ""
    return str(data["subject"] if name == "gate" else data["request_key"])


def _load(line: str) -> tuple[str, dict[str, Any]]:
    """The line and its fields, in this version's shape. Raises RecordError."""
    try:
        data = json.loads(line)
        if data["schema"] == SCHEMA and data["record"] in RECORD_TYPES:
            return line, data
    except (ValueError, KeyError, TypeError):
        pass  # parse_record says what is wrong with it
    line = record_line(parse_record(line))
    return line, json.loads(line)
