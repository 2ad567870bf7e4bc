"""Several judges as one: the weighted mean of their scores, each on a scale that is fixed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assetmill.engines.protocols import EngineError, Judge, Judged, JudgeSpec


class CombinedJudge:
    """Judges whose scores are added: sum of weight x (score - centre) / spread, over the sum of the weights' sizes.

    Centre and spread are constants of each part, never of the pictures at hand: a picture's score is the same whatever
    is judged beside it, today and next year. Scores lie about 0 for unrelated pairs of picture and text, and about 1
    for fitting ones; they are comparable to no part's. Embeddings are the first part's. A picture that any part cannot
    score has no score.
    """

    def __init__(self, spec: JudgeSpec, judges: Sequence[Judge]) -> None:
        if [judge.key for judge in judges] != [part.spec.key for part in spec.parts]:
            raise EngineError("the judges are not those of the combination; load them by its spec")
        self.spec = spec
        self.key = spec.key
        self.judges = tuple(judges)

    def judge(self, pixels: Any, texts: Sequence[str]) -> Judged:
        """Scores and the first part's embeddings; see Judge."""
        judged = [judge.judge(pixels, texts) for judge in self.judges]
        total = np.zeros(len(texts), np.float64)
        for part, found in zip(self.spec.parts, judged, strict=True):
            total += part.weight * (found.scores.astype(np.float64) - part.centre) / part.spread
        scores = total / sum(abs(part.weight) for part in self.spec.parts)
        return Judged(scores.astype(np.float32), judged[0].embeddings)
