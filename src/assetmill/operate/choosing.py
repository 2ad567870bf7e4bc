"""What a chunk chooses among, and the choice: one asset at a time, or families together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assetmill.config import Config
from assetmill.curate.gates import Verdict
from assetmill.curate.select import Selection, choose
from assetmill.intake.plan import AssetPlan
from assetmill.operate.families import Family, Seat, Standing, family_of, go_together
from assetmill.operate.taste import HouseRanker
from assetmill.records import CutRecord, FailureRecord, Prompt, Request
from assetmill.storage.reviews import Place

if TYPE_CHECKING:
    import numpy as np

REJECTED = "rejected by a person"


@dataclass(slots=True)
class Item:
    """One candidate on its way through a chunk."""

    plan: AssetPlan
    prompt: Prompt
    index: int
    request: Request
    key: str
    blob: Future[str] | None = None
    pixels: np.ndarray | None = None
    seconds: float = 0.0
    score: float | None = None
    embedding: np.ndarray | None = None
    taste: float | None = None
    """What the house ranker says of it, in standard deviations within an asset."""
    passed: bool = False
    refused: str = ""
    barred: str = ""
    """Why it is not to be chosen although it was made, in a word: recalled, expired, rejected by a person."""
    pinned: bool = False
    """True where a person approved it: it is read back, never made again, and stands whatever the gates say now."""
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[FailureRecord] = field(default_factory=list)
    cut: CutRecord | None = None
    """Set where it was dropped mid-way."""
    stored: bool = False
    """True when an earlier segment holds its records."""
    product: tuple[Verdict, ...] = ()
    """What the product lock measured when the picture was made."""
    heat: np.ndarray | None = None
    heat_blob: Future[str] | None = None
    """Where the model had changed a kept product: the picture, and the blob it is stored as."""


@dataclass(slots=True)
class Group:
    """The candidates among which variants are chosen: all of an asset, or those of one cell of its axes.

    `budget` (extra seeds left) and `next_index` are kept per prompt, by identity. `pinned` are approved pictures: then
    they are what is chosen, in this order, and there are no prompts.
    """

    plan: AssetPlan
    prompts: tuple[Prompt, ...]
    budget: dict[int, int]
    next_index: dict[int, int]
    items: list[Item] = field(default_factory=list)
    place: Place | None = None
    pinned: tuple[str, ...] = ()

    @property
    def cell(self) -> dict[str, str]:
        """The cell it is of, where it is of one."""
        return dict(self.prompts[0].cell) if self.prompts else dict(self.place.cell if self.place else ())

    def take_index(self, prompt: Prompt) -> int:
        """The next unused index of a prompt; uses one seed of its budget."""
        index = self.next_index[id(prompt)]
        self.next_index[id(prompt)] += 1
        self.budget[id(prompt)] -= 1
        return index


@dataclass(slots=True)
class Choice:
    """What is chosen of a group. `pool` are those that may be."""

    group: Group
    pool: list[Item] = field(default_factory=list)
    chosen: list[Item] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Request keys of those that were chosen before, and why they were refused."""
    dropped: Mapping[str, str] = field(default_factory=dict)


def choose_all(
    waiting: Sequence[Choice],
    choices: Sequence[Choice],
    config: Config,
    *,
    banned_blobs: Collection[str] = (),
    ranker: HouseRanker | None = None,
    standing: Mapping[Family, Sequence[Standing]] | None = None,
) -> None:
    """Chooses for those that wait, of all choices of a chunk; the others' stand, as do `standing` pictures."""
    for choice in waiting:
        choice.pool = _find_pool(choice, banned_blobs)
        choice.chosen, choice.dropped = (list(choice.pool) if choice.group.pinned else []), {}
    open_ = [choice for choice in waiting if choice.pool and not choice.group.pinned]
    firsts: Sequence[int | None] = [None] * len(open_)
    if config.select.family is not None:
        firsts = _go_together(open_, choices, standing or {}, config, ranker)
    for choice, first in zip(open_, firsts, strict=True):
        _choose(choice, config, ranker, first)


