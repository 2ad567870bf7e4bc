"""A finished chunk's records: what its segment says, written after every blob that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from assetmill.intake.plan import AssetPlan
from assetmill.operate.choosing import Item
from assetmill.operate.chunks import ChunkResult, OpenChunk
from assetmill.operate.products import HEAT
from assetmill.operate.settle import Settled
from assetmill.operate.stages import Stages
from assetmill.operate.taste import HouseRanker
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
    content_key,
)
from assetmill.storage.index import AssetHistory, write_segment
from assetmill.storage.layout import blob_path
from assetmill.storage.store import Store

Chosen = Sequence[tuple[AssetPlan, AssetHistory]]
"""Assets with what was just chosen of them: as much of their history as publishing reads."""


def commit_chunk(
    opened: OpenChunk,
    settled: Settled,
    masters: Mapping[str, Future[str]],
    cutouts: Mapping[str, Future[str]],
    *,
    store: Store,
    config_name: str,
    judge_key: str,
    media_type: str,
    versions: Mapping[str, str],
    stages: Stages,
    on_chosen: Callable[[Chosen], None] | None = None,
    ranker: HouseRanker | None = None,
) -> ChunkResult:
    """Waits for the chunk's blobs, then writes its segment: the mark that it is finished.

    `masters` and `cutouts` are the blobs of upscaled and of cut-out pictures by request key, `media_type` that of new
    candidates. `on_chosen` is told what was chosen, once that is on record.
    """
    written, cut = ({key: job.result() for key, job in some.items()} for some in (masters, cutouts))
    records: list[Record] = []
    for group in opened.groups:
        for item in group.items:
            history = opened.history.get(item.plan.asset.id)
            records.extend(item_records(item, history, judge_key, media_type, versions))
            if ranker is not None and item.taste is not None and item.blob is not None:
                records.append(ranker.record(item.plan.asset, item.key, item.blob.result(), item.taste))
    records.extend(settled.records(written, cut))
    with stages.time("record"):
        segment = write_segment(store, config_name, opened.chunk.key, 0, records)
    if on_chosen is not None:
        on_chosen(chosen_of(opened.chunk.plans, opened.history, records))
    rejected = {r.subject for r in records if isinstance(r, GateRecord) and not r.passed}
    return ChunkResult(
        opened.chunk.key,
        len(opened.chunk.plans),
        sum(isinstance(r, CandidateRecord) for r in records),
        len(rejected),
        sum(isinstance(r, FailureRecord) and r.kind != "lost" for r in records),
        settled.num_chosen,
        settled.outcomes(),
        cut=sum(isinstance(r, CutRecord) for r in records), segment=segment,
    )  # fmt: skip


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


def chosen_of(plans: Sequence[AssetPlan], history: Mapping[str, AssetHistory], records: Sequence[Record]) -> Chosen:
    """The assets of a chunk that have chosen variants, by the records that its segment holds.

    `history` is what was known of them before.
    """
    outcomes = {r.asset_id: r for r in records if isinstance(r, OutcomeRecord) and r.status == "chosen"}
    wanted = {key for outcome in outcomes.values() for key in outcome.chosen}
    found = {id_: AssetHistory(outcome=outcome) for id_, outcome in outcomes.items()}
    makers: dict[str, list[str]] = {}
    for record in records:
        if isinstance(record, VariantRecord) and record.key in wanted and record.asset_id in found:
            found[record.asset_id].take(record)
            makers.setdefault(record.request_key, []).append(record.asset_id)
    for record in records:
        if isinstance(record, RequestRecord) and record.asset_id in makers.get(record.key, ()):
            found[record.asset_id].take(record)
        elif isinstance(record, CandidateRecord):
            for asset_id in makers.get(record.request_key, ()):
                found[asset_id].take(record)
    return [
        (plan, _with_earlier(found[plan.asset.id], history.get(plan.asset.id)))
        for plan in plans
        if plan.asset.id in found
    ]


def _with_earlier(found: AssetHistory, earlier: AssetHistory | None) -> AssetHistory:
    """With what earlier segments say of the chosen candidates, where this one repeats it not."""
    if earlier is None:
        return found
    keys = {variant.request_key for variant in found.variants.values()}
    return replace(
        found,
        requests={**{k: r for k, r in earlier.requests.items() if k in keys}, **found.requests},
        candidates={**found.candidates, **{k: c for k, c in earlier.candidates.items() if k in keys}},
    )
