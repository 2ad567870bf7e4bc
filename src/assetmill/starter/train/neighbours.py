"""Batches of near-alike pictures: the cheapest hard negatives are other pictures' own captions."""

from __future__ import annotations

import numpy as np

from assetmill.starter.vocabulary import ATTRIBUTES

NUM_OTHERS = {"object": 3, "colour": 1}
"""How many pictures of a group differ from its first one in that attribute; the rest of its 16 are the
first one's twelve mixes of style and pattern, which are the hardest to tell apart."""


class Neighbours:
    """Finds rows by what they show.

    `labels` int64 (n, 5), class indices in the order of `ATTRIBUTES`.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = labels
        self._sizes = tuple(len(values) for values in ATTRIBUTES.values())
        codes = np.ravel_multi_index(labels.T, self._sizes)
        self._order = np.argsort(codes, kind="stable")
        self._codes = codes[self._order]

    def draw(self, num_groups: int, rng: np.random.Generator) -> np.ndarray:
        """Return rows in groups of 16 near-alike pictures, each group around a picture at random.

        Where no picture shows a combination (it is held out), a picture at random takes its place.
        """
        object_, colour, pattern, style = (list(ATTRIBUTES).index(n) for n in ("object", "colour", "pattern", "style"))
        columns = {"object": object_, "colour": colour}
        rows: list[int] = []
        for _ in range(num_groups):
            first = self._labels[int(rng.integers(len(self._labels)))]
            wanted = [first.copy() for _ in range(self._sizes[pattern] * self._sizes[style])]
            for number, one in enumerate(wanted):
                one[pattern], one[style] = divmod(number, self._sizes[style])
            for name, count in NUM_OTHERS.items():
                column = columns[name]
                values = [v for v in rng.permutation(self._sizes[column]) if v != first[column]]
                for value in values[:count]:
                    wanted.append(first.copy())
                    wanted[-1][column] = value
            rows += [self._find(one, rng) for one in wanted]
        return np.array(rows)

    def _find(self, wanted: np.ndarray, rng: np.random.Generator) -> int:
        code = np.ravel_multi_index(tuple(wanted), self._sizes)
        low, high = np.searchsorted(self._codes, [code, code + 1])
        return int(self._order[rng.integers(low, high)]) if high > low else int(rng.integers(len(self._labels)))
