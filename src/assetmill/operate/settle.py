"""The end of a chunk on the device: choose among an asset's candidates, upscale the chosen, check what came out.

Where channels want it, the chosen are taken off their ground as well. A master or a cut-out that fails its gate
promotes the next-ranked candidate. Masters and cut-outs that an earlier run made are used again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assetmill.config import Config
from assetmill.curate.gates import check_candidates, rejection
from assetmill.curate.seam import check_seam
from assetmill.deliver.picture import PictureError, decode
from assetmill.engines.enlarge import enlarge, text_of, tileable_axes
from assetmill.engines.protocols import Upscaler
from assetmill.intake.pins import variant_key
from assetmill.operate.choosing import Choice, Group, Item, choose_all, taste
from assetmill.operate.cutouts import Cutter, is_clean
from assetmill.operate.families import Family, Standing
from assetmill.operate.products import HELD_GATE, keeps_product, lock_master
from assetmill.operate.stages import Stages
from assetmill.operate.taste import HouseRanker
from assetmill.records import (
    GateRecord,
    OutcomeRecord,
    Record,
    Request,
    VariantRecord,
)
from assetmill.storage.index import AssetHistory
from assetmill.storage.layout import blob_path
from assetmill.storage.reviews import ADOPTED, AS_IS
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, set_aside

if TYPE_CHECKING:
    import numpy as np

References = Callable[[Sequence[Request]], Mapping[str, "np.ndarray"]]

_UPSCALE_BATCH = 16

BAD_MASTER, BAD_CUTOUT = "bad when upscaled", "bad cut-out"
"""Why a chosen candidate gave its place to the next, in the words of reports."""


@dataclass(slots=True)
class Settled:
    """What a chunk chose. `masters` and `cutouts` map request keys to pixels that are still to be stored."""

    choices: list[Choice]
    masters: dict[str, np.ndarray]
    reused: dict[str, VariantRecord]
    gates: list[GateRecord]
    upscaler_key: str
    config: Config
    media_type: str
    cutouts: dict[str, np.ndarray] = field(default_factory=dict)
    cutter_key: str = ""

    @property
    def num_upscaled(self) -> int:
        return len(self.masters)

    @property
    def num_chosen(self) -> int:
        return sum(len(c.chosen) for c in self.choices)

    def outcomes(self) -> dict[str, str]:
        """The status of each asset."""
        return {record.asset_id: record.status for record in self._outcome_records({})}

    def records(self, written: Mapping[str, str], cut: Mapping[str, str] = MappingProxyType({})) -> list[Record]:
        """Variants and outcomes, given the blobs of the stored masters and cut-outs by request key."""
        # By asset too: two assets may share a request, and each needs the variant under its own name.
        variants: dict[tuple[str, str], VariantRecord] = {}
        for choice in self.choices:
            for rank, item in enumerate(choice.chosen, 1):
                variants[item.plan.asset.id, item.key] = self._variant(item, rank, written, cut)
        return [*self.gates, *variants.values(), *self._outcome_records(variants)]

    def _variant(self, item: Item, rank: int, written: Mapping[str, str], cut: Mapping[str, str]) -> VariantRecord:
        assert item.blob is not None
        blob = item.blob.result()
        key = variant_key(blob, self.upscaler_key)
        old = self.reused.get(item.key)
        if old is not None:
            master, height, width = old.master, old.master_height, old.master_width
        else:
            master = written[item.key]
            height, width = self.masters[item.key].shape[:2]
        cutout, cutter = "", ""
        if item.key in self.cutouts:
            cutout, cutter = cut[item.key], self.cutter_key
        elif old is not None and self.cutter_key in ("", old.cutter):
            cutout, cutter = old.cutout, old.cutter
        return VariantRecord(
            key, item.plan.asset.id, item.key, blob, rank, item.score, master, self.media_type, width, height,
            "none" if _stays_as_it_is(item) else self.upscaler_key, cutout, cutter,
        )  # fmt: skip

    def _outcome_records(self, variants: Mapping[tuple[str, str], VariantRecord]) -> list[OutcomeRecord]:
        by_asset: dict[str, list[Choice]] = {}
        for choice in self.choices:
            by_asset.setdefault(choice.group.plan.asset.id, []).append(choice)
        return [self._outcome(asset_id, choices, variants) for asset_id, choices in by_asset.items()]

    def _outcome(
        self, asset_id: str, choices: Sequence[Choice], variants: Mapping[tuple[str, str], VariantRecord]
    ) -> OutcomeRecord:
        plan = choices[0].group.plan
        items = [i for c in choices for i in c.group.items]
        chosen = [i for c in choices for i in c.chosen]
        ranked = [i for i in chosen if not i.pinned]
        refused = {key: why for c in choices for key, why in c.refused.items()}
        # Approved pictures leave whatever the others wait for; publishing leaves those behind.
        status, reason = _status(items, ranked, refused, self.config) if ranked or not chosen else ("chosen", "")
        if len(ranked) < len(chosen) and status == "pending_review":
            status, reason = "chosen", f"others: {reason}"
        empty = [c.group.cell for c in choices if not c.chosen]
        if chosen and empty:
            reason = f"nothing passed for {empty}" + (f"; {reason}" if reason else "")
        keys = tuple(variants[asset_id, i.key].key for i in chosen) if variants else ()
        return OutcomeRecord(asset_id, status, plan.work_key, plan.select_key, plan.meta_key, reason, len(items), keys)


def extension_of(media_type: str) -> str:
    """`image/png` as `png`."""
    return media_type.rsplit("/", 1)[-1]


def settle(
    groups: Sequence[Group],
    histories: Mapping[str, AssetHistory],
    upscaler: Upscaler,
    config: Config,
    stages: Stages,
    store: Store,
    *,
    media_type: str,
    banned_blobs: Collection[str] = (),
    references: References | None = None,
    cutter: Cutter | None = None,
    ranker: HouseRanker | None = None,
    standing: Mapping[Family, Sequence[Standing]] = MappingProxyType({}),
) -> Settled:
    """Chooses and upscales for all groups of a chunk, and cuts out where there is a cutter.

    `references` gives the images that kept products come from; `ranker` is what was promoted, `standing`
    what stands of families.
    """
    settled = Settled([Choice(g) for g in groups if not g.plan.is_trial], {}, {}, [], upscaler.key, config, media_type)
    settled.cutter_key = cutter.key if cutter is not None else ""
    waiting = list(settled.choices)
    if ranker is not None:
        with stages.time("select"):
            taste(groups, ranker)
    while waiting:
        with stages.time("select", len(waiting)):
            choose_all(waiting, settled.choices, config, banned_blobs=banned_blobs, ranker=ranker, standing=standing)
        new: list[Item] = []
        uncut: dict[str, np.ndarray] = {}
        for choice in waiting:
            for item in choice.chosen:
                if item.key in settled.masters or item.key in settled.reused:
                    continue
                old = _earlier_master(item, histories.get(item.plan.asset.id), upscaler.key, store, media_type)
                if old is not None and cutter is not None and not _has_cutout(old, cutter, store):
                    large = _read_master(old, store)
                    old = old if large is not None else None
                    if large is not None:
                        uncut[item.key] = large
                if old is not None:
                    settled.reused[item.key] = old
                else:
                    new.append(item)
        refused = dict.fromkeys(_upscale(new, upscaler, config, stages, settled, references), BAD_MASTER)
        if cutter is not None:
            uncut.update((i.key, settled.masters[i.key]) for i in new if i.key not in refused)
            refused.update(dict.fromkeys(_cut(uncut, cutter, stages, settled), BAD_CUTOUT))
        waiting = []
        for choice in settled.choices:
            # What a person approved stays without a cut-out: its other files leave, and publishing says which don't.
            mine = {
                i.key: refused[i.key]
                for i in choice.chosen
                if i.key in refused and not (i.pinned and refused[i.key] == BAD_CUTOUT)
            }
            if mine:
                choice.refused |= mine
                waiting.append(choice)
    kept = {i.key for c in settled.choices for i in c.chosen}
    settled.masters = {key: pixels for key, pixels in settled.masters.items() if key in kept}
    settled.cutouts = {key: pixels for key, pixels in settled.cutouts.items() if key in kept}
    return settled


def _earlier_master(
    item: Item, history: AssetHistory | None, upscaler: str, store: Store, media_type: str
) -> VariantRecord | None:
    """The variant an earlier run made of this picture in this way and format, if its master is still there."""
    if history is None or not history.variants or item.blob is None:
        return None
    record = history.variants.get(variant_key(item.blob.result(), upscaler))
    if record is None or record.master_media_type != media_type:
        return None
    if store.stat(blob_path(record.master, extension_of(media_type))) is None:
        return None
    return record


def _has_cutout(record: VariantRecord, cutter: Cutter, store: Store) -> bool:
    """Whether an earlier variant has its cut-out, made in the same way."""
    if record.cutter != cutter.key or not record.cutout:
        return False
    return store.stat(blob_path(record.cutout, extension_of(record.master_media_type))) is not None


def _read_master(record: VariantRecord, store: Store) -> np.ndarray | None:
    """An earlier master, uint8 (H, W, 4); None where it is damaged, and set aside, so that it is made again."""
    extension = extension_of(record.master_media_type)
    try:
        return decode(get_blob(store, record.master, extension), alpha=True, name=record.master)
    except (MissingObject, CorruptObject, PictureError):
        set_aside(store, blob_path(record.master, extension))
        return None


def _cut(pictures: Mapping[str, np.ndarray], cutter: Cutter, stages: Stages, settled: Settled) -> set[str]:
    """Takes masters (by request key) off their ground; gives the keys of those whose cut-out fails its gates."""
    refused: set[str] = set()
    for key, pixels in pictures.items():
        with stages.time("cut out", 1):
            cutout, verdicts = cutter.cut(pixels)
        # Those passed too: they replace what an earlier segment said with other thresholds.
        settled.gates.extend(GateRecord(key, v.gate, "variant", v.passed, v.reason, v.value) for v in verdicts)
        if is_clean(verdicts):
            settled.cutouts[key] = cutout
        else:
            refused.add(key)
    return refused


def _upscale(
    items: Sequence[Item],
    upscaler: Upscaler,
    config: Config,
    stages: Stages,
    settled: Settled,
    references: References | None,
) -> set[str]:
    """Upscales pictures in batches of one shape, each with its prompt; gives the keys of masters that fail their gate.

    Transparency goes along, and pictures that were made to tile go on tiling.
    """
    import numpy as np

    refused: set[str] = set()
    shapes: dict[Any, list[Item]] = {}
    for item in items:
        assert item.pixels is not None
        if _stays_as_it_is(item):
            settled.masters[item.key] = item.pixels  # its candidate gates are those of a master of its size
            continue
        shapes.setdefault((*item.pixels.shape[:2], tileable_axes(item.request), item.pixels.shape[2]), []).append(item)
    for (height, width, axes, _), members in shapes.items():
        for start in range(0, len(members), _UPSCALE_BATCH):
            part = members[start : start + _UPSCALE_BATCH]
            with stages.time("upscale", len(part)):
                pictures = np.stack([i.pixels for i in part if i.pixels is not None])
                large = enlarge(upscaler, pictures, [text_of(i.request) for i in part], tileable=axes)
            sound = np.ones(len(part), bool)
            expected = (width * upscaler.scale, height * upscaler.scale)
            for item, pixels, verdicts in zip(
                part, large, check_candidates(large, sound, expected, config.gates, stage="variant"), strict=True
            ):
                if references is not None and keeps_product(item.request):
                    pixels, held = lock_master(pixels, item.request, references([item.request]), config.gates)
                    verdicts.append(held)
                if axes:
                    verdicts.append(check_seam(pixels, axes, config.gates.seam))
                bad = any(not v.passed for v in verdicts)
                settled.gates.extend(
                    GateRecord(item.key, v.gate, "variant", v.passed, v.reason, v.value)
                    for v in verdicts
                    if not v.passed or v.gate == HELD_GATE
                )
                if bad:
                    refused.add(item.key)
                else:
                    settled.masters[item.key] = pixels
    return refused


def _stays_as_it_is(item: Item) -> bool:
    """Whether a picture was brought in from outside, and is large enough."""
    return item.request.engine == ADOPTED and dict(item.request.options).get(AS_IS) is True


def why_held(scores: Sequence[float | None], config: Config) -> str:
    """Why pictures that were chosen by rank wait for a person, or an empty text."""
    publish = config.publish
    if publish.policy == "approved":
        return "waits for approval"
    best = max((score for score in scores if score is not None), default=None)
    if publish.min_score is not None and (best is None or best < publish.min_score):
        shown = "none" if best is None else f"{best:.3f}"
        return f"best score {shown} is below publish.min_score {publish.min_score:g}"
    return ""


def _status(
    items: Sequence[Item], chosen: Sequence[Item], refused: Mapping[str, str], config: Config
) -> tuple[str, str]:
    """What became of an asset, and why."""
    if chosen:
        held = why_held([i.score for i in chosen], config)
        return ("pending_review", held) if held else ("chosen", "")
    if not items:
        return "failed", "the approved picture is not in the records; approve another one, or reopen the asset"
    failures = [i.failures[-1] for i in items if i.pixels is None and i.failures]
    if any(f.kind == "transient" for f in failures):
        return "transient", failures[0].reason
    if failures and len(failures) == len(items):
        return "failed", failures[0].reason
    reasons = Counter(_why_not(i, refused) for i in items if i.pixels is not None or i.barred)
    text = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
    return "exhausted", f"none of {len(items)} candidates passed: {text}"


def _why_not(item: Item, refused: Mapping[str, str]) -> str:
    """Why a candidate with a picture was not chosen, in a word or two."""
    if item.barred:
        return item.barred
    verdict = rejection(item.verdicts)
    if verdict is not None:
        return verdict.gate
    if item.key in refused:
        return refused[item.key]
    return "without a score" if item.score is None else "below select.min_score"
