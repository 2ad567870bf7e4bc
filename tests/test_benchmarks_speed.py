"""The studies of speed at tiny sizes: the same code as `make selection`, `settings`, `memory`; figures add up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_path() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


def made_up_table(noise: float):  # type: ignore[no-untyped-def]
    """Scores of 64 prompts × 24 seeds whose early values are the final ones under noise that shrinks."""
    from score_table import ScoreTable

    rng = np.random.default_rng(5)
    final = rng.normal(rng.normal(0, 1, (64, 1)), 1.0, (64, 24))
    steps = (2, 4, 8)
    early = np.stack([final[:, :8] + rng.normal(0, noise / step, (64, 8)) for step in steps], -1)
    right = np.clip(np.round(3 + final), 0, 5).astype(int)
    return ScoreTable(final, right, early, steps, 16, {"decode": 1.0, "preview": 1.0, "score": 0.2})


def test_perfect_foresight_keeps_all_of_the_gain() -> None:
    """Where early scores are the final ones, every schedule keeps the whole gain, and less compute is spent."""
    from selection import compute_of, kept_gain, picks, schedules

    table = made_up_table(noise=0.0)
    for schedule in schedules(table)[:20]:
        assert kept_gain(table, table.final[:, :8], picks(table, schedule))["value"] == 1.0
        assert compute_of(table, schedule) < 1.06  # looking costs something, too
    assert compute_of(table, ((2, 1),)) == pytest.approx((8 * (2 + 1.2) + 14 + 1.2) / (8 * 17.2))


def test_blind_cuts_keep_little() -> None:
    """Where early scores are noise, keeping one of eight keeps about nothing of the gain."""
    from selection import kept_gain, picks

    table = made_up_table(noise=1e6)
    assert kept_gain(table, table.final[:, :8], picks(table, ((2, 1),)))["value"] < 0.4


def test_studies_give_their_sections(tmp_path: Path) -> None:
    """The studies' figures render: tables, plot, the schedule as a config."""
    from machine import describe_machine
    from selection import study_adaptive, study_cutting
    from speed_page import selection_section
    from write import _table

    table = made_up_table(noise=1.0)
    figures = {
        "machine": describe_machine(),
        "cutting": study_cutting(table),
        "adaptive": study_adaptive(table),
    }
    text = selection_section(figures, _table, tmp_path)
    assert "cut:\n  at: [" in text
    assert (tmp_path / "img" / "cutting.svg").read_text().count("<svg") == 1
    assert figures["adaptive"]["pictures"] == 64 * 8
    assert figures["adaptive"]["mean_best_rise"]["value"] > 0


def test_scores_of_the_starter_model() -> None:
    """The table's scores come from the shipped model: early ones differ from final ones, which lie in [-1, 1]."""
    from score_table import measure_table

    table = measure_table(ROOT / "configs" / "game-assets.yaml", 2, 3, 2, (2,), steps=4)
    assert table.final.shape == (2, 3)
    assert table.early.shape == (2, 2, 1)
    assert np.abs(table.final).max() <= 1
    assert (table.early[:, :, 0] != table.final[:, :2]).all()
    assert table.units["decode"] > 0


def test_settings_of_the_starter_model() -> None:
    """Fused projections and channels_last give the same pictures up to rounding."""
    from settings import measure

    figures = measure(ROOT / "configs" / "game-assets.yaml", 1, ["plain", "channels_last + fuse"], steps=2)
    assert [row["largest_difference"] <= 2 for row in figures["settings"]] == [True, True]


def test_memory_of_a_small_night() -> None:
    """The command that measures memory tells of all images and of its peak."""
    from memory import measure

    figures = measure(160, 32)
    assert figures["images"] == 160
    assert figures["peak_mib"] > 20


def test_runs_with_cutting() -> None:
    """The command that times cutting drops what its schedule says and keeps a winner for each asset."""
    from assetmill.config import CutConfig
    from cut_run import measure

    figures = measure(ROOT / "configs" / "game-assets.yaml", CutConfig(at=(0.25,), keep=(0.25,)), 1, limit=2)
    assert (figures["finished"], figures["cut"]) == (4, 12)
    assert figures["assets"] == 2
