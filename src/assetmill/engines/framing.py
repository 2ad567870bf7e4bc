"""Reference pictures brought to the size of a request: scaled until they cover it, the rest cropped at the centre."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assetmill.engines.protocols import EngineError
from assetmill.records import Reference, Request


def frame(picture: np.ndarray, width: int, height: int) -> Any:
    """A picture (H, W, 3) or mask (H, W), uint8, as a PIL image of width x height (RGB or L).

    The one rule for all reference images: scaled to cover the size (Lanczos; bilinear for masks, which must not ring),
    then cropped at the centre. A picture that has the size already is not touched.
    """
    from PIL import Image

    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise EngineError(
            f"a reference has shape {picture.shape} and type {picture.dtype}; uint8 (H, W, 3), or (H, W) for masks"
        )
    image = Image.fromarray(picture)
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    crop_width, crop_height = width * scale, height * scale
    left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    resample = Image.Resampling.BILINEAR if picture.ndim == 2 else Image.Resampling.LANCZOS
    return image.resize((width, height), resample, box=box)


def framed(batch: Sequence[Request], role: str, pictures: Mapping[str, np.ndarray], index: int = 0) -> list[Any]:
    """The `index`-th reference of a role of each request, framed to the request's size: PIL images, L for masks."""
    made: dict[str, Any] = {}
    out = []
    for request in batch:
        blob = of_role(request, role)[index].blob
        if blob not in made:
            picture = _look_up(pictures, blob, role)
            if role == "mask" and picture.ndim != 2:
                raise EngineError(f"the mask {blob[:12]} has shape {picture.shape}; give it as one channel, (H, W)")
            made[blob] = frame(picture, request.width, request.height)
        out.append(made[blob])
    return out


def check_masks(batch: Sequence[Request], pictures: Mapping[str, np.ndarray]) -> None:
    """Raises EngineError for a mask of another size than its picture: which of its pixels are meant is unknown."""
    for request in batch:
        (init,), (mask,) = of_role(request, "init"), of_role(request, "mask")
        picture, marked = _look_up(pictures, init.blob, "init"), _look_up(pictures, mask.blob, "mask")
        if picture.shape[:2] != marked.shape[:2]:
            sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (marked.shape, picture.shape))
            raise EngineError(
                f"a mask of another size: mask {mask.blob[:12]} and picture {init.blob[:12]} have {sizes} pixels; "
                "make the mask as large as its picture"
            )


def of_role(request: Request, role: str) -> list[Reference]:
    """The references of a request that play a role, in their order."""
    return [reference for reference in request.references if reference.role == role]


def compose(made: Any, kept: Any, masks: Any) -> Any:
    """`made` where the mask is 1, `kept` where it is 0, mixed between: floats (N, 3, H, W), masks (N, 1, H, W)."""
    return made * masks + kept * (1 - masks)


# --- inside -------------------------------------------------------------------------------------------------


def _look_up(pictures: Mapping[str, np.ndarray], blob: str, role: str) -> np.ndarray:
    if blob not in pictures:
        raise EngineError(f"the reference {blob[:12]} ({role}) was not given to the engine")
    return pictures[blob]
