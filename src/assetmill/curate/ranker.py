"""The house ranker: what people like beyond what the judge knows, learned from pairs of pictures of one asset.

A picture's taste is w·e, with e its judge's embedding, frozen and scaled to length 1. Weights are those of pairwise
logistic regression (Bradley and Terry, 1952): the chance that picture a is preferred to b is 1 / (1 + exp(w·(b - a))).
Pairs lie within one asset, so what all of its pictures share teaches nothing, and assets count alike however many pairs
they have. Strength of the L2 penalty and the weight against the judge's score are chosen by cross-validation over
assets; a group (a brand, a category) has weights of its own, pulled towards those of all, where these foretell better.

Everything is a function of the examples: no chance, no order, no clock. Folds come from the assets' keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PENALTIES = tuple(10.0**p for p in (-4, -3.5, -3, -2.5, -2, -1.5, -1, 0))
"""Strengths of the L2 penalty that are tried, on differences scaled to a mean square length of 1."""

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Weights of taste against the judge that are tried; of equally good ones the smallest counts."""

INNER_FOLDS, OUTER_FOLDS = 4, 5
RESAMPLES = 2000
"""Bootstrap samples behind an interval."""

CROSSED = math.sqrt(2)
"""By how much intervals of cross-validation are widened. What asset i teaches about j, j teaches about i: both results
hold the same chance agreement of the two, which doubles the variance where there is nothing to learn (measured on
reviewers who decide by chance; Bengio and Grandvalet, 2004, show that no estimate from the folds alone sees it)."""

ALL = ""
"""The name of the weights for all groups together."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What people said of one asset's pictures. `asset` is its key (hex digits), `group` its brand or category.

    `embeddings` float (N, D), `scores` float (N,) of the judge (NaN where it has none), `pairs` int (P, 2): the first
    picture was preferred to the second.
    """

    asset: str
    group: str
    embeddings: np.ndarray
    scores: np.ndarray
    pairs: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.embeddings)
        if np.ndim(self.embeddings) != 2 or np.shape(self.scores) != (num,):
            raise ValueError(
                f"{self.asset}: embeddings {np.shape(self.embeddings)} and scores {np.shape(self.scores)}; "
                "give (N, D) and (N,)"
            )
        if np.ndim(self.pairs) != 2 or not len(self.pairs) or np.min(self.pairs) < 0 or np.max(self.pairs) >= num:
            raise ValueError(f"{self.asset}: pairs must be (P, 2), P > 0, of rows of the {num} embeddings")


@dataclass(frozen=True, slots=True, eq=False)
class Taste:
    """Weights of one group. `centre` and `spread` make its values comparable between groups.

    `vector` float (D,); over the pictures it was trained on, w·e has the mean `centre`, and within an asset the
    standard deviation `spread`. `num_assets` and `num_pairs` say what it rests on.
    """

    vector: np.ndarray
    centre: float
    spread: float
    penalty: float
    num_assets: int
    num_pairs: int

    def values(self, embeddings: np.ndarray) -> np.ndarray:
        """Taste of float (N, D) embeddings, float (N,): standard deviations within an asset, about 0. NaN for none."""
        return (unit_rows(embeddings) @ self.vector - self.centre) / self.spread


