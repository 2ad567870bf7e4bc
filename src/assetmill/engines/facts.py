"""What is known of model families, models and licences without opening them. A frozen table, no imports.

Defaults follow the model cards; a config overrides them, and so does an `assetmill.json` in the model's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Family:
    """One pipeline class of diffusers. `size` 0: read from the folder. `token_part` is the tokenizer's folder.

    `gib_per_image` is a start for the batch size on a GPU: GiB of activations per image of 1024 x 1024 pixels.
    """

    name: str
    steps: int
    guidance: float
    size: int = 0
    size_multiple: int = 8
    guidance_kind: str = "classifier-free"
    cuts: bool = False
    token_part: str = "tokenizer"
    token_limit: int | None = None
    gib_per_image: float = 4.0
    option_names: tuple[str, ...] = ()


_SD_OPTIONS = ("clip_skip", "eta", "guidance_rescale")

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "StableDiffusionPipeline": Family("stable-diffusion", 30, 7.5, cuts=True, option_names=_SD_OPTIONS),
        "StableDiffusionXLPipeline": Family("stable-diffusion-xl", 30, 5.0, cuts=True, option_names=_SD_OPTIONS),
        "StableDiffusion3Pipeline": Family(
            "stable-diffusion-3", 28, 7.0, size=1024, size_multiple=16, token_part="tokenizer_3", token_limit=256,
        ),
        "FluxPipeline": Family(
            "flux", 28, 3.5, size=1024, size_multiple=16, guidance_kind="distilled",
            token_part="tokenizer_2", token_limit=512,
        ),
        "Flux2Pipeline": Family("flux2", 50, 4.0, size=1024, size_multiple=16, guidance_kind="distilled"),
        "LatentConsistencyModelPipeline": Family("lcm", 4, 8.5, guidance_kind="distilled"),
        "PixArtAlphaPipeline": Family("pixart", 20, 4.5, size=1024, token_limit=120),
        "PixArtSigmaPipeline": Family("pixart", 20, 4.5, size=1024, token_limit=300),
        "SanaPipeline": Family("sana", 20, 4.5, size=1024, size_multiple=32, token_limit=300),
        "ZImagePipeline": Family("z-image", 9, 5.0, size=1024, size_multiple=16, token_limit=512),
        "QwenImagePipeline": Family("qwen-image", 50, 0.0, size=1024, size_multiple=16, guidance_kind="none"),
        "HunyuanDiTPipeline": Family("hunyuan-dit", 50, 5.0, size=1024, size_multiple=16),
        "KolorsPipeline": Family("kolors", 50, 5.0, size=1024),
        "LuminaPipeline": Family("lumina", 30, 4.0, size=1024, size_multiple=16),
        "Lumina2Pipeline": Family("lumina2", 30, 4.0, size=1024, size_multiple=16),
        "AuraFlowPipeline": Family("aura-flow", 50, 3.5, size=1024, size_multiple=16),
        "CogView4Pipeline": Family("cogview4", 50, 5.0, size=1024, size_multiple=32),
    }
)  # fmt: skip
"""Pipeline classes whose defaults are known. Others load too, when a config gives steps, guidance and size."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's card says. `guidance_kind` empty: the family's."""

    licence: str
    steps: int = 0
    guidance: float | None = None
    size: int = 0
    gib: float = 0.0
    guidance_kind: str = ""


MODELS: Mapping[str, ModelFacts] = MappingProxyType(
    {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": ModelFacts("creativeml-openrail-m", size=512, gib=2.6),
        "stabilityai/stable-diffusion-xl-base-1.0": ModelFacts("openrail++", size=1024, gib=6.6),
        "stabilityai/sdxl-turbo": ModelFacts("sai-nc-community", 1, 0.0, 512, 6.6),
        "stabilityai/sd-turbo": ModelFacts("sai-nc-community", 1, 0.0, 512, 2.6),
        "stabilityai/stable-diffusion-3.5-medium": ModelFacts("stabilityai-ai-community", 40, 4.5, 1024, 15.0),
        "stabilityai/stable-diffusion-3.5-large": ModelFacts("stabilityai-ai-community", 28, 3.5, 1024, 26.0),
        "black-forest-labs/FLUX.1-schnell": ModelFacts("apache-2.0", 4, 0.0, 1024, 32.0, "none"),
        "black-forest-labs/FLUX.1-dev": ModelFacts("flux-1-dev-non-commercial-license", 28, 3.5, 1024, 32.0),
    }
)
"""Models by hub id, with the settings their cards recommend."""

COMMERCIAL: Mapping[str, bool] = MappingProxyType(
    {
        "apache-2.0": True,
        "mit": True,
        "bsd-3-clause": True,
        "cc0-1.0": True,
        "cc-by-4.0": True,
        "openrail": True,
        "openrail++": True,
        "creativeml-openrail-m": True,
        "cc-by-nc-4.0": False,
        "cc-by-nc-sa-4.0": False,
        "sai-nc-community": False,
        "stabilityai-non-commercial-research-community": False,
        "flux-1-dev-non-commercial-license": False,
        "apple-amlr": False,
        "apple-ascl": False,
    }
)
"""Whether a licence allows commercial use (with its conditions). A licence that is not listed counts as unknown."""


def may_sell(licence: str) -> bool | None:
    """Whether a licence allows commercial use; None where that is not known here."""
    return COMMERCIAL.get(licence.lower())


SCHEDULERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "diffusion": (
            "DDIMScheduler",
            "DDPMScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LCMScheduler",
            "PNDMScheduler",
            "TCDScheduler",
            "UniPCMultistepScheduler",
        ),
        "flow": (
            "DPMSolverMultistepScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
            "UniPCMultistepScheduler",
        ),
    }
)
"""Schedulers of diffusers that a config may name, by what the model was trained as.

Left out: DPMSolverSDEScheduler, whose noise comes from one tree for the whole batch, so that a picture would depend on
its neighbours; LMSDiscreteScheduler and DEISMultistepScheduler, which need SciPy.
"""
