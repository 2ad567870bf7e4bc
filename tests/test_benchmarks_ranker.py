"""The benchmark of the house ranker: its reviewer likes what it says, and the page has the committed figures."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")


@pytest.fixture(scope="module")
def ranker() -> Any:
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module("ranker")
    finally:
        sys.path.remove(BENCHMARKS)


def picture(colour: tuple[int, int, int], middle: int) -> np.ndarray:
    """A square of a colour on grey, its middle in that row and column."""
    pixels = np.full((48, 48, 3), 128, np.uint8)
    pixels[middle - 6 : middle + 6, middle - 6 : middle + 6] = colour
    return pixels


def test_the_reviewer_likes_warm_and_centred(ranker: Any) -> None:
    """Of four pictures they like the warm one in the middle most, the cold one in the corner least."""
    warm, cold = (220, 120, 40), (40, 120, 220)
    pictures = {n: picture(c, m) for n, (c, m) in enumerate([(warm, 24), (warm, 12), (cold, 24), (cold, 12)])}
    (seen,) = ranker.look_at({"a": pictures}).values()
    assert np.argmax(seen.liking) == 0
    assert np.argmin(seen.liking) == 3
    verdict = ranker.decide(seen.blobs, ranker.feel(seen.liking, 0.0, np.random.default_rng(0)))
    assert (verdict.approved, verdict.rejected[-1]) == (0, 3)


def test_a_look_becomes_a_lesson(ranker: Any) -> None:
    """One approved and two rejected of five: 4 pairs with the best, 2 × 2 of the open ones with the rejected."""
    seen = ranker.Seen("a", "collection-000", list("vwxyz"), np.arange(5.0), np.zeros(5), np.eye(5))
    lesson = ranker.review(seen, np.random.default_rng(0), noise=0.0)
    assert len(lesson.pairs) == 8
    assert ranker.share_in_order(lesson.pairs, seen.liking) == 1.0


def test_the_page_has_the_committed_figures(ranker: Any) -> None:
    """docs/ranker.md was rendered from docs/figures/ranker.json, and the gain is above what was to be shown."""
    figures = json.loads(ranker.FIGURES.read_text("utf-8"))
    text = ranker.PAGE.read_text("utf-8")
    assert all(line in text for line in ranker.page_lines(figures))
    assert figures["result"]["gain"]["value"] >= 0.15
