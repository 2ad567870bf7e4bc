"""What is left to do: the sheet, compared with what the store holds and what the catalog shows.

A plan is made without loading a model and without listing images. It streams over the assets: 100,000 rows with
8 candidates each are planned in well under a minute.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from assetmill.config import Config
from assetmill.intake.families import family_name, join_families
from assetmill.intake.pins import Pins, are_made, free_prompts, pinned_blobs, pinned_key, pins_of, place_of, say_pinned
from assetmill.records import (
    STATES,
    Asset,
    InputError,
    OutcomeRecord,
    Problem,
    Prompt,
    Request,
    content_key,
    derive_seeds,
    fold_id,
    request_keys,
)
from assetmill.storage.bans import Bans
from assetmill.storage.reviews import NOTHING, ReviewState

TRIAL = "trial"
"""The state of an asset's part in an experiment: its pictures are made, checked and scored, and none is chosen."""

_DONE = (1, 2, 3, 5)
"""Status codes of the index that need no further try: passed, rejected, poison, cut mid-way. Transient is 4."""
_POISON = 3
_CUT = 5


Base = Request | Callable[[Asset], Request]
"""The request that pictures start from, with texts, seed and size left to fill in: one for all, or one per asset."""


class UnmetWish(InputError):
    """A row is sound, but what people asked for beyond it cannot be made: the asset waits, the others don't."""


