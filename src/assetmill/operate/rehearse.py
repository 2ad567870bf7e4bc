"""Golden rows made again with what would make tonight's pictures, and compared with what was accepted last.

Each picture has its pair: the same text and seed, made before. Scores compare as they were given where the judge is the
same, else the old pictures are scored again by the judge of today. Old pictures are read back in any case: their
embeddings say how near the new ones are. Nothing here is ever a candidate of the catalog.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from assetmill.config import Config, UpscaleConfig
from assetmill.curate.drift import Measure, cosines, hold_against, measure
from assetmill.curate.gates import rejection
from assetmill.curate.select import choose
from assetmill.deliver.picture import MEDIA_TYPES, PictureError, decode, encode
from assetmill.engines.devices import free_memory
from assetmill.engines.protocols import Engines
from assetmill.engines.registry import resolve_upscaler
from assetmill.intake.plan import AssetPlan, requests_of
from assetmill.operate.baselines import Baseline, GoldenRow, Rehearsal, Take, write_rehearsal
from assetmill.operate.chunks import Chunk, OpenChunk
from assetmill.operate.job import Job
from assetmill.operate.loading import load_for
from assetmill.operate.making import Maker, Work
from assetmill.operate.recipes import read_pictures
from assetmill.operate.rehearsal_page import draw_page
from assetmill.operate.settle import Item, extension_of
from assetmill.operate.setups import describe_changes, sections_of, setup_of
from assetmill.operate.stages import Stages
from assetmill.records import Asset, InputError, Problem, asset_key
from assetmill.storage.store import CorruptObject, MissingObject, get_blob, put_blob
from assetmill.storage.ulid import new_ulid

if TYPE_CHECKING:
    import numpy as np

MEASURES = ("score", "yield", "approvals", "similarity")

log = logging.getLogger(__name__)


def rehearse(
    job: Job,
    baseline: Baseline | None,
    *,
    renew: bool = False,
    stages: Stages | None = None,
    engines: Engines | None = None,
    run_id: str = "",
) -> Rehearsal:
    """Makes the golden rows with a job's setup, compares them with a baseline, and writes record and page.

    Rows of the baseline are made as they were then; `renew` takes them from the sheet of today. Loads models unless
    `engines` are given; time goes to the stages `generate`, `gate` and `judge`. Raises InputError without a usable
    row, EngineError, StoreUnavailable.
    """
    began = time.monotonic()
    stages = stages if stages is not None else Stages()
    former = baseline.rehearsal if baseline is not None else None
    rows = golden_rows(job, former if not renew else None)
    stage = _Stage(job, rows, stages)
    log.info("rehearsing %d golden pictures of %d rows", len(stage.items), len(rows))
    stage.make(engines)
    takes = stage.takes()
    setup = setup_of(job)
    found = Rehearsal(
        new_ulid(), job.config.name, baseline.number if baseline is not None else 0, setup, sections_of(job.config),
        tuple(rows), takes, versions=stage.versions, run=run_id,
        at=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    )  # fmt: skip
    if former is not None:
        earlier = stage.read_back(former)
        comparison = Comparison(former, found, stage.embeddings(), earlier, approved_takes(job, former))
        found = replace(
            found, changed=describe_changes(former.setup, setup),
            measures=comparison.measures(job.config), judge_shift=comparison.judge_shift(),
        )  # fmt: skip
        del comparison
    found = replace(found, problems=tuple(stage.problems), seconds=round(time.monotonic() - began, 3))
    del stage
    free_memory()  # for what the night loads now
    found = hold_to_limits(found, job.config)
    page = draw_page(job.store, found, former)
    job.store.put_if_absent(found.page_key, page, media_type="text/html; charset=utf-8")
    write_rehearsal(job.store, found)
    return found


def hold_to_limits(found: Rehearsal, config: Config) -> Rehearsal:
    """A rehearsal held to the limits that the config has today."""
    limits = {str(name): limit for name, limit in config.rehearsal.limits.items()}
    strict = config.rehearsal.strict
    return replace(
        found, measures={n: hold_against(m, limits.get(n), strict=strict) for n, m in found.measures.items()}
    )


# --- golden rows ------------------------------------------------------------------------------------------------


def golden_rows(job: Job, former: Rehearsal | None) -> list[GoldenRow]:
    """The rows to rehearse: those of the baseline that are still wanted as they were, others from the sheet.

    Raises InputError for an id that neither has, or a row that cannot be rendered.
    """
    wanted = job.config.rehearsal
    frozen: dict[str, list[GoldenRow]] = {}
    for row in former.rows if former is not None else ():
        frozen.setdefault(row.asset_id, []).append(row)
    assets = {asset.id: asset for asset in job.wishes.assets}
    ids: list[str]
    if wanted.assets:
        unknown = [i for i in wanted.assets if i not in assets and i not in frozen]
        if unknown:
            raise InputError(
                [
                    Problem(f"rehearsal.assets: no asset {i!r}", "use an id of the sheet", column="rehearsal.assets")
                    for i in unknown
                ]
            )
        ids = list(dict.fromkeys(wanted.assets))
    else:
        # By the hash of the id: rows that come and go elsewhere in the sheet don't change who is drawn.
        drawn = sorted(assets.keys() - frozen.keys(), key=asset_key)
        ids = [*frozen, *drawn][: wanted.sample]
    rows = []
    for asset_id in ids:
        rows += frozen.get(asset_id) or _rows_of(job, assets[asset_id])
    if not rows:
        raise InputError(Problem("there is no golden row to rehearse", "name ids in rehearsal.assets"))
    return rows


def _rows_of(job: Job, asset: Asset) -> list[GoldenRow]:
    """An asset's prompts as golden rows. Variations that a person asked for are not of the template: left out."""
    rows = []
    job.recipes.prepare([asset])
    for prompt in job.render(asset):
        if prompt.engine is None:
            count = prompt.candidates or asset.overrides.candidates or job.config.candidates
            _, seeds = requests_of(asset, prompt, job.recipes.base_of, job.config, range(count))
            rows.append(
                GoldenRow(
                    asset.id, prompt.template, dict(prompt.cell), prompt.positive, prompt.negative, prompt.rank_text,
                    tuple(seeds), asset.overrides,
                )
            )  # fmt: skip
    return rows


