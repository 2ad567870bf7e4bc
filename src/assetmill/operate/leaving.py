"""Which pictures may leave: what people approved, what ranks well where the policy lets it, never what was rejected."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from assetmill.config import Config
from assetmill.intake.pins import free_prompts, pinned_blobs, place_of, settled_place
from assetmill.intake.plan import AssetPlan
from assetmill.operate.settle import why_held
from assetmill.records import VariantRecord
from assetmill.storage.catalog import Catalog, CatalogEntry
from assetmill.storage.index import AssetHistory
from assetmill.storage.reviews import Place, ReviewState


def variants_to_publish(plan: AssetPlan, history: AssetHistory, config: Config) -> list[VariantRecord]:
    """An asset's variants in order; none where its choice is not settled for what the plan wants.

    Approved pictures leave as soon as they are upscaled, whichever run did that. Beside them, pictures of other places
    leave where they were chosen for what the plan wants and the policy lets them.
    """
    outcome = history.outcome
    if outcome is None:
        return []
    told = (outcome.work_key, outcome.select_key)
    stands = outcome.status == "chosen" and told == (plan.work_key, plan.select_key)
    chosen = [history.variants[key] for key in outcome.chosen]
    if not plan.pins:
        return chosen if stands else []
    pinned = [v for v in chosen if v.blob in pinned_blobs(plan.pins)] if stands else _made_before(plan, history)
    free = bool(free_prompts(plan.prompts, plan.pins))
    if not pinned or (free and not stands and told != plan.free_keys):
        return []
    ranked = [v for v in chosen if None not in plan.pins and _place(v, history, config) not in plan.pins]
    if why_held([v.score for v in ranked], config):
        ranked = []
    order = {place: number for number, place in enumerate(dict.fromkeys(map(place_of, plan.prompts)))}
    if config.select.per == "asset":
        return pinned
    return sorted(pinned + ranked, key=lambda v: order.get(_place(v, history, config), len(order)))


def without_rejected(
    catalog: Catalog, reviews: Mapping[str, ReviewState], replaced: Collection[str]
) -> tuple[list[CatalogEntry], list[str]]:
    """What to commit so that no rejected picture stays published.

    Gives the entries that stay of assets with a rejected one, and the ids of assets of which nothing stays. Those in
    `replaced` get new entries anyway.
    """
    rejected = {i: r.rejected for i, r in reviews.items() if r.rejected and i not in replaced}
    if not rejected or not catalog.latest():
        return [], []
    table = catalog.entries(columns=["asset_id", "blob"])
    pairs = zip(table["asset_id"].to_pylist(), table["blob"].to_pylist(), strict=True)
    hit = {asset_id for asset_id, blob in pairs if blob in rejected.get(asset_id, ())}
    stay = [e for e in (catalog.entries_of(hit) if hit else []) if e.blob not in rejected[e.asset_id]]
    return stay, sorted(hit - {e.asset_id for e in stay})


def _made_before(plan: AssetPlan, history: AssetHistory) -> list[VariantRecord]:
    """The upscaled approved pictures in order; none unless all are there."""
    by_blob: dict[str, VariantRecord] = {}
    assert history.outcome is not None
    for variant in history.variants.values():
        if variant.blob not in by_blob or variant.key in history.outcome.chosen:
            by_blob[variant.blob] = variant
    blobs = pinned_blobs(plan.pins)
    return [by_blob[blob] for blob in blobs] if all(blob in by_blob for blob in blobs) else []


def _place(variant: VariantRecord, history: AssetHistory, config: Config) -> Place:
    made = history.requests[variant.request_key]
    return settled_place(Place(made.template, tuple(sorted(made.cell.items()))), config)
