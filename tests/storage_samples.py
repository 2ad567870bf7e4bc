"""Records, segments and entries that the storage tests are made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

from assetmill.records import (
    CandidateRecord,
    CutRecord,
    FailureRecord,
    GateRecord,
    OutcomeRecord,
    Record,
    Request,
    RequestRecord,
    ScoreRecord,
    VariantRecord,
)
from assetmill.storage.entries import CatalogEntry


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def request_of(asset_id: str, index: int = 0, positive: str = "") -> Request:
    return Request(
        engine="torch-free", epoch=1, model="tiny", revision="0" * 64, positive=positive or f"a picture of {asset_id}",
        seed=index, width=8, height=8, steps=2, guidance=1.0,
    )  # fmt: skip


def requested(asset_id: str, index: int = 0, positive: str = "") -> RequestRecord:
    request = request_of(asset_id, index, positive)
    return RequestRecord(request.key, asset_id, "main", {"style": "plain"}, index, asset_id, request)


def candidate(request_key: str, salt: object = 0) -> CandidateRecord:
    return CandidateRecord(request_key, sha("blob", request_key, salt), "image/png", 8, 8, 0.1, {"torch": "2"})


def gate(subject: str, passed: bool = True, name: str = "black", stage: str = "candidate") -> GateRecord:
    return GateRecord(subject, name, stage, passed, "" if passed else f"too {name}", 0.5)


def score(request_key: str, value: float = 0.5, rank_text: str = "a thing") -> ScoreRecord:
    return ScoreRecord(sha(request_key, rank_text), request_key, sha("blob", request_key, 0), "tiny", rank_text, value)


def failure(request_key: str, kind: str = "transient") -> FailureRecord:
    return FailureRecord(request_key, kind, "out of memory", 1)


def cut(request_key: str) -> CutRecord:
    return CutRecord(request_key, 1, 2, 0.1)


def variant(asset_id: str, request_key: str, rank: int = 1) -> VariantRecord:
    return VariantRecord(
        sha("variant", request_key), asset_id, request_key, sha("blob", request_key, 0), rank, 0.5,
        sha("master", request_key), "image/png", 32, 32, "lanczos",
    )  # fmt: skip


def outcome(asset_id: str, work: object = 0, status: str = "chosen") -> OutcomeRecord:
    return OutcomeRecord(asset_id, status, sha("work", work), sha("select"), sha("meta", asset_id), "", 2)


def finished(asset_id: str, num: int = 2, work: object = 0) -> list[Record]:
    """All records of an asset that was made: `num` candidates, gated and scored, the first one chosen."""
    requests = [requested(asset_id, n) for n in range(num)]
    rest: list[Record] = []
    for r in requests:
        rest += [candidate(r.key), gate(r.key), gate(r.key, name="flat"), score(r.key)]
    return [*requests, *rest, variant(asset_id, requests[0].key), outcome(asset_id, work)]


def entry(asset_id: str, rank: int = 1, **changes: object) -> CatalogEntry:
    request = request_of(asset_id, rank)
    values: dict[str, object] = {
        "asset_id": asset_id, "rank": rank, "variant_key": sha("variant", asset_id, rank), "request_key": request.key,
        "blob": sha("blob", asset_id, rank), "master": sha("master", asset_id, rank), "media_type": "image/png",
        "width": 32, "height": 32, "score": 0.25, "positive": request.positive, "seed": request.seed,
        "cell": {"style": "plain"}, "columns": {"title": f"The {asset_id}", "price": "1E5"}, "run": "run-1",
        "request": request.payload(), "versions": {"torch": "2"}, "work_key": sha("work", asset_id),
        "select_key": sha("select"), "meta_key": sha("meta", asset_id), "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return CatalogEntry(**(values | changes))  # type: ignore[arg-type]


def damage(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Died(BaseException):
    """What no `except Exception` catches."""
