"""Kept products on their way through a chunk: put back into what the engine made, measured, drawn for people.

A `keep-product` candidate is measured as it was made (a product that the model redrew no longer fits its scene), then
gets the original's pixels back; its master gets them again at its own size, from the reference where that is large
enough. What was measured stands in the records of these gates, with a heat map's blob named beside it.
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

GATE, SSIM_GATE, HELD_GATE = "product", "product-ssim", "product-held"
"""Gates: how far the model had strayed (mean difference, structural similarity), and what came of putting it back."""

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
    strayed = measure_change(made, original, keep)
    locked = put_back(made, original, keep)
    held = check_change(measure_change(locked, original, held_area(keep)), HELD, HELD_GATE)
    verdicts = (_check_mean(strayed.mean, config), _check_ssim(strayed.ssim, config), held)
    return Locked(locked, verdicts, draw_heat(made, original, keep))


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
        limits = ChangeLimits(most=255.0, mean=config.product_mean, ssim=config.product_ssim)
        return large, check_change(measure_change(_array(small), original, held_area(keep)), limits, HELD_GATE)
    original, keep = _framed(request, references, width, height)
    soft = SOFT * width / request.width
    locked = put_back(large[..., :3], original, keep, width=soft)
    return locked, check_change(measure_change(locked, original, held_area(keep, width=soft)), HELD, HELD_GATE)


def earlier_verdicts(key: str, history: AssetHistory | None, config: GatesConfig) -> tuple[Verdict, ...]:
    """What was measured when a stored candidate was made, held against today's limits.

    The stored picture is locked already, so that it cannot tell how far the model had strayed.
    """
    gates: Sequence[GateRecord] = history.gates if history is not None else ()
    found = {g.gate: g for g in gates if (g.subject, g.stage) == (key, "candidate")}
    verdicts = []
    for name, check in ((GATE, _check_mean), (SSIM_GATE, _check_ssim)):
        if name in found and (value := found[name].value) is not None:
            verdicts.append(check(value, config))
    if HELD_GATE in found:
        held = found[HELD_GATE]
        verdicts.append(Verdict(held.gate, held.passed, held.reason, held.value))
    return tuple(verdicts)


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


def _check_mean(mean: float, config: GatesConfig) -> Verdict:
    limit, passed = config.product_mean, mean <= config.product_mean
    reason = "" if passed else f"the model changed the product by {mean:.1f} of 255 on average (limit {limit:g})"
    return Verdict(GATE, passed, reason, round(mean, 4))


def _check_ssim(ssim: float, config: GatesConfig) -> Verdict:
    limit, passed = config.product_ssim, ssim >= config.product_ssim
    reason = "" if passed else f"the product as the model made it has an SSIM of {ssim:.3f} (limit {limit:g})"
    return Verdict(SSIM_GATE, passed, reason, round(ssim, 4))
