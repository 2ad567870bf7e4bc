"""Publishing: the chosen variants' files go out first, the catalog version that names them last.

Whatever dies in between leaves the old catalog whole; the next run finds the files there and only commits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from assetmill.intake.plan import AssetPlan
from assetmill.operate.dispatch import Dispatcher
from assetmill.operate.leaving import without_rejected
from assetmill.operate.stages import Stages
from assetmill.records import GateRecord, OutcomeRecord, Record, asset_key, content_key
from assetmill.storage.catalog import Catalog, CatalogEntry, CatalogHeld
from assetmill.storage.entries import Rendition
from assetmill.storage.index import AssetHistory, Index, write_segment
from assetmill.storage.reviews import ReviewState
from assetmill.storage.store import Store

_SLICE = 512
"""Assets whose histories are read and published at a time: bounds memory over large catalogs."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing did. `version` is 0 while nothing was ever published.

    `published` counts assets, `files` their files, `num_made` those that were not there before. `damaged` are ids of
    assets whose chosen picture is gone or damaged: the next run makes it again. `failed` says by id why an asset's
    files could not be made or stored: it is not in the new version. `refused` says by id which files a gate refused,
    and why. `held` says why nothing was published, after a rollback.
    """

    version: int
    published: int = 0
    files: int = 0
    removed: int = 0
    num_made: int = 0
    damaged: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: str = ""


def publish(
    plans: Sequence[AssetPlan],
    removed: Collection[str],
    *,
    store: Store,
    config_name: str,
    retire: bool,
    index: Index,
    catalog: Catalog,
    dispatcher: Dispatcher,
    run_id: str,
    stages: Stages,
    reviews: Mapping[str, ReviewState] = MappingProxyType({}),
) -> Publication:
    """Publishes what is chosen of `plans` and, with `retire`, takes removed assets (by key) out.

    Pictures that somebody rejected (`reviews`, by asset id) are taken out, whether or not there are others yet. Plans
    whose choice is not settled (transient failures, waiting for review) keep what else is published of them.
    """
    tally = _Tally()
    with stages.time("publish"):
        dispatcher.settle()
        # In order of their keys the assets of a slice lie in few shards of index and catalog.
        plans = sorted(plans, key=lambda p: p.asset.key)
        for start in range(0, len(plans), _SLICE):
            part = plans[start : start + _SLICE]
            histories = index.history([p.asset.id for p in part])
            drafts = [d for p in part for d in dispatcher.drafts.of(p, histories.get(p.asset.id))]
            # Rejected since the plan was made: that choice no longer stands, the next run makes it again.
            turned_down = {d.asset_id for d in drafts if d.asset_id in reviews and _is_rejected(d, reviews)}
            drafts = [d for d in drafts if d.asset_id not in turned_down]
            if drafts and (hold := catalog.held()):
                return Publication(catalog.latest(), held=str(CatalogHeld(config_name, hold)))
            records = tally.add(part, dispatcher, drafts, histories)
            if records:
                # The run's id is in it: the same picture may be lost again another night.
                key = content_key("publishing", {"run": run_id, "from": part[0].asset.key})
                write_segment(store, config_name, key, 0, records)
        gone = _removed_ids(catalog, removed) if retire and removed else []
        stay, rejected = without_rejected(catalog, reviews, {e.asset_id for e in tally.entries})
        upserts, gone = [*tally.entries, *stay], sorted({*gone, *rejected})
        try:
            version = catalog.commit(upserts, gone, run=run_id) if upserts or gone else catalog.latest()
        except CatalogHeld as error:
            return Publication(catalog.latest(), damaged=tuple(tally.damaged), held=str(error))
    return Publication(
        version, len({e.asset_id for e in tally.entries}), tally.num_files, len(gone), tally.num_made,
        tuple(tally.damaged), tally.failed, tally.refused,
    )  # fmt: skip


@dataclass(slots=True)
class _Tally:
    """What publishing has come to so far."""

    entries: list[CatalogEntry] = field(default_factory=list)
    num_files: int = 0
    num_made: int = 0
    damaged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(
        self,
        plans: Sequence[AssetPlan],
        dispatcher: Dispatcher,
        drafts: Sequence[CatalogEntry],
        histories: Mapping[str, AssetHistory],
    ) -> list[Record]:
        """Has the files of some drafts made, and gives what the records must say of it.

        An asset goes out whole or not at all: where one of its variants cannot, its published ones stay.
        """
        printed = list(dispatcher.print_all(drafts))
        lost = {p.entry.asset_id: p.trouble for p in printed if p.lost}
        failed = {p.entry.asset_id: p.trouble for p in printed if p.trouble and p.entry.asset_id not in lost}
        self.damaged.extend(lost)
        self.failed |= failed
        records: list[Record] = [
            # The choice no longer stands: the next run chooses and upscales again.
            OutcomeRecord(p.asset.id, "transient", p.work_key, p.select_key, p.meta_key, lost[p.asset.id])
            for p in plans
            if p.asset.id in lost
        ]
        for each in printed:
            entry = each.entry
            if entry.asset_id in lost or entry.asset_id in failed:
                continue
            self.entries.append(entry)
            self.num_files += len(entry.renditions)
            self.num_made += each.num_made
            if each.refused:
                reasons = tuple(f"{g.gate}: {g.reason}" for g in each.refused)
                self.refused[entry.asset_id] = self.refused.get(entry.asset_id, ()) + reasons
            records += _gate_records(each.refused, entry, histories[entry.asset_id])
        return records


def _gate_records(refused: Sequence[GateRecord], entry: CatalogEntry, history: AssetHistory) -> list[Record]:
    """A variant and its verdicts of this stage, where they differ from those on record."""
    key = entry.variant_key
    before = {g.gate: g for g in history.gates if g.stage == "rendition" and g.subject == key and not g.passed}
    now = {g.gate: g for g in refused}
    if before == now:
        return []
    passed = [GateRecord(key, name, "rendition", True) for name in before if name not in now]
    return [history.variants[key], *now.values(), *passed]


def _is_rejected(entry: CatalogEntry, reviews: Mapping[str, ReviewState]) -> bool:
    return entry.blob in reviews[entry.asset_id].rejected


def files_by_recipe(catalog: Catalog, asset_ids: Sequence[str]) -> dict[str, Rendition]:
    """The published files of some assets, by their recipes."""
    return {file.recipe: file for e in catalog.entries_of(asset_ids) for file in e.renditions if file.recipe}


def _removed_ids(catalog: Catalog, keys: Collection[str]) -> list[str]:
    wanted = set(keys)
    table = catalog.entries(columns=["asset_id"])
    ids = set(table.column("asset_id").to_pylist())
    return sorted(i for i in ids if asset_key(i) in wanted)
