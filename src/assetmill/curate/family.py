"""Choosing one picture for each asset of a family together: good in themselves, alike in look and colours, none twice.

Of all ways to pick one candidate x(a) for each of n assets, the one with the largest

    sum over a:      score(x(a)) / s
    sum over a < b:  2 / (n - 1) · (coherence · cosine / c - palette · distance / p)

is taken. The factor 2 / (n - 1) makes the second line each asset's mean over the others: weights mean the same in
small and large families. s, c and p are standard deviations of what they divide, over the candidates of an asset (c and
p with the other assets' pictures drawn at random): a weight of 1 makes likeness count as much as score. Two pictures
that count as one go together like the least alike pair of the family, and cost `duplicates` besides.

A family that has few ways is searched in full; else a beam search and the choice one by one are each improved, asset by
asset, until nothing gets better (iterated conditional modes: Besag, 1986). So the result is never worse than choosing
one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from assetmill.curate.colours import palette_distances

EXACT_WAYS = 2**18
"""A family with at most so many ways to choose is searched in full: 6 assets with 8 candidates each."""

MOST_CANDIDATES = 24
"""So many of an asset's candidates, the best ones, take part: what ranks lower is not chosen for its colours."""

_BEAM = 16
_COSINE_SLACK = 1e-6
_BETTER = 1e-9
"""By less than that one choice is not better than another: rounding must not decide."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One asset of a family and its candidates, best first; an asset whose picture stands has one.

    `name` is distinct within the family: it decides nothing but the order of the sums. `scores` float (K,) finite,
    `embeddings` float (K, D) of length 1, `palettes` float (K, P) as `palette_of` gives them.
    """

    name: str
    scores: np.ndarray
    embeddings: np.ndarray
    palettes: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.scores)
        if not num or np.ndim(self.embeddings) != 2 or np.ndim(self.palettes) != 2:
            raise ValueError(f"{self.name}: give at least one candidate, embeddings (K, D) and palettes (K, P)")
        if len(self.embeddings) != num or len(self.palettes) != num:
            raise ValueError(
                f"{self.name}: {num} scores, {len(self.embeddings)} embeddings and {len(self.palettes)} palettes"
            )
        if num > 1 and not np.isfinite(self.scores).all():
            raise ValueError(f"{self.name}: scores must be finite")


@dataclass(frozen=True, slots=True)
class FamilyWeights:
    """What likeness in embedding and in colours counts against score, and what each pair of near-duplicates costs.

    `near_duplicate` is the cosine from which two pictures count as one; None: never.
    """

    coherence: float = 0.25
    palette: float = 0.25
    duplicates: float = 4.0
    near_duplicate: float | None = 0.97


@dataclass(frozen=True, slots=True)
class FamilyChoice:
    """The pick of each member, in the order given, as a position among its candidates.

    `value` is what that is worth, `one_by_one` what everybody's best is worth together; `exact` says that there is no
    better choice.
    """

    picks: tuple[int, ...]
    value: float
    one_by_one: float
    exact: bool


@dataclass(frozen=True, slots=True)
class FamilyLook:
    """How well pictures go together: mean cosine and mean colour distance (ΔE) of their pairs, near-duplicate pairs."""

    coherence: float
    palette: float
    duplicates: int


def choose_family(members: Sequence[Member], weights: FamilyWeights) -> FamilyChoice:
    """The best picks for a family, as this module's text says. The order of the members changes nothing.

    Raises ValueError on doubled names.
    """
    if len({m.name for m in members}) < len(members):
        raise ValueError("two members of a family have the same name")
    order = sorted(range(len(members)), key=lambda i: members[i].name)
    if not members:
        return FamilyChoice((), 0.0, 0.0, True)
    field = _Field.of([members[i] for i in order], weights)
    alone = [0] * len(order)
    if field.num_ways <= EXACT_WAYS:
        best = _search_all(field)
    else:
        starts = [alone, *_search_beam(field)]
        best = max((_improve(field, start) for start in starts), key=lambda p: (round(field.value(p), 9), _neg(p)))
    one_by_one, value = field.value(alone), field.value(best)
    if value <= one_by_one + _BETTER:
        best, value = alone, one_by_one
    picks = [0] * len(order)
    for place, i in enumerate(order):
        picks[i] = best[place]
    return FamilyChoice(tuple(picks), value, one_by_one, field.num_ways <= EXACT_WAYS)


def look_of(embeddings: np.ndarray, palettes: np.ndarray, near_duplicate: float | None) -> FamilyLook:
    """How well pictures go together: embeddings (N, D) of length 1 and palettes (N, P), N at least 2."""
    pairs = np.triu_indices(len(embeddings), k=1)
    cosines = (np.asarray(embeddings, np.float64) @ np.asarray(embeddings, np.float64).T)[pairs]
    twice = 0 if near_duplicate is None else int((cosines >= near_duplicate - _COSINE_SLACK).sum())
    return FamilyLook(float(cosines.mean()), float(palette_distances(palettes)[pairs].mean()), twice)


