"""Chunks of whole assets, and what of them is still to be made: a look at what earlier runs left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from assetmill.config import Config
from assetmill.intake.pins import place_of
from assetmill.intake.plan import AssetPlan, Base, extra_budget, requests_of
from assetmill.operate.choosing import Group, Item
from assetmill.operate.families import Family, Standing
from assetmill.records import CandidateRecord, FailureRecord, Prompt
from assetmill.storage.index import AssetHistory
from assetmill.storage.reviews import Place
from assetmill.storage.segments import EXPIRED, LOST


class Histories(Protocol):
    """What earlier runs left of assets (an Index)."""

    def history(self, asset_ids: Collection[str]) -> Mapping[str, AssetHistory]: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole assets that are made together, and their key. `alone`: nothing else may be under way meanwhile."""

    key: str
    plans: tuple[AssetPlan, ...]
    alone: bool = False


@dataclass(slots=True)
class OpenChunk:
    """A chunk with work under way: its groups (an asset, or a cell of one).

    `outstanding` counts candidates on their way; `allowance` those that adaptive rounds may still hand out.
    `standing` are pictures of families that were chosen before.
    """

    chunk: Chunk
    history: Mapping[str, AssetHistory]
    groups: list[Group]
    outstanding: int = 0
    allowance: int = 0
    standing: Mapping[Family, Sequence[Standing]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a finished chunk gave. `pictures` counts new candidates, `cut` those dropped mid-way.

    `segment` is the key of its records.
    """

    key: str
    num_assets: int
    pictures: int
    rejected: int
    failed: int
    chosen: int
    outcomes: Mapping[str, str]
    cut: int = 0
    segment: str = ""


@dataclass(slots=True)
class Found:
    """What of a chunk is there: candidates to make, and earlier ones to read back."""

    missing: list[Item] = field(default_factory=list)
    earlier: list[tuple[Item, CandidateRecord]] = field(default_factory=list)


def open_chunk(chunk: Chunk, histories: Histories, config: Config) -> OpenChunk:
    """A chunk's groups and what earlier runs know of its assets.

    With adaptive rounds half of the seeds are planned for all; the other half is the chunk's allowance.
    """
    # Reading history costs shards of the index: only assets that were heard of before are asked for.
    kin = {asset_id for p in chunk.plans for asset_id in p.kin}
    history = histories.history([*(p.asset.id for p in chunk.plans if p.known), *sorted(kin)])
    groups: list[Group] = []
    allowance = 0
    for plan in chunk.plans:
        for group in groups_of(plan, config):
            for prompt in group.prompts:
                wanted = plan.num_of(prompt)
                first = wanted if plan.is_trial else num_first(wanted, config)
                # A variation that somebody asked for gets as many seeds as were asked for, as does an experiment.
                more = 0 if prompt.engine is not None or plan.is_trial else extra_budget(config, wanted)
                group.budget[id(prompt)] = more + 2 * (wanted - first)
                group.next_index[id(prompt)] = first
                allowance += wanted - first
            groups.append(group)
    return OpenChunk(chunk, history, groups, allowance=allowance)


def groups_of(plan: AssetPlan, config: Config) -> list[Group]:
    """Among which candidates an asset's variants are chosen: all, or with `select.per: cell` those of each place.

    Where people approved pictures of a place, these are its only ones. Places stand in the order of the prompts.
    """
    by_place: dict[Place | None, list[Prompt]] = {}
    for prompt in plan.prompts:
        by_place.setdefault(place_of(prompt) if config.select.per == "cell" else None, []).append(prompt)
    for place in plan.pins:
        by_place.setdefault(place, [])
    groups = []
    for place, prompts in by_place.items():
        pinned = tuple(d.blob for d in plan.pins.get(place, ()))
        groups.append(Group(plan, () if pinned else tuple(prompts), {}, {}, place=place, pinned=pinned))
    return groups


def num_first(num_candidates: int, config: Config) -> int:
    """How many of an asset's candidates are begun at once: all, or half where the others are shared out later."""
    return max(config.select.keep, -(-num_candidates // 2)) if config.adaptive else num_candidates


def look(opened: OpenChunk, base: Base, config: Config, *, force: bool = False) -> Found:
    """Which candidates of a chunk exist; each becomes an item of its group."""
    found = Found()
    for group in opened.groups:
        history = opened.history.get(group.plan.asset.id)
        if group.pinned:
            approved = _pinned_items(group, history)
            found.earlier += approved
            group.items += [item for item, _ in approved]
        for prompt in group.prompts:
            planned = group.next_index[id(prompt)]
            for item in items_of(group, prompt, base, config, range(planned)):
                _sort_in(item, history, found, config, force)
                group.items.append(item)
            # Extra seeds of an earlier run count as well: look past the planned indices while they exist.
            while history and group.budget[id(prompt)]:
                (item,) = items_of(group, prompt, base, config, [group.next_index[id(prompt)]])
                if item.key not in history.candidates and item.key not in history.failures:
                    break
                if group.next_index[id(prompt)] < group.plan.num_of(prompt):
                    opened.allowance = max(0, opened.allowance - 1)
                group.take_index(prompt)
                if force:  # what was asked for again gets its budget again
                    group.budget[id(prompt)] += 1
                _sort_in(item, history, found, config, force)
                group.items.append(item)
    return found


def _pinned_items(group: Group, history: AssetHistory | None) -> list[tuple[Item, CandidateRecord]]:
    """The approved pictures of a group, as they are on record: their prompt and model may be those of another year."""
    found = []
    made = {c.blob: c for c in history.candidates.values()} if history is not None else {}
    for blob in group.pinned:
        if blob in made and history is not None:
            asked = history.requests[made[blob].request_key]
            prompt = Prompt(
                asked.asset_id, asked.template, asked.cell, asked.request.positive, asked.request.negative,
                asked.rank_text,
            )  # fmt: skip
            item = Item(group.plan, prompt, asked.index, asked.request, asked.key, pinned=True)
            found.append((item, made[blob]))
    return found


def items_of(group: Group, prompt: Prompt, base: Base, config: Config, indices: Iterable[int]) -> list[Item]:
    """New items of a prompt's candidates."""
    indices = list(indices)
    request, seeds = requests_of(group.plan.asset, prompt, base, config, indices)
    requests = [request if seed == request.seed else replace(request, seed=seed) for seed in seeds]
    return [Item(group.plan, prompt, i, r, r.key) for i, r in zip(indices, requests, strict=True)]


def _sort_in(item: Item, history: AssetHistory | None, found: Found, config: Config, force: bool) -> None:
    """Puts an item where it belongs: made before, expired, failed for good, cut mid-way, or to be made."""
    candidate = history.candidates.get(item.key) if history else None
    failure = history.failures.get(item.key) if history else None
    if candidate is not None and failure is not None and failure.kind == EXPIRED:
        if force:
            item.failures = [FailureRecord(item.key, LOST, "its picture had expired")]
            found.missing.append(item)
        else:
            item.stored, item.barred = True, "expired"
    elif candidate is not None:
        found.earlier.append((item, candidate))
    elif failure is not None and failure.kind == "poison" and not force:
        item.failures, item.stored = [failure], True
    elif history is not None and item.key in history.cuts and config.cut.at:
        item.stored = True  # dropped by an earlier night; without cutting it is made after all
    else:
        found.missing.append(item)