def approved_takes(job: Job, former: Rehearsal) -> frozenset[tuple[str, int]]:
    """Slots of earlier takes whose very request gave a picture that a person approved."""
    reviews = {row.asset_id: job.decisions.of(asset_key(row.asset_id)) for row in former.rows}
    approved = {asset_id: set(review.approved) for asset_id, review in reviews.items() if review.approved}
    if not approved:
        return frozenset()
    histories = job.index.history(approved)
    requests = {
        c.request_key for i, h in histories.items() for c in h.candidates.values() if c.blob in approved[i]
    }  # fmt: skip
    return frozenset(take.slot for take in former.takes if take.request_key in requests)


# --- making -----------------------------------------------------------------------------------------------------


class _Stage:
    """The golden rows of one rehearsal on the device."""

    def __init__(self, job: Job, rows: Sequence[GoldenRow], stages: Stages) -> None:
        self.job, self.stages = job, stages
        # Rejected pictures are what is measured here, not a reason to stop; and nothing is upscaled.
        self.config = job.config.model_copy(
            update={
                "gates": job.config.gates.model_copy(update={"max_rejected": 1.0}),
                "upscale": UpscaleConfig(engine="none"),
            }
        )
        self.rows: list[tuple[GoldenRow, list[Item]]] = []
        self.problems: list[str] = []
        self.versions: Mapping[str, str] = {}
        self._blobs: dict[int, str] = {}
        assets = {row.asset_id: row.asset for row in rows}
        job.recipes.prepare(assets.values())
        plans = []
        for row in rows:
            try:
                items = self._items_of(row)
            except InputError as error:
                self.problems += [f"left out: {p}" for p in error.problems]
                continue
            plans.append(items[0].plan)
            self.rows.append((row, items))
        if not self.rows:
            raise InputError(Problem(f"none of the {len(rows)} golden rows can be made: {'; '.join(self.problems)}"))
        job.recipes.keep(plans)

    @property
    def items(self) -> list[Item]:
        return [item for _, items in self.rows for item in items]

    def make(self, engines: Engines | None) -> None:
        """Generates, checks and judges all items, and stores their pictures."""
        if engines is None:
            with self.stages.time("load"):
                engines = self._load()
        base = self.job.base
        batch = self.config.model.batch or engines.generator.fitting_batch(base.width, base.height)
        self._maker = Maker(self.config, engines, self.stages, batch, read_pictures(self.job.store, self.config))
        owner = OpenChunk(Chunk("", ()), {}, [])
        buckets: dict[tuple[Any, ...], list[Item]] = defaultdict(list)
        for item in self.items:
            buckets[item.request.bucket].append(item)
        works = [
            Work([(owner, item) for item in part[start : start + batch]])
            for part in buckets.values()
            for start in range(0, len(part), batch)
        ]
        with ThreadPoolExecutor(self._maker.num_lanes, thread_name_prefix="lane") as lanes:
            for written in lanes.map(self._make, works):
                self._blobs.update(written)
        self.versions = dict(engines.generator.versions())

    def takes(self) -> tuple[Take, ...]:
        """What came out, those marked that would be chosen."""
        chosen = self._choose()
        media_type = MEDIA_TYPES[self.config.run.candidates]
        takes = []
        for row, items in self.rows:
            for item in items:
                made = id(item) in self._blobs
                verdict = rejection(item.verdicts)
                reason = (verdict.gate if verdict is not None else "") if made else _why_missing(item)
                takes.append(
                    Take(
                        row.asset_id, row.key, item.request.seed, item.key, self._blobs.get(id(item), ""),
                        media_type if made else "", item.score, made and item.passed, reason, id(item) in chosen,
                    )
                )  # fmt: skip
        return tuple(takes)

    def embeddings(self) -> dict[tuple[str, int], np.ndarray]:
        """Unit embeddings (D,) of the new pictures by slot."""
        return {
            (row.key, item.request.seed): item.embedding
            for row, items in self.rows
            for item in items
            if item.embedding is not None
        }

    def read_back(self, former: Rehearsal) -> Mapping[tuple[str, int], Item]:
        """Earlier pictures judged by the judge of today, by slot; those that are gone are named among the problems."""
        texts = {row.key: row for row in former.rows}
        found: dict[tuple[str, int], Item] = {}
        takes = [take for take in former.takes if take.blob]
        for start in range(0, len(takes), self._maker.batch):
            part = {take.slot: self._read(take, texts[take.row]) for take in takes[start : start + self._maker.batch]}
            items = {slot: item for slot, item in part.items() if item is not None}
            self._maker.judge_again(list(items.values()))
            for item in items.values():
                item.pixels = None
            found |= items
        return found

    # --- inside -----------------------------------------------------------------------------------------------

    def _items_of(self, row: GoldenRow) -> list[Item]:
        plan = _plan_of(row)
        request, _ = requests_of(plan.asset, row.prompt, self.job.recipes.base_of, self.config, [0])
        self.job.recipes.check(plan.asset, [row.prompt])
        requests = [replace(request, seed=seed) for seed in row.seeds]
        return [Item(plan, row.prompt, n, r, r.key) for n, r in enumerate(requests)]

    def _load(self) -> Engines:
        job, config = self.job, self.config
        names = job.recipes.needed([row.asset for row, _ in self.rows]) or ("",)
        nothing = resolve_upscaler(config.upscale, config.resolve)
        return load_for(config, job.recipes, names, job.judge, nothing, job.safety)

    def _make(self, work: Work) -> dict[int, str]:
        """Makes a batch and stores its pictures; gives their blobs. Only verdicts and embeddings stay in memory."""
        extension = self.config.run.candidates
        written = {}
        for item in self._maker.make(work):
            assert item.pixels is not None
            data = encode(item.pixels, extension)
            start = time.perf_counter()
            written[id(item)] = put_blob(self.job.store, data, extension, MEDIA_TYPES[extension])
            self.stages.add("store", time.perf_counter() - start, 1, len(data))
            item.pixels = None
        return written

    def _read(self, take: Take, row: GoldenRow) -> Item | None:
        # Only text and pixels of it are looked at; its own model may be gone.
        item = Item(_plan_of(row), row.prompt, 0, self.items[0].request, take.request_key, stored=True)
        try:
            item.pixels = decode(get_blob(self.job.store, take.blob, extension_of(take.media_type)))
        except (MissingObject, CorruptObject, PictureError) as error:
            self.problems.append(f"an old picture of {take.asset_id} cannot be read: {error}")
            return None
        return item

    def _choose(self) -> set[int]:
        """Which items a run would choose, by identity."""
        import numpy as np

        groups: dict[Any, list[Item]] = defaultdict(list)
        for row, items in self.rows:
            groups[_group_of(row, self.config)] += [i for i in items if i.passed]
        chosen: set[int] = set()
        select = self.config.select
        for some in groups.values():
            items = list({item.key: item for item in some}.values())
            if items:
                scores = np.array([math.nan if i.score is None else i.score for i in items])
                embeddings = np.stack([i.embedding for i in items if i.embedding is not None])
                found = choose(
                    [i.key for i in items], scores, embeddings,
                    keep=select.keep, near_duplicate=select.near_duplicate, diversity=select.diversity,
                    min_score=select.min_score, bonus=self._bonus(items[0].plan.asset, embeddings),
                )  # fmt: skip
                chosen.update(id(items[place]) for place in found.chosen)
        return chosen

    def _bonus(self, asset: Asset, embeddings: np.ndarray) -> np.ndarray | None:
        """What the promoted ranker adds to scores, float (N,); its group is that of the row in the sheet of today."""
        ranker = self.job.ranker
        if ranker is None:
            return None
        today = {a.id: a for a in self.job.wishes.assets}.get(asset.id, asset)
        return ranker.bonus(1.0) * ranker.values(today, embeddings)


