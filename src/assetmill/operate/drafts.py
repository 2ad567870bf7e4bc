"""Drafts: what the catalog will say of a chosen picture, before its files are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from assetmill.config import Config
from assetmill.deliver.facts import digital_source_of
from assetmill.deliver.fill import alt_texts, values_of
from assetmill.intake.plan import AssetPlan
from assetmill.operate.leaving import variants_to_publish
from assetmill.records import RequestRecord, VariantRecord
from assetmill.storage.bans import Bans
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.index import AssetHistory
from assetmill.storage.reviews import ADOPTED


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


@dataclass(frozen=True, slots=True)
class Drafts:
    """Turns what was chosen of an asset into catalog entries without files.

    What `bans` cover gives none: its files are not even made.
    """

    config: Config
    terms: Terms
    run_id: str
    bans: Bans = field(default_factory=Bans)

    def of(self, plan: AssetPlan, history: AssetHistory | None) -> list[CatalogEntry]:
        """The entries of an asset by rank; none where its choice is not settled for what the plan wants."""
        if history is None:
            return []
        variants = variants_to_publish(plan, history, self.config)
        entries = [self._entry(plan, history, variant, rank) for rank, variant in enumerate(variants, 1)]
        return [entry for entry in entries if not self.bans.reason_of(entry)]

    def _entry(self, plan: AssetPlan, history: AssetHistory, variant: VariantRecord, rank: int) -> CatalogEntry:
        made: RequestRecord = history.requests[variant.request_key]
        request = made.request
        columns = {name: plan.asset.columns.get(name, "") for name in self.config.publish.columns}
        licence, commercial = self.terms.of(request.revision)
        source = digital_source_of(request)
        if (
            request.engine == ADOPTED
        ):  # nobody's model made it: what it is, and what may be done with it, is what its bringer said
            told = dict(request.options)
            licence, commercial, source = str(told.get("licence", "")), None, str(told.get("digital_source", ""))
        approval = next((d for of in plan.pins.values() for d in of if d.blob == variant.blob), None)
        draft = CatalogEntry(
            asset_id=plan.asset.id,
            rank=rank,
            variant_key=variant.key,
            request_key=variant.request_key,
            blob=variant.blob,
            master=variant.master,
            cutout=variant.cutout,
            media_type=variant.master_media_type,
            width=variant.master_width,
            height=variant.master_height,
            score=variant.score,
            judge=self.terms.judge,
            positive=request.positive,
            negative=request.negative,
            rank_text=made.rank_text,
            template=made.template,
            cell=dict(made.cell),
            seed=request.seed,
            engine=request.engine,
            model=request.model,
            revision=request.revision,
            licence=licence,
            commercial=commercial,
            steps=request.steps,
            guidance=request.guidance,
            scheduler=request.scheduler,
            operation=request.operation,
            upscaler=variant.upscaler,
            columns=columns,
            run=self.run_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            request=request.payload(),
            versions=_versions(history, variant.request_key),
            work_key=plan.work_key,
            select_key=plan.select_key,
            meta_key=plan.meta_key,
            reviewer=approval.by if approval else "",
            decision=approval.id if approval else "",
            overrides=plan.review.overrides.as_json(),
            digital_source=source,
        )
        return replace(draft, alt=alt_texts(self.config.publish.alt, values_of(draft)))


def _versions(history: AssetHistory, request_key: str) -> dict[str, str]:
    # The segment that holds the candidate may be damaged (the report says so) while its choice, made later, is whole.
    made = history.candidates.get(request_key)
    return dict(made.versions) if made is not None else {}
