"""Publishing: the chosen variants' files go out first, the catalog version that names them last.

Whatever dies in between leaves the old catalog whole; the next run finds the files there and only commits.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from assetmill.config import Config
from assetmill.intake.plan import AssetPlan
from assetmill.operate.settle import extension_of
from assetmill.operate.stages import Stages
from assetmill.records import InputError, OutcomeRecord, Problem, RequestRecord, VariantRecord, asset_key, content_key
from assetmill.storage.catalog import Catalog, CatalogEntry, CatalogHeld
from assetmill.storage.index import AssetHistory, Index, write_segment
from assetmill.storage.layout import blob_path, published_path, safe_name
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, set_aside

_SLICE = 512
"""Assets whose histories are read and published at a time: bounds memory over large catalogs."""

NAME_FIELDS = ("id", "rank", "seed", "template")


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing did. `version` is 0 while nothing was ever published.

    `damaged` are ids of assets whose chosen picture is gone or damaged: the next run makes it again. `held` says why
    nothing was published, after a rollback.
    """

    version: int
    published: int = 0
    files: int = 0
    removed: int = 0
    damaged: tuple[str, ...] = ()
    held: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a catalog entry says of models: licence, and whether their pictures may be used commercially.

    `by_revision` says it of each model of a config, by its revision.
    """

    licence: str
    commercial: bool | None
    judge: str
    by_revision: Mapping[str, tuple[str, bool | None]] = field(default_factory=dict)

    def of(self, revision: str) -> tuple[str, bool | None]:
        """Licence and commercial use of the model of a revision; the config's own model's where it is not known."""
        return self.by_revision.get(revision, (self.licence, self.commercial))


def check_name_pattern(config: Config, headers: Sequence[str]) -> None:
    """Raises InputError when `publish.name` or `publish.columns` use a column that the sheet lacks, or may not use."""
    known = set(headers)
    problems = [
        Problem(
            f"publish.columns names {c!r}, which the sheet lacks",
            f"its columns are {', '.join(sorted(known))}",
            column=c,
        )
        for c in config.publish.columns
        if c not in known
    ]
    try:
        fields = [(f, spec or "") for _, f, spec, _ in string.Formatter().parse(config.publish.name) if f is not None]
    except ValueError as error:
        raise InputError(Problem(f"publish.name is not a pattern: {error}", "write it like {id}_{rank}")) from error
    names = [f for f, _ in fields]
    # Found now, not when a night's pictures are to be published; and no width of a billion.
    problems += [
        Problem(f"publish.name uses {{{f}:{spec}}}", "only numbers have digits: write it like {id}_{rank:02d}")
        for f, spec in fields
        if not re.fullmatch(r"(0?[0-9]d?)?" if f in ("rank", "seed") else "", spec)
    ]
    allowed = {*NAME_FIELDS, *config.publish.columns}
    problems += [
        Problem(
            f"publish.name uses {{{n}}}", f"use {', '.join('{' + a + '}' for a in sorted(allowed))}, or add the "
            "column to publish.columns",
        )
        for n in names
        if n not in allowed
    ]  # fmt: skip
    if problems:
        raise InputError(problems)


def publish(
    plans: Sequence[AssetPlan],
    removed: Collection[str],
    *,
    store: Store,
    config: Config,
    index: Index,
    catalog: Catalog,
    terms: Terms,
    meta_context: str,
    run_id: str,
    stages: Stages,
) -> Publication:
    """Publishes what is chosen of `plans` and, with `removed: retire`, takes removed assets (by key) out.

    Plans whose choice is not settled (transient failures, waiting for review) keep what is published of them.
    """
    entries: list[CatalogEntry] = []
    damaged: list[str] = []
    with ThreadPoolExecutor(max(config.run.writers, 4), thread_name_prefix="publish") as pool, stages.time("publish"):
        # In order of their keys the assets of a slice lie in few shards of the index.
        plans = sorted(plans, key=lambda p: p.asset.key)
        for start in range(0, len(plans), _SLICE):
            part = plans[start : start + _SLICE]
            histories = index.history([p.asset.id for p in part])
            fresh: list[CatalogEntry] = []
            for plan in part:
                fresh.extend(_entries_of(plan, histories.get(plan.asset.id), config, terms, meta_context, run_id))
            if fresh and (hold := catalog.held()):
                return Publication(catalog.latest(), held=str(CatalogHeld(config.name, hold)))
            # Files first. Names carry the content's hash, so a name never changes its bytes.
            troubles = pool.map(lambda e: _put_object(store, e), fresh)
            lost = {e.asset_id: trouble for e, trouble in zip(fresh, troubles, strict=True) if trouble}
            _write_off(store, config, [p for p in part if p.asset.id in lost], lost, run_id)
            damaged.extend(lost)
            entries.extend(e for e in fresh if e.asset_id not in lost)
        gone = _removed_ids(catalog, removed) if config.publish.removed == "retire" and removed else []
        try:
            version = catalog.commit(entries, gone, run=run_id) if entries or gone else catalog.latest()
        except CatalogHeld as error:
            return Publication(catalog.latest(), damaged=tuple(damaged), held=str(error))
    return Publication(version, len({e.asset_id for e in entries}), len(entries), len(gone), tuple(damaged))


def _entries_of(
    plan: AssetPlan,
    history: AssetHistory | None,
    config: Config,
    terms: Terms,
    meta_context: str,
    run_id: str,
) -> Iterator[CatalogEntry]:
    if history is None or history.outcome is None:
        return
    outcome: OutcomeRecord = history.outcome
    if outcome.status != "chosen" or (outcome.work_key, outcome.select_key) != (plan.work_key, plan.select_key):
        return
    columns = {name: plan.asset.columns.get(name, "") for name in config.publish.columns}
    meta_key = content_key("meta", {"context": meta_context, "id": plan.asset.id, "columns": columns})
    for rank, key in enumerate(outcome.chosen, 1):
        variant = history.variants[key]
        request = history.requests[variant.request_key]
        yield _entry(plan, variant, request, history, rank, columns, meta_key, config, terms, run_id)


def _entry(
    plan: AssetPlan,
    variant: VariantRecord,
    made: RequestRecord,
    history: AssetHistory,
    rank: int,
    columns: Mapping[str, str],
    meta_key: str,
    config: Config,
    terms: Terms,
    run_id: str,
) -> CatalogEntry:
    request = made.request
    values: dict[str, Any] = {
        **columns,
        "id": plan.asset.id,
        "rank": rank,
        "seed": request.seed,
        "template": made.template,
    }
    name = safe_name(config.publish.name.format_map(values))
    folder = f"{safe_name(plan.asset.id)}-{asset_key(plan.asset.id)[:6]}"
    extension = extension_of(variant.master_media_type)
    return CatalogEntry(
        asset_id=plan.asset.id,
        rank=rank,
        variant_key=variant.key,
        request_key=variant.request_key,
        blob=variant.blob,
        master=variant.master,
        media_type=variant.master_media_type,
        width=variant.master_width,
        height=variant.master_height,
        score=variant.score,
        judge=terms.judge,
        positive=request.positive,
        negative=request.negative,
        rank_text=made.rank_text,
        template=made.template,
        cell=dict(made.cell),
        seed=request.seed,
        engine=request.engine,
        model=request.model,
        revision=request.revision,
        licence=terms.of(request.revision)[0],
        commercial=terms.of(request.revision)[1],
        steps=request.steps,
        guidance=request.guidance,
        scheduler=request.scheduler,
        operation=request.operation,
        upscaler=variant.upscaler,
        columns=dict(columns),
        object_key=published_path(config.publish.channel, folder, name, variant.master[:8], extension),
        run=run_id,
        created=_utc_now(),
        request=request.payload(),
        versions=_versions(history, variant.request_key),
        work_key=plan.work_key,
        select_key=plan.select_key,
        meta_key=meta_key,
    )


def _versions(history: AssetHistory, request_key: str) -> dict[str, str]:
    # The segment that holds the candidate may be damaged (the report says so) while its choice, made later, is whole.
    made = history.candidates.get(request_key)
    return dict(made.versions) if made is not None else {}


def _put_object(store: Store, entry: CatalogEntry) -> str:
    """Stores an entry's file where it is not there yet; says what is wrong when its picture is gone or damaged."""
    if store.stat(entry.object_key) is not None:
        return ""
    extension = extension_of(entry.media_type)
    try:
        data = get_blob(store, entry.master, extension)
    except (MissingObject, CorruptObject) as error:
        set_aside(store, blob_path(entry.master, extension))
        return str(error)
    store.put_if_absent(entry.object_key, data, media_type=entry.media_type)
    return ""


def _write_off(
    store: Store, config: Config, plans: Sequence[AssetPlan], reasons: Mapping[str, str], run_id: str
) -> None:
    """Records that the choice of some assets no longer stands, so that the next run chooses and upscales again."""
    if not plans:
        return
    records = [
        OutcomeRecord(p.asset.id, "transient", p.work_key, p.select_key, p.meta_key, reasons[p.asset.id]) for p in plans
    ]
    write_segment(store, config.name, content_key("lost", {"run": run_id, "assets": sorted(reasons)}), 0, records)


def _removed_ids(catalog: Catalog, keys: Collection[str]) -> list[str]:
    wanted = set(keys)
    table = catalog.entries(columns=["asset_id"])
    ids = set(table.column("asset_id").to_pylist())
    return sorted(i for i in ids if asset_key(i) in wanted)


def _utc_now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")