def taste(groups: Sequence[Group], ranker: HouseRanker) -> None:
    """Asks the house ranker about all candidates that have an embedding."""
    import numpy as np

    for group in groups:
        items = [item for item in group.items if item.embedding is not None]
        if items:
            values = ranker.values(group.plan.asset, np.stack([i.embedding for i in items if i.embedding is not None]))
            for item, value in zip(items, values, strict=True):
                item.taste = float(value) if np.isfinite(value) else None


# --- inside -------------------------------------------------------------------------------------------------


def _find_pool(choice: Choice, banned_blobs: Collection[str]) -> list[Item]:
    """The candidates of a group that may be chosen; where people approved some, these in their order."""
    group = choice.group
    if group.pinned:
        found = {i.blob.result(): i for i in group.items if i.blob is not None and i.key not in choice.refused}
        return [found[blob] for blob in group.pinned if blob in found]
    candidates = [i for i in group.items if i.passed and i.key not in choice.refused]
    rejected = group.plan.review.rejected
    if banned_blobs or rejected:
        for item in candidates:
            blob = item.blob.result() if item.blob is not None else ""
            item.barred = "recalled" if blob in banned_blobs else REJECTED if blob in rejected else ""
        candidates = [i for i in candidates if not i.barred]
    # The same request can stand in a group twice (two templates that render the same text).
    return list({i.key: i for i in candidates}.values())


def _choose(choice: Choice, config: Config, ranker: HouseRanker | None, first: int | None) -> None:
    select = config.select
    selection = _select(
        choice.pool, config, ranker, keep=select.keep, near_duplicate=select.near_duplicate,
        diversity=select.diversity, first=first,
    )  # fmt: skip
    choice.chosen = [choice.pool[i] for i in selection.chosen]
    choice.dropped = {choice.pool[i].key: reason for i, reason in selection.dropped.items()}


def _select(
    pool: Sequence[Item],
    config: Config,
    ranker: HouseRanker | None,
    *,
    keep: int,
    near_duplicate: float | None = None,
    diversity: float = 0.0,
    first: int | None = None,
) -> Selection:
    import numpy as np

    return choose(
        [i.key for i in pool],
        np.array([np.nan if i.score is None else i.score for i in pool], np.float64),
        np.stack([i.embedding for i in pool if i.embedding is not None]),
        keep=keep,
        near_duplicate=near_duplicate,
        diversity=diversity,
        min_score=config.select.min_score,
        bonus=_bonus(pool, ranker),
        first=first,
    )


def _go_together(
    waiting: Sequence[Choice],
    choices: Sequence[Choice],
    standing: Mapping[Family, Sequence[Standing]],
    config: Config,
    ranker: HouseRanker | None,
) -> list[int | None]:
    """For each choice that waits the position in its pool that goes best with its family; None without a family."""
    import numpy as np

    seats: list[Seat] = []
    ranked: dict[int, tuple[int, tuple[int, ...]]] = {}
    open_ = {id(choice) for choice in waiting}
    for choice in choices:
        group = choice.group
        family = family_of(group.plan, group.place)
        if family is None:
            continue
        if id(choice) not in open_:
            seats += [Seat(family, group.plan.asset.id, choice.chosen[:1], np.zeros(1))] if choice.chosen else []
            continue
        order = _select(choice.pool, config, ranker, keep=len(choice.pool)).chosen
        if order:
            worth = np.array([_worth(choice.pool[i], ranker) for i in order])
            ranked[id(choice)] = (len(seats), order)
            seats.append(Seat(family, group.plan.asset.id, [choice.pool[i] for i in order], worth))
    picks = go_together(seats, standing, config)
    found: list[int | None] = []
    for choice in waiting:
        place, order = ranked.get(id(choice), (0, ()))
        pick = picks[place] if order else None
        found.append(order[pick] if pick is not None else None)
    return found


def _worth(item: Item, ranker: HouseRanker | None) -> float:
    """What a candidate that may be chosen is ranked by."""
    assert item.score is not None
    return item.score + (ranker.bonus(item.taste) if ranker is not None and item.taste is not None else 0.0)


def _bonus(items: Sequence[Item], ranker: HouseRanker | None) -> np.ndarray | None:
    """What taste adds to scores, float (N,); None without a ranker."""
    import numpy as np

    if ranker is None:
        return None
    return np.array([np.nan if i.taste is None else ranker.bonus(i.taste) for i in items], np.float64)