class Statuses(Protocol):
    def get(self, key: bytes, default: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class AssetPlan:
    """One asset's part of a plan. `missing` counts candidates to generate; without work `prompts` is empty.

    `known` says that the store holds something of it. `review` is what people decided, `pins` those of its approvals
    that hold; `free_keys` are then work key and select key as they are without them. `family` is what it is chosen
    with, `kin` are the ids of those in it whose pictures were chosen before and stand.
    """

    asset: Asset
    state: str
    reason: str
    prompts: tuple[Prompt, ...]
    num_candidates: int
    missing: int
    work_key: str
    select_key: str
    meta_key: str
    to_choose: bool = False
    known: bool = False
    review: ReviewState = NOTHING
    pins: Pins = field(default_factory=dict)
    free_keys: tuple[str, str] = ("", "")
    family: str = ""
    kin: tuple[str, ...] = ()

    def num_of(self, prompt: Prompt) -> int:
        """How many candidates a prompt gets."""
        return self.num_candidates if prompt.candidates is None else prompt.candidates

    @property
    def todo(self) -> bool:
        """True where a chunk has work: images to make, or only a choice to make again."""
        return self.to_choose

    @property
    def is_trial(self) -> bool:
        """True for what only an experiment wants of an asset (see `Plan.trials`)."""
        return self.state == TRIAL


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What a plan depends on beside the assets.

    `base` is a request whose texts, seed and size are filled in per prompt. `select_context` names judges, gates,
    upscaler and settings of the choice; `meta_context` all that is published beside columns (licence, names). Bans may
    name what stands in `licences` (of models, by revision) and `upscaler` (its key). `reviews` are what people decided,
    by the ids of the assets they decided about. `families` are the ids of the whole sheet's assets by their family.
    """

    config: Config
    base: Base
    select_context: str
    meta_context: str
    statuses: Statuses
    outcomes: Mapping[str, OutcomeRecord]
    published: Mapping[str, tuple[str, str, str]]
    bans: Bans = field(default_factory=Bans)
    licences: Mapping[str, str] = field(default_factory=dict)
    upscaler: str = ""
    force: bool = False
    reviews: Mapping[str, ReviewState] = field(default_factory=dict)
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """All asset plans in order of priority, then of the sheet; keys of removed assets; rows that cannot be used.

    `trials` are what an experiment still lacks, each asset of each arm as a plan of its own; they change no state.
    """

    assets: tuple[AssetPlan, ...]
    removed: tuple[str, ...]
    bad_rows: tuple[Problem, ...]
    num_published: int
    pins: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[AssetPlan, ...] = ()

    def counts(self) -> dict[str, int]:
        found = Counter(a.state for a in self.assets)
        found["removed"] = len(self.removed)
        return {state: found.get(state, 0) for state in STATES}

    @property
    def todo(self) -> tuple[AssetPlan, ...]:
        return tuple(a for a in self.assets if a.todo)

    @property
    def work(self) -> tuple[AssetPlan, ...]:
        """All that is for the device, an experiment's share last."""
        return (*self.todo, *self.trials)

    @property
    def to_publish(self) -> tuple[AssetPlan, ...]:
        return tuple(a for a in self.assets if a.state in ("new", "changed", "metadata_only"))


def requests_of(
    asset: Asset, prompt: Prompt, base: Base, config: Config, indices: Sequence[int]
) -> tuple[Request, list[int]]:
    """The request of a prompt (with the first index's seed) and the seeds of all `indices`.

    A sheet's seed column counts up from its value, as people expect of a fixed seed; else seeds are derived. The
    negative prompt is the row's, else the template's, else that of `base`.
    """
    if prompt.engine is not None:
        asset = replace(asset, overrides=replace(asset.overrides, engine=prompt.engine))
    own = asset.overrides
    base = base if isinstance(base, Request) else base(asset)
    if own.seed is not None:
        seeds = [(own.seed + i) % 2**32 for i in indices]
    else:
        seeds = derive_seeds(config.seed, asset.id, prompt.cell, indices)
    negative = own.negative if own.negative is not None else prompt.negative or base.negative
    request = replace(
        base,
        positive=prompt.positive,
        negative=negative,
        seed=seeds[0] if seeds else 0,
        width=own.width or base.width,
        height=own.height or base.height,
    )
    return request, seeds


def extra_budget(config: Config, num_candidates: int) -> int:
    """How many extra seeds a prompt may use when gates reject too many."""
    return math.ceil(num_candidates * config.gates.regenerate)


def make_plan(
    assets: Iterable[Asset],
    render: Callable[[Asset], list[Prompt]],
    context: PlanContext,
    *,
    bad_rows: Sequence[Problem] = (),
    num_rows: int | None = None,
    skipped_ids: Collection[str] = (),
    published_ids: Callable[[], Mapping[str, str]] = dict,
    subset: bool = False,
    pins: Mapping[str, Any] | None = None,
) -> Plan:
    """Compares assets with the store. Assets that cannot be rendered become bad rows.

    A `subset` (`--only`, `--limit`) removes nothing, nor is an asset removed whose row is bad: `skipped_ids` are the
    folded ids that bad rows may belong to, `published_ids` gives the ids of published assets by key.

    Raises InputError when more than `max_bad_rows` of the rows are bad, or when more of the catalog would be retired
    or changed than the config allows (unless forced).
    """
    plans: list[AssetPlan] = []
    bad = list(bad_rows)
    num_bad = len({p.row for p in bad})
    seen: set[str] = set()
    for asset in assets:
        key = asset.key
        seen.add(key)
        try:
            prompts = render(asset)
        except UnmetWish as error:
            plans.append(AssetPlan(asset, "failed", str(error), (), 0, 0, "", "", "", known=True))
            continue
        except InputError as error:
            bad.extend(error.problems)
            num_bad += 1
            continue
        plans.append(_plan_asset(key, asset, prompts, context))
    rows = max(num_rows if num_rows is not None else len(plans) + num_bad, 1)
    if num_bad > context.config.sheet.max_bad_rows * rows:
        raise InputError(bad)
    removed = () if subset else tuple(sorted(set(context.published) - seen))
    if removed and skipped_ids:
        ids = published_ids()
        removed = tuple(key for key in removed if fold_id(ids.get(key, "")) not in skipped_ids)
    plans.sort(key=lambda p: -p.asset.overrides.priority)
    if context.families:
        plans = join_families(plans, context.families, context.outcomes, config=context.config)
    plan = Plan(tuple(plans), removed, tuple(bad), len(context.published), dict(pins or {}))
    _refuse_large_losses(plan, context)
    return plan


def _plan_asset(key: str, asset: Asset, prompts: Sequence[Prompt], context: PlanContext) -> AssetPlan:
    config = context.config
    banned = ""
    if context.bans:
        prompts, banned = leave_out_banned(asset, prompts, context)
    review = context.reviews.get(asset.id, NOTHING)
    pins = pins_of(review, config, context.bans)
    free = free_prompts(prompts, pins)
    work_key, missing, known = look_up(key, asset, free, context)
    select_key = _select_key(asset, free, review, context)
    free_keys = ("", "")
    meta: dict[str, Any] = {"context": context.meta_context, "id": asset.id}
    if pins:
        free_keys = look_up(key, asset, prompts, context)[0], _select_key(asset, prompts, review, context)
        work_key = pinned_key(pins, work_key if free else "")
        select_key = select_key if free else content_key("select", {"pinned": True})
        meta["approved"] = sorted(d.id for of in pins.values() for d in of)
    meta["columns"] = {name: asset.columns.get(name, "") for name in config.publish.columns}
    keys = (work_key, select_key, content_key("meta", meta))
    state, reason, to_choose = "banned", banned, False
    if not banned:
        state, reason, to_choose = _state(key, keys, free_keys if free else None, review, pins, context)
    return AssetPlan(
        asset,
        state,
        reason,
        tuple(prompts) if state in ("new", "changed", "metadata_only") else (),
        asset.overrides.candidates or config.candidates,
        missing if to_choose else 0,
        *keys,
        to_choose,
        known or bool(pins),
        review,
        pins,
        free_keys,
        family_name(asset, config),
    )


def look_up(key: str, asset: Asset, prompts: Sequence[Prompt], context: PlanContext) -> tuple[str, int, bool]:
    """The work key of some prompts, how many of their candidates are missing, and whether any was heard of before."""
    count = asset.overrides.candidates or context.config.candidates
    # Forced, what the engine refused is tried again.
    again = {_POISON} if context.force else set()
    if not context.config.cut.at:
        again.add(_CUT)  # dropped by a night that cut candidates mid-way; now they are wanted after all
    done = tuple(s for s in _DONE if s not in again)
    work = hashlib.sha256()
    missing = 0
    known = key in context.outcomes
    for prompt in prompts:
        wanted = range(count if prompt.candidates is None else prompt.candidates)
        request, seeds = requests_of(asset, prompt, context.base, context.config, wanted)
        for name in request_keys(request, seeds):
            raw = bytes.fromhex(name)
            work.update(raw)
            status = context.statuses.get(raw, 0)
            missing += status not in done
            known = known or status != 0
    return work.hexdigest(), missing, known


def _select_key(asset: Asset, prompts: Sequence[Prompt], review: ReviewState, context: PlanContext) -> str:
    deciding: dict[str, Any] = {"context": context.select_context, "texts": [p.rank_text for p in prompts]}
    # The choice is made again when a picture is taken back or rejected, and when that is lifted or undone.
    if blobs := context.bans.blobs_of(asset.id):
        deciding["banned"] = blobs
    if review.rejected:
        deciding["rejected"] = sorted(review.rejected)
    if family := family_name(asset, context.config):
        deciding["family"] = family
    return content_key("select", deciding)


def leave_out_banned(asset: Asset, prompts: Sequence[Prompt], context: PlanContext) -> tuple[Sequence[Prompt], str]:
    """The prompts of an asset that may be made, and why none may (empty where some may).

    A ban on a template takes its prompts away; one on the asset, or on what all of its pictures are made with, takes
    the asset.
    """
    base = context.base if isinstance(context.base, Request) else context.base(asset)
    reason = context.bans.reason(
        asset_id=asset.id, request=base, licence=context.licences.get(base.revision, ""), upscaler=context.upscaler
    )
    allowed = [p for p in prompts if not context.bans.reason(template=p.template)]
    if not reason and prompts and not allowed:
        reason = context.bans.reason(template=prompts[0].template)
    return allowed, reason and f"{reason}; `assetmill catalog lift` ends it"


def _state(
    key: str,
    keys: tuple[str, str, str],
    free_keys: tuple[str, str] | None,
    review: ReviewState,
    pins: Pins,
    context: PlanContext,
) -> tuple[str, str, bool]:
    """The state of an asset, its reason, and whether its variants must be chosen (again).

    `free_keys` are work and select key without its pins; None where nothing else is chosen.
    """
    published = context.published.get(key)
    outcome = context.outcomes.get(key)
    told = (outcome.work_key, outcome.select_key) if outcome is not None else None
    if published is not None and published[:2] == keys[:2]:
        if published[2] == keys[2]:
            return "unchanged", say_pinned(pins) if pins else "", False
        if outcome is None or outcome.status != "transient":
            return "metadata_only", "published columns or names changed", False
        return "changed", outcome.reason, True  # publishing found its picture gone
    if are_made(pins, outcome, context.upscaler) and (free_keys is None or told in (keys[:2], free_keys)):
        return ("changed" if published else "new"), "approved, not yet published", False
    if outcome is not None and told == keys[:2]:
        if outcome.status == "pending_review":
            return "pending_review", outcome.reason, False
        if outcome.status in ("exhausted", "failed") and not context.force:
            return outcome.status, outcome.reason, False
        if outcome.status == "chosen":
            return ("changed" if published else "new"), "chosen, not yet published", False
    reason = ""
    if pins:
        reason = "approved, to be upscaled"
    elif review.rejected and told is not None and told[0] == keys[0]:
        reason = f"a person rejected {len(review.rejected)} of its pictures"
    elif published is not None:
        reason = "prompt, settings or model changed" if published[0] != keys[0] else "choice changed"
    return ("changed" if published else "new"), reason, True


def _refuse_large_losses(plan: Plan, context: PlanContext) -> None:
    if context.force or not plan.num_published:
        return
    config = context.config
    problems = []
    if config.publish.removed == "retire" and len(plan.removed) > config.publish.max_removed * plan.num_published:
        problems.append(
            Problem(
                f"{len(plan.removed)} of {plan.num_published} published assets are no longer in the sheet, more than "
                f"publish.max_removed ({config.publish.max_removed:.0%}) allows",
                "check that the sheet is whole; then use --force, or raise publish.max_removed",
                file=str(config.sheet.path),
            )
        )
    changed = sum(a.state == "changed" for a in plan.assets)
    if changed > config.publish.max_changed * plan.num_published:
        problems.append(
            Problem(
                f"{changed} of {plan.num_published} published assets would change, more than publish.max_changed "
                f"({config.publish.max_changed:.0%}) allows",
                "check the template and model; then use --force, or raise publish.max_changed",
            )
        )
    if problems:
        raise InputError(problems)


def make_chunks(plans: Iterable[AssetPlan], num_candidates: int) -> Iterator[tuple[AssetPlan, ...]]:
    """Whole assets in chunks of about `num_candidates` images. Assets that only need a choice count as one image.

    Those of one family are together, behind the first of them, however many they are.
    """
    units: dict[tuple[str, int], list[AssetPlan]] = {}
    for number, plan in enumerate(plans):
        units.setdefault((plan.family, 0 if plan.family else number), []).append(plan)
    chunk: list[AssetPlan] = []
    size = 0
    for unit in units.values():
        chunk += unit
        size += sum(max(plan.missing, 1) for plan in unit)
        if size >= num_candidates:
            yield tuple(chunk)
            chunk, size = [], 0
    if chunk:
        yield tuple(chunk)


def chunk_key(plans: Sequence[AssetPlan]) -> str:
    """Names a chunk by the work in it."""
    return content_key("chunk", {"assets": [[p.asset.id, p.work_key, p.select_key] for p in plans]})


# --- the plan as people and machines read it ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rates:
    """What a picture costs: seconds per candidate and per upscale, bytes of each; `basis` says where that is from."""

    candidate_seconds: float
    upscale_seconds: float
    candidate_bytes: float
    upscale_bytes: float
    basis: str


def guess_rates(config: Config, base: Request, scale: int) -> Rates:
    """Rates for a model that has not run yet, from its size and steps: a first guess, replaced by measured rates.

    About 1e6 pixel-steps a second suits the starter model on two CPU cores; PNG takes about 1.5 bytes a pixel.
    """
    pixels = base.width * base.height
    return Rates(pixels * base.steps / 4e5, pixels / 1e5, pixels * 1.5, pixels * scale**2 * 1.0, "guess")


def summarise_plan(plan: Plan, config: Config, rates: Rates, *, num_samples: int = 5) -> dict[str, Any]:
    """The plan as one JSON object: counts of states, images, upscales, seconds and bytes, and sample prompts."""
    todo = plan.todo
    candidates = sum(a.missing for a in plan.work)
    upscales = sum(_num_to_choose(a, config) for a in todo) if config.upscale.engine != "none" else 0
    extra = sum(len(a.prompts) * extra_budget(config, a.num_candidates) for a in todo if a.missing)
    samples = [
        {
            "asset": a.asset.id,
            "template": p.template,
            "cell": dict(p.cell),
            "positive": p.positive,
            "negative": p.negative,
            "rank_text": p.rank_text,
            "flags": list(p.flags),
        }
        for a in todo[:num_samples]
        for p in a.prompts[:2]
    ]
    return {
        **plan.counts(),
        "assets": len(plan.assets),
        "bad_rows": len(plan.bad_rows),
        "bans": dict(Counter(a.reason for a in plan.assets if a.state == "banned").most_common(10)),
        "candidates": candidates,
        "candidates_max": candidates + extra,
        "trials": sum(a.missing for a in plan.trials),
        "upscales": upscales,
        "seconds": round(candidates * rates.candidate_seconds + upscales * rates.upscale_seconds, 1),
        "bytes": round(candidates * rates.candidate_bytes + upscales * rates.upscale_bytes),
        "basis": rates.basis,
        "pinned": sum(bool(a.pins) for a in plan.assets),
        "overrides": {a.asset.id: a.review.overrides.as_json() for a in plan.assets if a.review.overrides},
        "samples": samples,
    }


def _num_to_choose(plan: AssetPlan, config: Config) -> int:
    """How many variants an asset gets."""
    free = {place_of(p) for p in free_prompts(plan.prompts, plan.pins)}
    places = len(free) if config.select.per == "cell" else min(1, len(free))
    return places * config.select.keep + len(pinned_blobs(plan.pins))


def pin_plan(plan: Plan, summary: Mapping[str, Any]) -> bytes:
    """The bytes of a plan file: what it was made from, and what it says."""
    payload = {"schema": 1, "record": "plan", "pins": dict(plan.pins), "work": _work_digest(plan), "summary": summary}
    return (json.dumps(payload, indent=1, ensure_ascii=False) + "\n").encode()


def check_pins(plan: Plan, data: bytes, file: str) -> None:
    """Raises InputError naming everything that changed since the plan file was written."""
    try:
        saved = json.loads(data)
        pins, work = saved["pins"], saved["work"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            Problem("not a plan file", "write one with `assetmill plan CONFIG --out FILE`", file)
        ) from error
    stale = [name for name in sorted({*pins, *plan.pins}) if pins.get(name) != plan.pins.get(name)]
    if not stale and work != _work_digest(plan):
        stale = ["work"]
    if stale:
        raise InputError(
            Problem(
                f"the plan is stale: {', '.join(stale)} changed since it was made",
                "look at a new plan (`assetmill plan CONFIG --out FILE`) and run that",
                file,
            )
        )


def _work_digest(plan: Plan) -> str:
    every = (*plan.assets, *plan.trials)
    return content_key("plan", {"assets": [[a.asset.id, a.state, a.work_key, a.select_key, a.missing] for a in every]})
