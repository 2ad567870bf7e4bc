"""Choosing among the candidates of one asset: rank, fold near-duplicates, weigh difference against score.

The choice is a function of the set of candidates alone. The order they come in changes nothing: everything is
computed in rank order, down to the last bit of each cosine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_COSINE_SLACK = 1e-6
"""Rounding of float32 embeddings: identical pictures must still count as such at a threshold of 1."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, as positions in the sequence given to `choose`.

    `chosen` stands in rank order (rank 1 first); `order` is the full ranking by score, ties by key, unusable
    scores last; `dropped` says of every position that was not chosen why.
    """

    chosen: tuple[int, ...]
    order: tuple[int, ...]
    dropped: Mapping[int, str]


def choose(
    keys: Sequence[str],
    scores: np.ndarray,
    embeddings: np.ndarray | None = None,
    *,
    keep: int,
    near_duplicate: float | None = None,
    diversity: float = 0.0,
    min_score: float | None = None,
    bonus: np.ndarray | None = None,
    first: int | None = None,
) -> Selection:
    """Up to `keep` candidates, best first.

    `keys` are distinct; `scores` float (N,), higher is better; `embeddings` float (N, D), of any length, needed
    when `near_duplicate` or `diversity` is set. Candidates with a score or an embedding that is not a finite
    number, or with a score below `min_score`, are never chosen. From a cosine of `near_duplicate` (in (0, 1]) on,
    a candidate counts as the same picture as one already chosen.

    `bonus` float (N,) is added to the scores for ranking; `min_score` looks at the scores alone. `first` is the
    position of the candidate that is chosen before all others where it may be chosen at all, whatever its rank.

    With `diversity` λ in (0, 1] the next one is that with the largest (1 - λ)·score - λ·(largest cosine to those
    chosen), scores stretched to [0, 1]: maximal marginal relevance (Carbonell and Goldstein, 1998). The first is
    always the best, or `first`. Raises ValueError on lengths that differ, doubled keys and missing embeddings.
    """
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    compares = near_duplicate is not None or diversity > 0
    _check_arguments(keys, scores, embeddings if compares else None, compares, keep, near_duplicate, diversity)
    total = scores if bonus is None else scores + np.asarray(bonus, dtype=np.float64).reshape(-1)
    order = rank(keys, total)
    dropped: dict[int, str] = {}
    unit = _unit_rows(np.asarray(embeddings)[list(order)]) if compares and len(keys) else None

    pool: list[int] = []  # places in `order` that may be chosen
    for place, i in enumerate(order):
        if not math.isfinite(total[i]):
            dropped[i] = f"score is {'NaN' if math.isnan(total[i]) else 'not finite'}"
        elif unit is not None and not np.isfinite(unit[place, 0]):
            dropped[i] = "embedding is not a usable direction"
        elif min_score is not None and scores[i] < min_score:
            dropped[i] = f"below min_score: {scores[i]:.4g} < {min_score:.4g}"
        else:
            pool.append(place)

    relevance = _stretch(np.array([total[order[place]] for place in pool]))
    closest = np.full(len(pool), -np.inf)  # largest cosine to what was chosen so far
    open_ = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < keep and open_.any():
        if chosen and diversity > 0:
            worth = np.where(open_, (1 - diversity) * relevance - diversity * closest, -np.inf)
            pick = int(np.argmax(worth))  # the first of equals: the better ranked
        else:
            pick = int(np.argmax(open_))
            if not chosen and first is not None:
                pick = next((j for j, place in enumerate(pool) if order[place] == first), pick)
        open_[pick] = False
        chosen.append(order[pool[pick]])
        if unit is None:
            continue
        cosines = unit[pool] @ unit[pool[pick]]
        closest = np.maximum(closest, cosines)
        if near_duplicate is not None:
            for j in np.flatnonzero(open_ & (cosines >= near_duplicate - _COSINE_SLACK)):
                open_[j] = False
                dropped[order[pool[j]]] = f"near-duplicate of {short_key(keys[chosen[-1]])}, cosine {cosines[j]:.3f}"
    for j in np.flatnonzero(open_):
        place = pool[j]
        dropped[order[place]] = f"ranked {ordinal(place + 1)} of {len(keys)}"
    return Selection(tuple(chosen), order, dropped)


def rank(keys: Sequence[str], scores: np.ndarray) -> tuple[int, ...]:
    """Positions from best to worst: higher scores first, ties by key, NaN and infinities last."""

    def place(i: int) -> tuple[bool, float, str]:
        usable = math.isfinite(scores[i])
        return (not usable, -scores[i] if usable else 0.0, keys[i])

    return tuple(sorted(range(len(keys)), key=place))


def near_duplicates(embeddings: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    """All pairs (i < j, cosine) of rows of float (N, D) whose cosine is at least `threshold`, closest first."""
    unit = _unit_rows(np.asarray(embeddings))
    cosines = unit @ unit.T
    first, second = np.nonzero(np.triu(cosines >= threshold - _COSINE_SLACK, k=1))  # False for NaN
    pairs = [(int(i), int(j), float(cosines[i, j])) for i, j in zip(first, second, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st …"""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def short_key(key: str) -> str:
    """The first 12 characters of a key: enough to find it by, short enough to read."""
    return key[:12]


def _check_arguments(
    keys: Sequence[str],
    scores: np.ndarray,
    embeddings: np.ndarray | None,
    compares: bool,
    keep: int,
    near_duplicate: float | None,
    diversity: float,
) -> None:
    if keep < 1:
        raise ValueError(f"keep is {keep}; keep at least 1")
    if near_duplicate is not None and not 0 < near_duplicate <= 1:
        raise ValueError(f"near_duplicate is {near_duplicate}; give a cosine in (0, 1], or None")
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity is {diversity}; give a weight in [0, 1]")
    if len(scores) != len(keys):
        raise ValueError(f"{len(keys)} keys but {len(scores)} scores")
    if len(set(keys)) != len(keys):
        raise ValueError("a key is given twice: ties could not be broken")
    if compares:
        if embeddings is None:
            raise ValueError("near_duplicate and diversity need embeddings")
        if (len(keys) and np.ndim(embeddings) != 2) or len(embeddings) != len(keys):
            raise ValueError(f"{len(keys)} keys but embeddings of shape {np.shape(embeddings)}; give (N, D)")


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1 in float64; rows without a direction (zero, NaN, infinity) become NaN."""
    vectors = vectors.astype(np.float64)
    lengths = np.sqrt(np.square(vectors).sum(axis=1))
    usable = np.isfinite(lengths) & (lengths > 0)
    return np.where(usable[:, None], vectors / np.where(usable, lengths, 1.0)[:, None], np.nan)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Values mapped linearly onto [0, 1]; all 1 where they are equal."""
    if not len(values):
        return values
    largest = np.abs(values).max()
    if largest > 0:
        values = values / largest  # the difference of two huge scores would overflow
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.ones_like(values)
