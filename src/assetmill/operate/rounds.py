"""Further seeds for a chunk whose candidates are all made: adaptive rounds, then seeds for what the gates rejected."""

from __future__ import annotations

from collections.abc import Sequence

from assetmill.config import Config
from assetmill.curate.adaptive import allocate
from assetmill.intake.plan import Base
from assetmill.operate.choosing import REJECTED, Group, Item
from assetmill.operate.chunks import OpenChunk, items_of
from assetmill.records import Prompt

_ROUNDS = 3
"""In how many rounds the allowance is handed out: what one round shows decides where the next goes."""


def next_round(opened: OpenChunk, base: Base, config: Config) -> list[Item]:
    """New items of the chunk's groups, added to them; empty when the chunk is to be settled."""
    if opened.allowance:
        new = _add_items(opened, _share_out(opened, config), base, config)
        if new:
            return new
        opened.allowance = 0  # no group has room for more
    # What people rejected is not made up for by itself: they ask for more where they want more.
    short = [config.select.keep - sum(i.passed or i.barred == REJECTED for i in g.items) for g in opened.groups]
    return _add_items(opened, short, base, config)


def _add_items(opened: OpenChunk, shares: Sequence[int], base: Base, config: Config) -> list[Item]:
    new: list[Item] = []
    for group, count in zip(opened.groups, shares, strict=True):
        for prompt in _prompts_in_turn(group, count):
            items = items_of(group, prompt, base, config, [group.take_index(prompt)])
            group.items.extend(items)
            new.extend(items)
    return new


def _share_out(opened: OpenChunk, config: Config) -> list[int]:
    total = sum(g.plan.num_of(p) for g in opened.groups for p in g.prompts)
    seeds = min(opened.allowance, max(1, -(-total // (2 * _ROUNDS))))
    floor = config.select.min_score if config.publish.min_score is None else config.publish.min_score
    shares = allocate(
        [[i.score for i in group.items if i.passed and i.score is not None] for group in opened.groups],
        seeds,
        keep=config.select.keep,
        floor=floor,
        room=[sum(group.budget.values()) for group in opened.groups],
    )
    opened.allowance -= sum(shares)
    return shares


def _prompts_in_turn(group: Group, count: int) -> list[Prompt]:
    """`count` times one of the group's prompts, the least tried first, within their budgets."""
    taken: dict[int, int] = {id(p): 0 for p in group.prompts}
    turns: list[Prompt] = []
    for _ in range(count):
        free = [p for p in group.prompts if group.budget[id(p)] > taken[id(p)]]
        if not free:
            break
        prompt = min(free, key=lambda p: group.next_index[id(p)] + taken[id(p)])
        taken[id(prompt)] += 1
        turns.append(prompt)
    return turns
