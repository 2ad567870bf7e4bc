"""Which schedulers a model can be sampled with, and how one class takes over another's noise settings. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assetmill.engines import facts

_NOT_NOISE = ("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler", "HeunDiscreteScheduler")
"""Classes that clip predicted pixels to [-1, 1] unless told otherwise; latents reach further."""


def is_flow(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a scheduler, by its class and config, is one of a model trained by flow matching."""
    return name.startswith("FlowMatch") or bool(settings.get("use_flow_sigmas"))


def scheduler_names(family: facts.Family | None, own: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes a config may name for a model that ships the class `own` with these settings."""
    kind = family.schedulers if family else ""
    names = facts.SCHEDULERS[kind or ("flow" if is_flow(own, settings) else "diffusion")]
    return tuple(sorted({*names, own} - {""}))


def settings_for(name: str, own: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped settings with what the class `name` has to be told besides, to sample the same model.

    What one class implies another must be told: that the model was trained by flow matching (else its output would be
    read as noise), by how much its noise levels are shifted, and that latents are not clipped like pixels.
    """
    out = dict(settings)
    if name in ("", own):
        return out
    if is_flow(own, settings):
        shift = settings.get("shift", settings.get("flow_shift", 1.0))
        if name.startswith("FlowMatch"):
            return {**out, "shift": shift}
        return {**out, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    if name in _NOT_NOISE:
        out.setdefault("clip_sample", False)
    if name == "PNDMScheduler":
        out.setdefault("skip_prk_steps", True)  # as it was made for latents; its first steps need four times as many
    return out
