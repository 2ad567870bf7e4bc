"""Gates over a cut-out: each refuses what it is there for, says why in words, and lets a clean one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from assetmill.config import CutoutGatesConfig
from assetmill.curate.cutout_gates import check_cutout, measure_fringe, measure_shape

RED, WHITE = (200, 40, 40), 255


def box(*parts: tuple[int, int, int, int], size: int = 64) -> np.ndarray:
    """An alpha, uint8 (size, size): opaque in (top, left, bottom, right), later parts cutting holes."""
    alpha = np.zeros((size, size), np.uint8)
    for n, (top, left, bottom, right) in enumerate(parts):
        alpha[top:bottom, left:right] = 0 if n else 255
    return alpha


def made(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A red thing on white, and its cut-out."""
    part = alpha[..., None] / 255
    picture = np.rint(np.array(RED) * part + WHITE * (1 - part)).astype(np.uint8)
    return picture, np.dstack([np.full((*alpha.shape, 3), RED, np.uint8), alpha])


def last(alpha: np.ndarray, *, ground_share: float | None = None, **limits: Any) -> tuple[str, bool, str]:
    verdict = check_cutout(*made(alpha), CutoutGatesConfig(**limits), ground_share=ground_share)[-1]
    return verdict.gate, verdict.passed, verdict.reason


def test_a_clean_cutout_passes() -> None:
    """A thing in the middle of its picture passes all gates, each with what it measured."""
    verdicts = check_cutout(*made(box((16, 16, 48, 48))), CutoutGatesConfig(), ground_share=0.98)
    assert all(v.passed and not v.reason for v in verdicts)
    assert {v.gate for v in verdicts} == {
        "cutout-ground", "cutout-coverage", "cutout-border", "cutout-holes", "cutout-fringe",
    }  # fmt: skip
    assert verdicts[0].value == 0.98


@pytest.mark.parametrize(
    ("alpha", "options", "gate", "reason"),
    [
        (box((16, 16, 48, 48)), {"ground_share": 0.4}, "cutout-ground",
         "the ground is not flat: one soft colour explains 40% of the picture's border (at least 70%)"),
        (box((30, 30, 34, 34)), {}, "cutout-coverage",
         "too little is left: 0.4% of the picture is opaque (at least 2%)"),
        (box((0, 0, 64, 64)), {}, "cutout-coverage",
         "the ground was not taken off: 100.0% of the picture is opaque (limit 95.0%)"),
        (box((16, 0, 48, 48)), {}, "cutout-border",
         "cropped: the object takes 12.7% of the picture's edge (limit 1.0%)"),
        (box((16, 16, 48, 48), (20, 20, 24, 24), (30, 30, 34, 34)), {"max_holes": 1}, "cutout-holes",
         "2 holes (limit 1)"),
        (box((16, 16, 48, 48), (20, 20, 44, 44)), {}, "cutout-holes",
         "holes take 56.2% of the outline (limit 40.0%)"),
    ],
)  # fmt: skip
def test_what_is_refused(alpha: np.ndarray, options: dict[str, Any], gate: str, reason: str) -> None:
    """Each gate refuses what it is there for, and says what was measured and the limit."""
    assert last(alpha, **options) == (gate, False, reason)


def test_a_rim_of_ground_is_refused() -> None:
    """A cut that lies two pixels outside the thing leaves the ground's colour in its edge."""
    picture, _ = made(box((16, 16, 48, 48)))
    rgba = np.dstack([picture, box((14, 14, 50, 50))])
    verdict = check_cutout(picture, rgba, CutoutGatesConfig())[-1]
    assert (verdict.gate, verdict.passed, verdict.value) == ("cutout-fringe", False, pytest.approx(1.0, abs=0.01))
    assert verdict.reason == "100.0% of the ground's colour is left in the edge (limit 20.0%)"


def test_fringe_of_mixed_edges() -> None:
    """Half transparent pixels that keep their mixed colour have a fringe; cleaned ones have none."""
    alpha = box((16, 16, 48, 48))
    for side in ((15, slice(15, 49)), (48, slice(15, 49)), (slice(15, 49), 15), (slice(15, 49), 48)):
        alpha[side] = 128
    picture, clean = made(alpha)
    assert measure_fringe(picture, clean) == pytest.approx(0, abs=1e-6)
    assert measure_fringe(picture, np.dstack([picture, alpha])) == pytest.approx(0.5, abs=0.02)


def test_no_fringe_where_nothing_can_be_seen() -> None:
    """An object of the ground's own colour, or one without an inside, has no fringe to speak of."""
    white = np.full((32, 32, 3), 255, np.uint8)
    assert measure_fringe(white, np.dstack([white, box((8, 8, 24, 24), size=32)])) == 0
    assert measure_fringe(white, np.dstack([white, np.zeros((32, 32), np.uint8)])) == 0


def test_shape_is_measured() -> None:
    """Coverage, contact with the edge, number of holes and their share of the filled outline."""
    shape = measure_shape(box((0, 16, 32, 48), (8, 24, 16, 32), (60, 60, 64, 64)))
    assert (shape.coverage, shape.num_holes) == (pytest.approx((1024 - 64) / 4096), 1)
    assert (shape.border, shape.hole_area) == (pytest.approx(32 / 252), pytest.approx(64 / 1024))


def test_limits_explain_themselves() -> None:
    """Limits that nothing could meet are refused when the config is read; so are cut-outs of another size."""
    with pytest.raises(ValidationError, match=r"min_coverage 0.9 leaves nothing below max_coverage 0.5"):
        CutoutGatesConfig(min_coverage=0.9, max_coverage=0.5)
    with pytest.raises(ValueError, match="must be uint8"):
        check_cutout(np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 4), np.uint8), CutoutGatesConfig())
