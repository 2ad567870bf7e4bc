"""Kept products on their way through a chunk: put back into what the engine made, measured, drawn for people.

A `keep-product` candidate is measured as it was made (a product that the model redrew no longer fits its scene), then
gets the original's pixels back; its master gets them again at its own size, from the reference where that is large
enough. What was measured stands in the records of the gate `product`, with a heat map's blob named beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assetmill.config import GatesConfig
from assetmill.curate.gates import Verdict
from assetmill.curate.product_lock import (
    HELD,
    SOFT,
    ChangeLimits,
    check_change,
    draw_heat,
    held_area,
    measure_change,
    put_back,
)
from assetmill.engines.framing import frame, of_role
from assetmill.records import GateRecord, Request
from assetmill.storage.fold import AssetHistory

if TYPE_CHECKING:
    import numpy as np

GATE = "product"
HEAT = "product-heat"
"""The gate whose passed record names the blob of a candidate's heat map."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A picture with its product put back, uint8 (H, W, 3), the verdicts on it, and where the model had changed it."""

    pixels: np.ndarray
    verdicts: tuple[Verdict, ...]
    heat: np.ndarray


def keeps_product(request: Request) -> bool:
    """Whether a request's pictures get their original's product back."""
    return request.operation == "keep-product"


def lock_candidate(
    made: np.ndarray, request: Request, references: Mapping[str, np.ndarray], config: GatesConfig
) -> Locked:
    """A candidate uint8 (H, W, 3) as the engine made it, measured and then locked.

    `references` maps blobs to uint8 arrays, as engines get them.
    """
    original, keep = _framed(request, references, request.width, request.height)
    strayed = check_change(measure_change(made, original, keep), _limits(config), GATE)
    locked = put_back(made, original, keep)
    verdicts = [strayed]
    if strayed.passed:
        held = check_change(measure_change(locked, original, held_area(keep)), HELD, GATE)
        verdicts = [strayed if held.passed else held]
    return Locked(locked, tuple(verdicts), draw_heat(made, original, keep))


def lock_master(
    large: np.ndarray, request: Request, references: Mapping[str, np.ndarray], config: GatesConfig
) -> tuple[np.ndarray, Verdict]:
    """An upscaled picture with its product put back at its own size, and what was measured.

    Where the reference has fewer pixels than the master, enlarging it would give a blurred product in a sharp scene:
    the upscaler's is kept, and compared with the original at the base size.
    """
    height, width = large.shape[:2]
    (init,) = of_role(request, "init")
    rows, columns = references[init.blob].shape[:2]
    if min(columns / width, rows / height) < 1:
        from PIL import Image

        original, keep = _framed(request, references, request.width, request.height)
        small = Image.fromarray(large[..., :3]).resize((request.width, request.height), Image.Resampling.BOX)
        return large, check_change(measure_change(_array(small), original, held_area(keep)), _limits(config), GATE)
    original, keep = _framed(request, references, width, height)
    soft = SOFT * width / request.width
    locked = put_back(large[..., :3], original, keep, width=soft)
    return locked, check_change(measure_change(locked, original, held_area(keep, width=soft)), HELD, GATE)


def earlier_verdicts(key: str, history: AssetHistory | None) -> tuple[Verdict, ...]:
    """What was measured when a stored candidate was made: its picture is locked, so that it cannot be told again."""
    gates: Sequence[GateRecord] = history.gates if history is not None else ()
    found = [g for g in gates if (g.subject, g.gate, g.stage) == (key, GATE, "candidate")]
    return tuple(Verdict(g.gate, g.passed, g.reason, g.value) for g in found[-1:])


# --- inside -------------------------------------------------------------------------------------------------


def _framed(
    request: Request, references: Mapping[str, np.ndarray], width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Original and mask of what to keep, as engines see them, at a size of the request's shape."""
    (init,), (mask,) = of_role(request, "init"), of_role(request, "mask")
    return _array(frame(references[init.blob], width, height)), _array(frame(references[mask.blob], width, height))


def _array(image: object) -> np.ndarray:
    import numpy as np

    return np.asarray(image).copy()


def _limits(config: GatesConfig) -> ChangeLimits:
    return ChangeLimits(most=255.0, mean=config.product_mean, ssim=config.product_ssim)