def _plan_of(row: GoldenRow) -> AssetPlan:
    count = len(row.seeds)
    return AssetPlan(row.asset, "new", "rehearsal", (row.prompt,), count, count, "", "", "")


def _group_of(row: GoldenRow, config: Config) -> Any:
    """Among whose pictures a row's are chosen."""
    cell = (row.template, tuple(sorted(row.cell.items()))) if config.select.per == "cell" else ()
    return row.asset_id, cell


def _why_missing(item: Item) -> str:
    return item.failures[-1].reason if item.failures else "not made"


# --- comparing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """An earlier and a new rehearsal side by side.

    `embeddings` are those of the new pictures by slot, `earlier` the old pictures as the judge of today sees them,
    `approved` the slots of old pictures that people approved.
    """

    old: Rehearsal
    new: Rehearsal
    embeddings: Mapping[tuple[str, int], np.ndarray]
    earlier: Mapping[tuple[str, int], Item]
    approved: frozenset[tuple[str, int]] = field(default_factory=frozenset)

    def measures(self, config: Config) -> dict[str, Measure]:
        """The drift of what could be compared, by name (see MEASURES)."""
        pairs = {
            "score": self._by_asset((o, self._score_pair(o, n)) for o, n in self._pairs()),
            "yield": self._by_asset((o, (float(o.passed), float(n.passed))) for o, n in self._pairs()),
            "approvals": self._by_asset(self._approvals(config.rehearsal.near, config)),
            "similarity": self._by_asset((o, self._nearness(o, n)) for o, n in self._pairs()),
        }
        found = {name: measure(name, pairs[name], seed=config.seed) for name in MEASURES}
        return {name: one for name, one in found.items() if one is not None}

    def judge_shift(self) -> float | None:
        """By how much the same judge scores the old pictures higher than it did: 0 unless something beneath changed."""
        if not self._same_judge:
            return None
        shifts = [
            item.score - take.score
            for take in self.old.takes
            if (item := self.earlier.get(take.slot)) and item.score is not None and take.score is not None
        ]
        return sum(shifts) / len(shifts) if shifts else None

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _same_judge(self) -> bool:
        return bool(self.old.setup["judge"] == self.new.setup["judge"])

    def _pairs(self) -> Iterable[tuple[Take, Take]]:
        by_slot = {take.slot: take for take in self.new.takes}
        return ((take, by_slot[take.slot]) for take in self.old.takes if take.slot in by_slot)

    def _by_asset(
        self, pairs: Iterable[tuple[Take, tuple[float, float] | None]]
    ) -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for take, pair in pairs:
            if pair is not None:
                found.setdefault(take.asset_id, []).append(pair)
        return found

    def _score_pair(self, old: Take, new: Take) -> tuple[float, float] | None:
        before = old.score
        if not self._same_judge:
            item = self.earlier.get(old.slot)
            before = item.score if item is not None else None
        return (before, new.score) if before is not None and new.score is not None else None

    def _cosine(self, old: tuple[str, int], new: tuple[str, int]) -> float | None:
        item = self.earlier.get(old)
        if item is None or item.embedding is None or new not in self.embeddings:
            return None
        value = float(cosines(item.embedding[None], self.embeddings[new][None])[0])
        return None if math.isnan(value) else value

    def _nearness(self, old: Take, new: Take) -> tuple[float, float] | None:
        value = self._cosine(old.slot, new.slot)
        return (1.0, value) if value is not None else None

    def _approvals(self, near: float, config: Config) -> Iterable[tuple[Take, tuple[float, float]]]:
        """Old pictures that were approved, or chosen where nobody approved any: whether one that is near is chosen."""
        groups = {row.key: _group_of(row, config) for row in (*self.old.rows, *self.new.rows)}
        chosen: dict[Any, list[Take]] = defaultdict(list)
        for take in self.new.takes:
            if take.chosen:
                chosen[groups[take.row]].append(take)
        made = {take.row for take in self.new.takes}
        decided = {groups[row] for row, _ in self.approved}
        for take in self.old.takes:
            group = groups[take.row]
            stands = take.slot in self.approved if group in decided else take.chosen
            if stands and take.row in made and take.slot in self.earlier:
                values = (self._cosine(take.slot, other.slot) for other in chosen[group])
                kept = any(value is not None and value >= near - 1e-6 for value in values)
                yield take, (1.0, float(kept))
