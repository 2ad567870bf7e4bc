"""A finished chunk's records: what its segment says, written after every blob that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future

from assetmill.operate.chunks import ChunkResult, OpenChunk
from assetmill.operate.products import HEAT
from assetmill.operate.settle import Item, Settled
from assetmill.operate.stages import Stages
from assetmill.records import (
    CandidateRecord,
    CutRecord,
    FailureRecord,
    GateRecord,
    Record,
    RequestRecord,
    ScoreRecord,
    content_key,
)
from assetmill.storage.index import AssetHistory, write_segment
from assetmill.storage.layout import blob_path
from assetmill.storage.store import Store


def commit_chunk(
    opened: OpenChunk,
    settled: Settled,
    masters: Mapping[str, Future[str]],
    *,
    store: Store,
    config_name: str,
    judge_key: str,
    media_type: str,
    versions: Mapping[str, str],
    stages: Stages,
) -> ChunkResult:
    """Waits for the chunk's blobs, then writes its segment: the mark that it is finished.

    `masters` are the blobs of upscaled pictures by request key, `media_type` that of new candidates.
    """
    written = {key: job.result() for key, job in masters.items()}
    records: list[Record] = []
    for group in opened.groups:
        for item in group.items:
            history = opened.history.get(item.plan.asset.id)
            records.extend(item_records(item, history, judge_key, media_type, versions))
    records.extend(settled.records(written))
    with stages.time("record"):
        write_segment(store, config_name, opened.chunk.key, 0, records)
    rejected = {r.subject for r in records if isinstance(r, GateRecord) and not r.passed}
    return ChunkResult(
        opened.chunk.key,
        len(opened.chunk.plans),
        sum(isinstance(r, CandidateRecord) for r in records),
        len(rejected),
        sum(isinstance(r, FailureRecord) and r.kind != "lost" for r in records),
        settled.num_chosen,
        settled.outcomes(),
        cut=sum(isinstance(r, CutRecord) for r in records),
    )


def item_records(
    item: Item, history: AssetHistory | None, judge_key: str, media_type: str, versions: Mapping[str, str]
) -> Iterator[Record]:
    """The records of one candidate. Its blob is waited for: a segment names nothing that isn't stored."""
    if item.stored and item.pixels is None:
        return
    prompt = item.prompt
    yield RequestRecord(
        item.key, item.plan.asset.id, prompt.template, dict(prompt.cell), item.index, prompt.rank_text, item.request
    )
    yield from item.failures
    if item.cut is not None:
        yield item.cut
    if item.blob is None or item.pixels is None:
        return
    blob = item.blob.result()
    if not item.stored:
        height, width = item.pixels.shape[:2]
        yield CandidateRecord(item.key, blob, media_type, width, height, item.seconds, versions)
    # All verdicts, those passed too: they replace what an earlier segment said with other thresholds.
    for v in item.verdicts:
        yield GateRecord(item.key, v.gate, "candidate", v.passed, v.reason, v.value)
    if item.heat_blob is not None:
        shown = f"where the model had changed it: {blob_path(item.heat_blob.result(), 'png')}"
        yield GateRecord(item.key, HEAT, "candidate", True, shown)
    key = content_key("score", {"blob": blob, "judge": judge_key, "text": prompt.rank_text})
    if history is None or key not in history.scores:
        yield ScoreRecord(key, item.key, blob, judge_key, prompt.rank_text, item.score)
