"""Settings as the `parameters` text that users of A1111's web UI, Civitai and picture viewers read.

    positive prompt <lora:name:0.8>
    Negative prompt: negative prompt
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768, Model hash: …, Model: …, Version: …

The form is that of `create_infotext` in its `modules/processing.py`; values with commas, colons or line ends are quoted
as JSON, as its `infotext_utils.quote` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from assetmill.deliver.facts import TOOL, Making, clean

SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "DDIMScheduler": "DDIM",
        "DDPMScheduler": "DDPM",
        "DEISMultistepScheduler": "DEIS",
        "DPMSolverMultistepScheduler": "DPM++ 2M",
        "DPMSolverSinglestepScheduler": "DPM++ 2S",
        "DPMSolverSDEScheduler": "DPM++ SDE",
        "EulerAncestralDiscreteScheduler": "Euler a",
        "EulerDiscreteScheduler": "Euler",
        "FlowMatchEulerDiscreteScheduler": "Euler",
        "FlowMatchHeunDiscreteScheduler": "Heun",
        "HeunDiscreteScheduler": "Heun",
        "KDPM2AncestralDiscreteScheduler": "DPM2 a",
        "KDPM2DiscreteScheduler": "DPM2",
        "LCMScheduler": "LCM",
        "LMSDiscreteScheduler": "LMS",
        "PNDMScheduler": "PLMS",
        "TCDScheduler": "TCD",
        "UniPCMultistepScheduler": "UniPC",
    }
)
"""The web UI's name of a sampler by diffusers' class. Others keep the name of their class."""

_NEGATIVE = "Negative prompt:"
_QUOTED = re.compile(r"[,:\n]")
_SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""One setting of the last line, as the web UI's `re_param` finds it."""


def settings_text(making: Making, tool: str = TOOL) -> str:
    """The `parameters` text of a picture; `tool` is what stands there as the version of the program.

    The form has no escape for its own words: in a prompt that holds `Negative prompt:` a space is put before the
    colon, so that no reader takes one prompt for the other. The exact texts stand in the XMP packet and the sidecar.
    """
    request = making.settings
    loras = [(making.adapter_name(a), a) for a in request.adapters if a.kind == "lora"]
    positive = " ".join([_harmless(request.positive), *(f"<lora:{name}:{a.weight:g}>" for name, a in loras)]).strip()
    negative = _harmless(request.negative)
    settings = {
        "Steps": request.steps,
        "Sampler": sampler_name(request.scheduler),
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": request.revision[:10],
        "Model": request.model,
        "Denoising strength": "" if request.strength is None else f"{request.strength:g}",
        "Hires upscale": f"{making.scale:g}" if making.upscaler and making.scale > 1 else "",
        "Hires upscaler": making.upscaler if making.scale > 1 else "",
        "Lora hashes": ", ".join(f"{name}: {a.sha256[:10]}" for name, a in loras),
        "Version": tool,
    }
    last = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items() if value != "")
    return "\n".join(filter(None, (positive, f"{_NEGATIVE} {negative}" if negative else "", last)))


def sampler_name(scheduler: str) -> str:
    """The web UI's name of a diffusers scheduler; of one it does not know the class without `Scheduler`."""
    return SAMPLERS.get(scheduler) or scheduler.removesuffix("Scheduler") or "default"


def read_settings(text: str) -> dict[str, str]:
    """The fields of a `parameters` text: `Prompt`, `Negative prompt` and the settings under their own names."""
    *lines, last = text.strip().split("\n")
    found = dict(_SETTING.findall(last))
    if len(found) < 3:
        lines, found = [*lines, last], {}
    positive, _, negative = "\n".join(lines).partition(_NEGATIVE)
    return {
        "Prompt": positive.strip(),
        "Negative prompt": negative.strip(),
        **{name: _unquoted(value) for name, value in found.items()},
    }


def _harmless(text: str) -> str:
    return clean(text).replace(_NEGATIVE, "Negative prompt :")


def _quoted(value: str) -> str:
    value = clean(value)
    return json.dumps(value, ensure_ascii=False) if _QUOTED.search(value) else value


def _unquoted(value: str) -> str:
    value = value.strip()
    if value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            pass  # quotation marks of the value itself
    return value
