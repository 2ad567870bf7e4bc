"""The benchmark of families: what it says of a choice is so, and its table has a line for every weight."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.curate.family import FamilyWeights, Member

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")


@pytest.fixture(scope="module")
def families() -> Any:
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module("families")
    finally:
        sys.path.remove(BENCHMARKS)


def collections(num: int) -> list[list[Member]]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(num):
        members = []
        for name in "abcd":
            vectors = rng.normal(size=(5, 8))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            members.append(
                Member(f"{number}{name}", np.sort(rng.normal(size=5))[::-1], vectors, 10 * rng.normal(size=(5, 6)))
            )
        found.append(members)
    return found


def test_together_is_nearer_and_costs_score(families: Any) -> None:
    row = families.compare(collections(12), FamilyWeights(1.0, 1.0))
    assert row["palette_together"]["mean"] < row["palette_alone"]["mean"]
    assert row["coherence_more"]["mean"] > 0
    assert row["score_lost"]["mean"] > 0
    for name in ("palette_less", "coherence_more", "score_lost"):
        assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
    nothing = families.compare(collections(12), FamilyWeights(0.0, 0.0, 0.0))
    assert nothing["score_lost"]["mean"] == nothing["changed"]["mean"] == 0


def test_the_table_has_a_line_for_every_weight(families: Any) -> None:
    some = collections(4)
    figures = {
        "collections": 4, "assets": 16, "candidates": 80, "default": "0.25", "search": families.compare_search(some),
        "weights": {f"{w:g}": families.compare(some, FamilyWeights(w, w)) for w in (0.1, 0.25)},
        "machine": {"cores": 2, "processor": "x", "memory_gib": 1, "system": "s", "python": "3", "versions": {},
                    "date": "d"},
    }  # fmt: skip
    assert figures["search"]["gain_kept"] == pytest.approx(1.0, abs=0.05)
    lines = list(families._lines(figures))
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["one by one", "0.1", "0.25 (default)"]