# --- inside -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """A family as numbers: `unary` (N,) and `pairs` (N, N) over all candidates, those of one asset side by side.

    `starts` are where each asset's candidates begin; `pairs` is zero between candidates of one asset.
    """

    unary: np.ndarray
    pairs: np.ndarray
    starts: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, members: Sequence[Member], weights: FamilyWeights) -> _Field:
        scores = [np.asarray(m.scores[:MOST_CANDIDATES], np.float64) for m in members]
        sizes = tuple(map(len, scores))
        owner = np.repeat(np.arange(len(sizes)), sizes)
        others = max(len(members) - 1, 1)
        cosines = np.concatenate(
            [np.asarray(m.embeddings[:k], np.float64) for m, k in zip(members, sizes, strict=True)]
        )
        cosines = cosines @ cosines.T
        distances = palette_distances(np.concatenate([m.palettes[:k] for m, k in zip(members, sizes, strict=True)]))
        # A picture that stands has perhaps no score (an approved one of old): it is no choice, so it counts nothing.
        flat = np.concatenate([s if len(s) > 1 else np.zeros(1) for s in scores])
        unary = flat / _spread_of_scores(scores)
        pairs = weights.coherence * cosines / _spread_of_means(cosines, owner)
        pairs -= weights.palette * distances / _spread_of_means(distances, owner)
        pairs *= 2 / others
        same = owner[:, None] == owner[None, :]
        if weights.near_duplicate is not None and not same.all():
            twice = cosines >= weights.near_duplicate - _COSINE_SLACK
            # To be the same picture is not to go together.
            pairs[twice] = pairs[~same].min() - weights.duplicates
        pairs[same] = 0.0
        return cls(unary, (pairs + pairs.T) / 2, np.cumsum([0, *sizes[:-1]]), sizes)

    @property
    def num_ways(self) -> float:
        return float(np.prod(np.array(self.sizes, np.float64)))

    def rows(self, picks: Sequence[int]) -> np.ndarray:
        return self.starts + np.asarray(picks, np.int64)

    def value(self, picks: Sequence[int]) -> float:
        rows = self.rows(picks)
        return float(self.unary[rows].sum() + self.pairs[np.ix_(rows, rows)].sum() / 2)


def _neg(picks: Sequence[int]) -> tuple[int, ...]:
    """Of choices that are worth the same, the one whose pictures rank higher comes first."""
    return tuple(-p for p in picks)


def _search_all(field: _Field) -> list[int]:
    """The best of all ways. Assets without a choice are folded into the others' scores."""
    free = [a for a, size in enumerate(field.sizes) if size > 1]
    if not free:
        return [0] * len(field.sizes)
    standing = field.starts[[a for a, size in enumerate(field.sizes) if size == 1]]
    unary = field.unary + field.pairs[:, standing].sum(axis=1)
    total = np.zeros([field.sizes[a] for a in free])

    def span(a: int) -> slice:
        return slice(field.starts[a], field.starts[a] + field.sizes[a])

    for axis, a in enumerate(free):
        total += unary[span(a)].reshape([-1 if i == axis else 1 for i in range(len(free))])
    for (one, a), (other, b) in combinations(enumerate(free), 2):
        shape = [1] * len(free)
        shape[one], shape[other] = field.sizes[a], field.sizes[b]
        total += field.pairs[span(a), span(b)].reshape(shape)
    # The first of those that differ by rounding only: the one whose pictures rank highest.
    best = np.unravel_index(int(np.argmax(total >= total.max() - _BETTER)), total.shape)
    picks = [0] * len(field.sizes)
    for axis, a in enumerate(free):
        picks[a] = int(best[axis])
    return picks


def _search_beam(field: _Field) -> list[list[int]]:
    """Up to `_BEAM` good choices, built up asset by asset."""
    beam: list[tuple[float, list[int], np.ndarray]] = [(0.0, [], field.unary.copy())]
    for start, size in zip(field.starts, field.sizes, strict=True):
        grown = [
            (value + float(worth[start + k]), picks, worth, k) for value, picks, worth in beam for k in range(size)
        ]
        grown.sort(key=lambda g: (-round(g[0], 9), (*g[1], g[3])))
        beam = [(value, [*picks, k], worth + field.pairs[:, start + k]) for value, picks, worth, k in grown[:_BEAM]]
    return [picks for _, picks, _ in beam]


def _improve(field: _Field, picks: Sequence[int]) -> list[int]:
    """Lets each asset in turn take its best picture beside those of the others, until no one gains by another."""
    picks = list(picks)
    worth = field.unary + field.pairs[:, field.rows(picks)].sum(axis=1)
    changed = True
    while changed:
        changed = False
        for a, (start, size) in enumerate(zip(field.starts, field.sizes, strict=True)):
            own = worth[start : start + size]
            best = int(np.argmax(own))
            if own[best] > own[picks[a]] + _BETTER:
                worth = worth + field.pairs[:, start + best] - field.pairs[:, start + picks[a]]
                picks[a] = best
                changed = True
    return picks


def _spread_of_scores(scores: Sequence[np.ndarray]) -> float:
    """Standard deviation within assets, over all that have a choice; 1 where nothing differs."""
    away = [s - s.mean() for s in scores if len(s) > 1]
    return _root(sum(float(a @ a) for a in away), sum(len(a) - 1 for a in away))


def _spread_of_means(likeness: np.ndarray, owner: np.ndarray) -> float:
    """Standard deviation, within an asset, of a candidate's mean likeness to the other assets' pictures.

    These are drawn at random, each asset's from its own candidates: the expectation is computed, nothing is drawn.
    """
    num = int(owner[-1]) + 1
    sizes = np.bincount(owner)
    if num < 2 or (sizes == 1).all():
        return 1.0
    mean = np.zeros((len(owner), num))
    mean[np.arange(len(owner)), owner] = 1.0 / sizes[owner]
    away = likeness - (mean.T @ likeness)[owner]  # from the mean of the asset's own candidates, picture by picture
    away[owner[:, None] == owner[None, :]] = 0.0
    means = away @ mean
    variances = np.maximum(np.square(away) @ mean - np.square(means), 0.0)
    squares = np.square(means.sum(axis=1) / (num - 1)) + variances.sum(axis=1) / (num - 1) ** 2
    return _root(float(squares.sum()), int((sizes - 1).sum()))


def _root(squares: float, count: int) -> float:
    spread = float(np.sqrt(squares / max(count, 1)))
    return spread if spread > 1e-12 else 1.0
