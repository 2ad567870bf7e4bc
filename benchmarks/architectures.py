"""The real shapes of well-known models with random weights: nothing is downloaded, nothing is good to look at.

The figures in the configs are those of the public `config.json` files. Weights decide no time: a matrix product takes
as long on noise as on what was learnt. Each model also has a tiny twin of the same classes, so that the same code
runs on a CPU within seconds.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

TOKENS = 77
"""Tokens that CLIP's text encoders read."""


@dataclass(frozen=True, slots=True)
class Part:
    """One network: a class of diffusers or transformers, and the config it is built from."""

    library: str
    kind: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A text-to-image pipeline by its parts. `steps`, `guidance` and `text_tokens` are those its card recommends.

    `scheduler` makes one forward per step, so that F and P count the same forwards. `images` is a work list long enough
    for its end (the last chunk's encoding) not to matter.
    """

    name: str
    pipeline: str
    parts: Mapping[str, Part]
    scheduler: tuple[str, Mapping[str, Any]]
    size: int
    steps: int
    guidance: float
    images: int
    text_tokens: int = TOKENS
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def denoiser(self) -> str:
        return "unet" if "unet" in self.parts else "transformer"

    @property
    def guided(self) -> bool:
        """Whether each step takes two forwards (classifier-free guidance)."""
        return self.guidance > 1

    @property
    def latent_factor(self) -> int:
        """Pixels per latent along an edge."""
        return 2 ** (len(self.parts["vae"].config["block_out_channels"]) - 1)


@dataclass(frozen=True, slots=True)
class Upscaling:
    """An RRDB network (ESRGAN, Real-ESRGAN ×4): 3 channels in and out."""

    features: int
    blocks: int
    scale: int = 4


# --- the true shapes ------------------------------------------------------------------------------------------

_CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip
_CLIP_BIG_G = {
    "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
_T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_EULER = ("EulerDiscreteScheduler", {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
})  # fmt: skip

SD15 = Architecture(
    "sd15", "StableDiffusionPipeline",
    {
        "unet": Part("diffusers", "UNet2DConditionModel", {
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "cross_attention_dim": 768, "attention_head_dim": 8,
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        }),
        "vae": Part("diffusers", "AutoencoderKL", {**_VAE, "sample_size": 512, "scaling_factor": 0.18215}),
        "text_encoder": Part("transformers", "CLIPTextModel", _CLIP_L),
    },
    _EULER, size=512, steps=20, guidance=7.5, images=256,
    options={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)  # fmt: skip

SDXL = Architecture(
    "sdxl", "StableDiffusionXLPipeline",
    {
        "unet": Part("diffusers", "UNet2DConditionModel", {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        }),
        "vae": Part("diffusers", "AutoencoderKL", {
            **_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True,
        }),
        "text_encoder": Part("transformers", "CLIPTextModel", _CLIP_L),
        "text_encoder_2": Part("transformers", "CLIPTextModelWithProjection", _CLIP_BIG_G),
    },
    _EULER, size=1024, steps=20, guidance=5.0, images=64,
    options={"force_zeros_for_empty_prompt": True, "add_watermarker": False},
)  # fmt: skip

FLUX = Architecture(
    "flux-schnell", "FluxPipeline",
    {
        "transformer": Part("diffusers", "FluxTransformer2DModel", {
            "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
            "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
            "guidance_embeds": False, "axes_dims_rope": (16, 56, 56),
        }),
        "vae": Part("diffusers", "AutoencoderKL", {
            **_VAE, "latent_channels": 16, "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
            "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True,
        }),
        "text_encoder": Part("transformers", "CLIPTextModel", _CLIP_L),
        "text_encoder_2": Part("transformers", "T5EncoderModel", _T5_XXL),
    },
    ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0, "use_dynamic_shifting": False}),
    size=1024, steps=4, guidance=0.0, images=64, text_tokens=256,
)  # fmt: skip

JUDGES = {
    "ViT-B-32": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "ViT-L-14": {
        "embed_dim": 768,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    },
}
RRDB_X4 = Upscaling(features=64, blocks=23)

MODELS = {a.name: a for a in (SD15, SDXL, FLUX)}


# --- the same classes, tiny -----------------------------------------------------------------------------------


def tiny_twin(real: Architecture) -> Architecture:
    """The same classes and options with few and narrow layers: 64 × 64 pixels, two steps."""
    vae = {
        **real.parts["vae"].config, "block_out_channels": (16, 16), "layers_per_block": 1, "norm_num_groups": 8,
        "latent_channels": 4, "sample_size": 64, "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    parts = {**real.parts, "vae": replace(real.parts["vae"], config=vae)}
    for name in ("text_encoder", "text_encoder_2"):
        if name in parts:
            parts[name] = replace(parts[name], config={**parts[name].config, **_tiny_text(parts[name].kind)})
    if "unet" in parts:
        narrow: dict[str, Any] = {
            "sample_size": 32, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
            "attention_head_dim": 8, "cross_attention_dim": 32,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        }  # fmt: skip
        if "text_encoder_2" in parts:
            narrow |= {
                "cross_attention_dim": 64, "transformer_layers_per_block": 1, "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 32 + 6 * 8,
            }  # fmt: skip
        parts["unet"] = replace(parts["unet"], config={**parts["unet"].config, **narrow})
    else:
        narrow = {
            "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
        }  # fmt: skip
        parts["transformer"] = replace(parts["transformer"], config={**parts["transformer"].config, **narrow})
    return replace(real, parts=parts, size=64, steps=2, images=8)


def _tiny_text(kind: str) -> dict[str, Any]:
    if kind == "T5EncoderModel":
        return {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 1, "num_heads": 4}
    return {
        "hidden_size": 32, "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip


TINY_JUDGES = {
    "ViT-B-32": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}
TINY_RRDB = Upscaling(features=8, blocks=1)


def with_short_t5(real: Architecture) -> Architecture:
    """T5 with one layer in place of all: prompt embeddings of the true shape, some 9 GB less to build and load.

    For machines that cannot hold the encoder; it decides neither the denoiser's time nor the decoder's.
    """
    if real.parts.get("text_encoder_2", Part("", "", {})).kind != "T5EncoderModel":
        return real
    part = real.parts["text_encoder_2"]
    return replace(real, parts={**real.parts, "text_encoder_2": replace(part, config={**part.config, "num_layers": 1})})


# --- building -------------------------------------------------------------------------------------------------


def build_part(part: Part, device: Any, dtype: Any) -> Any:
    """A network with random weights, made on the device itself (`meta`: shapes without memory), ready to run."""
    import diffusers
    import transformers

    with _made_on(device, dtype):
        if part.library == "diffusers":
            network = getattr(diffusers, part.kind)(**part.config)
        else:
            kind = getattr(transformers, part.kind)
            marks = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
            network = kind(kind.config_class(**({} if "d_model" in part.config else marks), **part.config))
    return network.eval().requires_grad_(False)


def build_pipeline(architecture: Architecture, device: Any, dtype: Any, *, seed: int = 0) -> Any:
    """The whole pipeline with random weights on a device, tokenizers and scheduler included."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    parts = {name: build_part(part, device, dtype) for name, part in architecture.parts.items()}
    parts["tokenizer"] = clip_tokenizer()
    if "text_encoder_2" in parts:
        t5 = architecture.parts["text_encoder_2"].kind == "T5EncoderModel"
        parts["tokenizer_2"] = t5_tokenizer() if t5 else clip_tokenizer(pad_token="!")
    kind, settings = architecture.scheduler
    parts["scheduler"] = getattr(diffusers, kind)(**settings)
    return getattr(diffusers, architecture.pipeline)(**parts, **architecture.options)


def build_judge(config: Mapping[str, Any], device: Any, dtype: Any) -> Any:
    """open_clip's CLIP of a shape, with random weights."""
    import open_clip

    with _made_on(device, dtype):
        return open_clip.CLIP(**config).eval().requires_grad_(False)


def write_judge(folder: Path, config: Mapping[str, Any]) -> Path:
    """An open_clip folder of a shape with random weights, and CLIP's own preprocessing."""
    import torch
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from safetensors.torch import save_file

    torch.manual_seed(1)
    folder.mkdir(parents=True)
    save_file(build_judge(config, "cpu", torch.float32).state_dict(), str(folder / "open_clip_model.safetensors"))
    preprocess = {
        "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


def build_upscaler(shape: Upscaling, device: Any, dtype: Any) -> Any:
    """spandrel's RRDB network of a shape, with random weights."""
    from spandrel.architectures.ESRGAN import ESRGAN

    with _made_on(device, dtype):
        network = ESRGAN(num_filters=shape.features, num_blocks=shape.blocks, scale=shape.scale)
    return network.eval().requires_grad_(False)


def write_upscaler(file: Path, shape: Upscaling) -> Path:
    """A weight file that spandrel recognises as RRDB."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(2)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(build_upscaler(shape, "cpu", torch.float32).state_dict(), str(file))
    return file


@contextmanager
def _made_on(device: Any, dtype: Any) -> Iterator[None]:
    """New tensors are made on the device, floats in the format: no copy in float32 or in host memory on the way."""
    import torch

    was = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(was)


# --- tokenizers, from the vocabulary that open_clip carries -----------------------------------------------------


def clip_tokenizer(**settings: Any) -> Any:
    """CLIP's own tokenizer."""
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    merges = _merges()
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=merges, model_max_length=TOKENS, **settings
    )


def t5_tokenizer(*, pieces: int = 32_000) -> Any:
    """A tokenizer of T5's class and size over CLIP's commonest words: other splits, the same cost."""
    from transformers import T5Tokenizer

    found: dict[str, None] = {}
    for merge in _merges():
        word = "".join(merge)
        found["▁" + word.removesuffix("</w>") if word.endswith("</w>") else word] = None
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -12.0) for code in range(33, 127)]
    known = {name for name, _ in (*marks, *letters)}
    words = [word for word in found if word not in known][: pieces - len(marks) - len(letters)]
    scored = [(word, -math.log(rank + 2)) for rank, word in enumerate(words)]
    sentinels = [(f"<extra_id_{n}>", 0.0) for n in range(99, -1, -1)]
    return T5Tokenizer(vocab=[*marks, *letters, *scored, *sentinels], model_max_length=512)


def _merges() -> list[tuple[str, ...]]:
    import open_clip

    path = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    return [tuple(line.split()) for line in lines]