@dataclass(frozen=True, slots=True, eq=False)
class Ranker:
    """What was learned: tastes by group (`ALL` is always there), and how much a standard deviation of taste counts.

    `judge_spread` is the standard deviation of the judge's scores within an asset. `fallbacks` names groups that have
    no taste of their own, and why: theirs is that of all.
    """

    tastes: Mapping[str, Taste]
    weight: float
    judge_spread: float
    fallbacks: Mapping[str, str] = field(default_factory=dict)

    def group_of(self, name: str) -> str:
        """The group whose taste counts for another's pictures: its own, or `ALL`."""
        return name if name in self.tastes else ALL

    def values(self, group: str, embeddings: np.ndarray) -> np.ndarray:
        """Taste of a group's pictures, float (N,); see `Taste.values`."""
        return self.tastes[self.group_of(group)].values(embeddings)

    def bonus(self, values: np.ndarray) -> np.ndarray:
        """What taste adds to the judge's scores, in their unit."""
        return self.weight * self.judge_spread * values


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval, by bootstrap over assets (percentiles)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often a ranking agrees with people, on assets that nothing was learned from.

    Agreement is the share of an asset's pairs in people's order (equal values count half), the mean over assets:
    of the judge alone, of taste alone, of both as `select` uses them (`both`). `gain` is `both` over `judge`, paired by
    asset. `top_judge` and `top_both` are the shares of assets whose first picture nobody preferred another one to.
    """

    num_assets: int
    num_pairs: int
    judge: Estimate
    taste: Estimate
    both: Estimate
    gain: Estimate
    top_judge: float
    top_both: float

    @property
    def is_better(self) -> bool:
        """Whether taste helps beyond chance: the whole interval of the gain lies above zero."""
        return self.gain.low > 0


# --- learning -----------------------------------------------------------------------------------------------


def train(examples: Sequence[Example], *, min_assets: int, weight: float | None = None) -> Ranker:
    """Learns tastes from examples. `weight` None: chosen by cross-validation. ValueError where there are no examples.

    A group has its own taste from `min_assets` assets on, where out of sample it foretells better than that of all.
    """
    examples = _in_order(examples)
    if not examples:
        raise ValueError("no examples: somebody must have preferred a picture to another")
    spread = _judge_spread(examples)
    penalty, held = _pick_penalty(examples, None)
    tastes = {ALL: _taste(examples, penalty, None)}
    fallbacks: dict[str, str] = {}
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    for name, own in sorted(groups.items()):
        if name == ALL or len(groups) == 1:
            continue
        if len(own) < min_assets:
            fallbacks[name] = f"{len(own)} of {min_assets} decided assets"
            continue
        # Pulled towards what the others like: its own examples must not count twice.
        others = _taste([e for e in examples if e.group != name], penalty, None)
        penalty_of_group, own_values = _pick_penalty(own, others.vector)
        if _loss(own, own_values) < _loss(own, held):
            tastes[name] = _taste(own, penalty_of_group, others.vector)
            held |= own_values
        else:
            fallbacks[name] = "its own taste foretells no better than that of all"
    if weight is None:
        weight = _pick_weight(examples, held, spread)
    return Ranker(tastes, weight, spread, fallbacks)


def cross_validate(examples: Sequence[Example], *, min_assets: int, weight: float | None = None) -> Agreement:
    """Agreement on assets held out: each is ranked by a ranker that learned, and was tuned, on the other folds only.

    Intervals are widened by `CROSSED`.
    """
    examples = _in_order(examples)
    measured: list[_Measured] = []
    for fold in range(OUTER_FOLDS):
        rest = [e for e in examples if _fold(e, OUTER_FOLDS) != fold]
        own = [e for e in examples if _fold(e, OUTER_FOLDS) == fold]
        if rest and own:
            ranker = train(rest, min_assets=min_assets, weight=weight)
            measured += [_measure(ranker, e) for e in own]
    return _summarise(measured, CROSSED)


def evaluate(ranker: Ranker, examples: Sequence[Example]) -> Agreement:
    """Agreement of a ranker on examples that it has not learned from."""
    return _summarise([_measure(ranker, e) for e in _in_order(examples)])


def pairs_of(tiers: Sequence[Sequence[int]]) -> np.ndarray:
    """All pairs (better, worse) between tiers of pictures, best tier first: int (P, 2)."""
    found = [
        (a, b) for i, better in enumerate(tiers) for worse in tiers[i + 1 :] for a in better for b in worse
    ]  # fmt: skip
    return np.array(found, np.int64).reshape(-1, 2)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of float (N, D) scaled to length 1, in float64; NaN for rows without a direction."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    usable = np.isfinite(lengths) & (lengths > 0)
    return np.where(usable, vectors / np.where(usable, lengths, 1.0), np.nan)


# --- as stored ----------------------------------------------------------------------------------------------


def ranker_to_json(ranker: Ranker) -> dict[str, Any]:
    """A ranker as plain JSON values; weights keep nine digits, as many as float32 tells apart."""
    return {
        "weight": ranker.weight,
        "judge_spread": ranker.judge_spread,
        "fallbacks": dict(ranker.fallbacks),
        "tastes": {
            name: {
                "vector": [float(f"{v:.9g}") for v in taste.vector],
                "centre": taste.centre,
                "spread": taste.spread,
                "penalty": taste.penalty,
                "num_assets": taste.num_assets,
                "num_pairs": taste.num_pairs,
            }
            for name, taste in ranker.tastes.items()
        },
    }


def ranker_from_json(plain: Mapping[str, Any]) -> Ranker:
    """The ranker of `ranker_to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    tastes = {n: Taste(**{**t, "vector": np.array(t["vector"], np.float64)}) for n, t in plain["tastes"].items()}
    if ALL not in tastes:
        raise ValueError("it lacks the taste of all groups")
    return Ranker(tastes, plain["weight"], plain["judge_spread"], dict(plain["fallbacks"]))


# --- inside -------------------------------------------------------------------------------------------------


Values = dict[str, np.ndarray]
"""Values of assets' pictures, out of sample, by the assets' keys."""


def _in_order(examples: Sequence[Example]) -> list[Example]:
    found = sorted(examples, key=lambda e: e.asset)
    if len({e.asset for e in found}) < len(found):
        raise ValueError("an asset has two examples: put its pairs into one")
    return found


def _fold(example: Example, num_folds: int) -> int:
    """The fold of an asset. Outer and inner ones come from other digits of its key: they must not coincide."""
    return int(example.asset[:8] if num_folds == OUTER_FOLDS else example.asset[8:16], 16) % num_folds


def _differences(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Preferred minus other, float (P, D), and the weight of each pair: every asset's add up to 1 / num assets."""
    rows, weights = [], []
    for example in examples:
        unit = unit_rows(example.embeddings)
        rows.append(unit[example.pairs[:, 0]] - unit[example.pairs[:, 1]])
        weights.append(np.full(len(example.pairs), 1.0 / (len(example.pairs) * len(examples))))
    return np.concatenate(rows), np.concatenate(weights)


def _fit(
    rows: np.ndarray, weights: np.ndarray, penalty: float, towards: np.ndarray, start: np.ndarray, size: float
) -> np.ndarray:
    """The vector w that minimises the weighted mean of log(1 + exp(-w·row)) + penalty / 2 · |w - towards|² · size²."""
    from scipy.optimize import minimize

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = rows @ w
        away = w - towards
        value = weights @ np.logaddexp(0.0, -margins) + 0.5 * penalty * size**2 * (away @ away)
        slope = -weights * np.exp(-np.logaddexp(0.0, margins))
        return float(value), rows.T @ slope + penalty * size**2 * away

    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x)


def _fit_path(examples: Sequence[Example], towards: np.ndarray | None) -> list[np.ndarray]:
    """A vector for each of `PENALTIES`, from the strongest on, each begun where the last one ended; in their order."""
    rows, weights = _differences(examples)
    size = _size(rows, weights)
    origin = np.zeros(rows.shape[1]) if towards is None else towards
    found, start = [], origin
    for penalty in reversed(PENALTIES):
        start = _fit(rows, weights, penalty, origin, start, size)
        found.append(start)
    return found[::-1]


def _size(rows: np.ndarray, weights: np.ndarray) -> float:
    """Root mean square length of the differences: what makes a penalty mean the same under any judge."""
    return max(float(np.sqrt(weights @ np.square(rows).sum(axis=1))), 1e-12)


def _pick_penalty(examples: Sequence[Example], towards: np.ndarray | None) -> tuple[float, Values]:
    """The penalty with the least loss out of sample, and the values under it, each from the folds its asset isn't in.

    Values are divided by their spread, fold by fold: vectors of other folds have other lengths.
    """
    losses = np.zeros(len(PENALTIES))
    values: list[Values] = [{} for _ in PENALTIES]
    for fold in range(INNER_FOLDS):
        rest = [e for e in examples if _fold(e, INNER_FOLDS) != fold]
        own = [e for e in examples if _fold(e, INNER_FOLDS) == fold]
        if not rest or not own:
            continue
        for i, vector in enumerate(_fit_path(rest, towards)):
            raw = {e.asset: unit_rows(e.embeddings) @ vector for e in own}
            losses[i] += _loss(own, raw) * len(own)
            spread = _pooled_spread([unit_rows(e.embeddings) @ vector for e in rest])
            values[i] |= {name: v / spread for name, v in raw.items()}
    best = int(np.argmin(losses[::-1]))  # of equals the strongest
    best = len(PENALTIES) - 1 - best
    return PENALTIES[best], values[best]


def _taste(examples: Sequence[Example], penalty: float, towards: np.ndarray | None) -> Taste:
    rows, weights = _differences(examples)
    origin = np.zeros(rows.shape[1]) if towards is None else towards
    vector = _fit(rows, weights, penalty, origin, origin, _size(rows, weights))
    values = [unit_rows(e.embeddings) @ vector for e in examples]
    centre = float(np.mean(np.concatenate(values)))
    num_pairs = sum(len(e.pairs) for e in examples)
    return Taste(vector, centre, _pooled_spread(values), penalty, len(examples), num_pairs)


def _loss(examples: Sequence[Example], values: Values) -> float:
    """Mean log loss over assets of the pairs under some values."""
    return float(np.mean([_pair_loss(e, values[e.asset]) for e in examples if e.asset in values] or [math.inf]))


def _pair_loss(example: Example, values: np.ndarray) -> float:
    return float(np.logaddexp(0.0, values[example.pairs[:, 1]] - values[example.pairs[:, 0]]).mean())


def _pooled_spread(values: Sequence[np.ndarray]) -> float:
    """Standard deviation within assets, over all of them; 1 where nothing differs."""
    away = [v - v.mean() for v in (np.asarray(v)[np.isfinite(v)] for v in values) if len(v) > 1]
    spread = math.sqrt(sum(float(a @ a) for a in away) / max(sum(len(a) - 1 for a in away), 1))
    return spread if spread > 1e-12 else 1.0


def _judge_spread(examples: Sequence[Example]) -> float:
    return _pooled_spread([e.scores.astype(np.float64) for e in examples])


def _pick_weight(examples: Sequence[Example], held: Values, spread: float) -> float:
    """The weight whose sum of judge and taste agrees best with people, out of sample."""

    def agreement(weight: float) -> float:
        found = [
            _agreement(e, e.scores + weight * spread * held[e.asset]) for e in examples if e.asset in held
        ]  # fmt: skip
        return round(float(np.mean(found or [0.0])), 9)

    return max(WEIGHTS, key=lambda w: (agreement(w), -w))


def _agreement(example: Example, values: np.ndarray) -> float:
    """Share of an example's pairs that values put in people's order; equal ones, and those without a value, half."""
    difference = values[example.pairs[:, 0]] - values[example.pairs[:, 1]]
    return float(np.where(np.isnan(difference) | (difference == 0), 0.5, difference > 0).mean())


def _is_top(example: Example, values: np.ndarray) -> bool:
    """Whether nobody preferred another picture to the one of the highest value, among those that were compared."""
    seen = np.unique(example.pairs)
    usable = np.where(np.isfinite(values[seen]), values[seen], -np.inf)
    return int(seen[int(np.argmax(usable))]) not in set(example.pairs[:, 1].tolist())


@dataclass(frozen=True, slots=True)
class _Measured:
    num_pairs: int
    judge: float
    taste: float
    both: float
    top_judge: bool
    top_both: bool


def _measure(ranker: Ranker, example: Example) -> _Measured:
    taste = ranker.values(example.group, example.embeddings)
    both = example.scores + ranker.bonus(taste)
    return _Measured(
        len(example.pairs), _agreement(example, example.scores), _agreement(example, taste),
        _agreement(example, both), _is_top(example, example.scores), _is_top(example, both),
    )  # fmt: skip


def _summarise(measured: Sequence[_Measured], widen: float = 1.0) -> Agreement:
    def of(read: Callable[[_Measured], float]) -> np.ndarray:
        return np.array([read(m) for m in measured], np.float64)

    def estimate(values: np.ndarray) -> Estimate:
        return interval(values, widen=widen)

    judge, both = of(lambda m: m.judge), of(lambda m: m.both)
    return Agreement(
        len(measured), sum(m.num_pairs for m in measured),
        estimate(judge), estimate(of(lambda m: m.taste)), estimate(both), estimate(both - judge),
        _mean(of(lambda m: m.top_judge)), _mean(of(lambda m: m.top_both)),
    )  # fmt: skip


def interval(values: np.ndarray, *, widen: float = 1.0) -> Estimate:
    """The mean of one number per asset with its 95 % interval, from -1 to 1 where there are fewer than two.

    Its two sides are `widen` times as long as those of the bootstrap.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(_mean(values), -1.0, 1.0)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    mean = _mean(values)
    return Estimate(mean, mean - widen * (mean - float(low)), mean + widen * (float(high) - mean))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
