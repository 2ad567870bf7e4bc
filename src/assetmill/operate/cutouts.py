"""Cut-outs of chosen pictures: by key, by a model, or from the transparency a picture came with; gated either way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from assetmill.config import Config, CutoutConfig
from assetmill.curate.cutout_gates import check_cutout
from assetmill.curate.gates import Verdict, rejection
from assetmill.deliver.cutout import EPOCH, apply_alpha, bleed, cut_out
from assetmill.deliver.renditions import needs_cutout
from assetmill.engines.protocols import Segmenter, SegmenterSpec
from assetmill.engines.registry import resolve_segmenter
from assetmill.records import InputError, Problem, content_key

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Cutter:
    """Takes objects off their ground. `key` names all that decides what comes out, and what is refused."""

    key: str
    config: CutoutConfig
    segmenter: Segmenter | None = None

    def cut(self, pixels: np.ndarray) -> tuple[np.ndarray, list[Verdict]]:
        """A picture's cut-out, uint8 (H, W, 4), and the gates' verdicts on it, the last one failed where it is no good.

        `pixels` is uint8 (H, W, 3), or (H, W, 4) of a picture that has its own transparency already.
        """
        if pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
            # Its colours were never mixed with a ground: there is nothing to take off, and no fringe to look for.
            rgba = bleed(pixels)
            return rgba, check_cutout(None, rgba, self.config.gates)
        plain = pixels[..., :3]
        if self.segmenter is not None:
            cutout = apply_alpha(plain, self.segmenter.segment(plain))
        else:
            cutout = cut_out(plain, tolerance=self.config.tolerance, holes=self.config.holes)
        share = cutout.ground.share if cutout.ground is not None else None
        return cutout.rgba, check_cutout(plain, cutout.rgba, self.config.gates, ground_share=share)


def wants_cutouts(config: Config) -> bool:
    """Whether any channel of a config has a rendition that is made from a cut-out."""
    return needs_cutout(config.publish.channels.values())


def resolve_cutouts(config: Config) -> SegmenterSpec | None:
    """The segmentation model that a config's cut-outs need; None for keyed ones and where nothing is cut out.

    Raises InputError where channels want cut-outs that the config turns off, or its model cannot be used.
    """
    if not wants_cutouts(config):
        return None
    if config.cutout.engine == "none":
        names = [name for name, channel in config.publish.channels.items() if needs_cutout([channel])]
        raise InputError(
            Problem(
                f"cutout.engine is none, but {', '.join(names)} wants cut-outs",
                "set cutout.engine to key or rembg, or give all its renditions `ground: keep`",
                column="cutout.engine",
            )
        )
    return resolve_segmenter(config.cutout, config.resolve)


def cutter_key(config: Config, segmenter_key: str = "") -> str:
    """Names how a config cuts out: engine, settings, thresholds; empty where nothing is cut out."""
    if not wants_cutouts(config):
        return ""
    settings = config.cutout
    payload = {"engine": settings.engine, "epoch": EPOCH, "gates": settings.gates.model_dump(mode="json")}
    if settings.engine == "key":
        payload |= {"tolerance": settings.tolerance, "holes": settings.holes}
    else:
        payload["segmenter"] = segmenter_key
    return content_key("cutter", payload)


def open_cutter(config: Config, segmenter: Segmenter | None) -> Cutter | None:
    """The cutter of a config, given its loaded model if it has one; None where nothing is cut out."""
    if not wants_cutouts(config):
        return None
    return Cutter(cutter_key(config, segmenter.key if segmenter is not None else ""), config.cutout, segmenter)


def is_clean(verdicts: list[Verdict]) -> bool:
    """Whether a cut-out passed all its gates."""
    return rejection(verdicts) is None
