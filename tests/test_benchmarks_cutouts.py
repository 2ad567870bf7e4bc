"""The figures of cut-outs are what they say: a perfect alpha is perfect, a worse one is worse, the page is filled."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.deliver.cutout import Cutout, cut_out
from assetmill.starter.renderer import draw, sample_spec

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cutouts() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("cutouts")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_measures(cutouts: Any) -> None:
    """A true alpha has an IoU of 1 and no error; half of it has an IoU of a half."""
    _, truth = draw(sample_spec("cutout-test", 1), 64)
    full, half = (np.dstack([np.zeros((64, 64, 3), np.uint8), alpha]) for alpha in (truth, truth // 2))
    assert cutouts.measure(Cutout(full, 0.0), truth) == {"iou": 1.0, "edge": 0.0, "sad": 0.0, "gradient": 0.0}
    worse = cutouts.measure(Cutout(half, 0.0), truth)
    assert worse["iou"] == pytest.approx(0.5, abs=0.01)
    assert min(worse["edge"], worse["sad"], worse["gradient"]) > 0


def test_figures_of_some_renders(cutouts: Any) -> None:
    """Keyed cut-outs of plain renders are better than the plainest key, and every attribute is reported."""
    specs = [sample_spec(cutouts.SPLIT, index, held_out=None) for index in range(4)]
    drawn = [draw(spec, 128) for spec in specs]
    figures = cutouts.judge([picture for picture, _ in drawn], np.stack([mask for _, mask in drawn]), specs)
    assert figures["all"]["count"] == 4
    assert figures["all"]["iou"] > max(0.97, figures["all"]["plain"] - 0.001)
    assert sum(part["count"] for part in figures["by"]["ground"].values()) == 4


def test_the_page_has_the_committed_figures(cutouts: Any) -> None:
    """The table on the page is that of docs/figures/cutouts.json; the default tolerance is as good as any there."""
    figures = json.loads(cutouts.FIGURES.read_text())
    assert "\n".join(cutouts._lines(figures)) in cutouts.PAGE.read_text("utf-8")
    best = max(figures["tolerance"]["scores"].values())
    assert figures["tolerance"]["scores"][f"{figures['tolerance']['default']:g}"] > best - 0.002
    picture, _ = draw(sample_spec("cutout-test", 0), 64)
    assert cutouts._on_checkerboard(cut_out(picture).rgba).shape == picture.shape
