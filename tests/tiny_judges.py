"""Judges and safety checks of the real architectures at tiny sizes with random weights, in folders like a user's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tiny_models import _clip_tokenizer, _text_config

_HALF = (0.5, 0.5, 0.5)
_OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_VIT = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}

OPEN_CLIP: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        # timm's SigLIP tower: attention pooling and no projection; its text tower reads without a causal mask
        "SigLIP2": {
            "model_cfg": {
                "embed_dim": 64, "init_logit_bias": -10, "custom_text": True,
                "vision_cfg": {
                    "image_size": 160, "timm_model_name": "test_vit2", "timm_model_pretrained": False,
                    "timm_pool": "map", "timm_proj": "none",
                },
                "text_cfg": {
                    **_TEXT, "context_length": 64, "width": 64, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2",
                    "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True, "proj_bias": True,
                    "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
                },
            },
            "preprocess_cfg": {"mean": _HALF, "std": _HALF, "interpolation": "bicubic", "resize_mode": "squash"},
        },
        # PE-Core's smallest tower as it is: rotary positions, attention pooling, a projection of its own
        "PE-Core": {
            "model_cfg": {
                "embed_dim": 32, "custom_text": True,
                "vision_cfg": {
                    "image_size": 384, "timm_model_name": "vit_pe_core_tiny_patch16_384",
                    "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": None,
                },
                "text_cfg": {**_TEXT, "context_length": 32},
            },
            "preprocess_cfg": {"mean": _HALF, "std": _HALF, "interpolation": "bilinear", "resize_mode": "squash"},
        },
        # MobileCLIP 2: a convolutional FastViT, pictures in [0, 1], text without a causal mask
        "MobileCLIP2": {
            "model_cfg": {
                "embed_dim": 32, "custom_text": True,
                "vision_cfg": {
                    "image_size": 64, "timm_model_name": "fastvit_mci0", "timm_model_pretrained": False,
                    "timm_pool": "avg", "timm_proj": None, "timm_drop": 0.0, "timm_drop_path": 0.0,
                },
                "text_cfg": {**_TEXT, "no_causal_mask": True},
            },
            "preprocess_cfg": {
                "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear", "resize_mode": "shortest",
            },
        },
        "MetaCLIP": {
            "model_cfg": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": _VIT, "text_cfg": _TEXT},
            "preprocess_cfg": {**_OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"},
        },
        "DFN": {
            "model_cfg": {
                "embed_dim": 32, "quick_gelu": True, "vision_cfg": {**_VIT, "image_size": 40}, "text_cfg": _TEXT,
            },
            "preprocess_cfg": {**_OPENAI, "interpolation": "bicubic", "resize_mode": "squash"},
        },
    }
)  # fmt: skip
"""Architectures as open_clip's own configs describe them, with fewer and narrower layers where the config decides."""


def write_open_clip(folder: Path, name: str, *, card: str = "") -> Path:
    """An open_clip folder of one of OPEN_CLIP, with its own tokenizer where it has one."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = deepcopy(OPEN_CLIP[name])
    torch.manual_seed(11)
    folder.mkdir(parents=True)
    model_config = dict(config["model_cfg"])
    build = open_clip.CustomTextCLIP if model_config.pop("custom_text", False) else open_clip.CLIP
    save_file(build(**model_config).state_dict(), str(folder / "open_clip_model.safetensors"))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
        _clip_tokenizer(folder.parent).save_pretrained(str(folder))
    if card:
        (folder / "README.md").write_text(f"---\nlicense: {card}\n---\n")
    return folder


def write_pickscore(folder: Path, *, card: str = "") -> Path:
    """A CLIPModel with its processor, as PickScore lies on the hub."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(12)
    tokenizer = _clip_tokenizer(folder.parent)
    config = CLIPConfig(
        text_config=_text_config(tokenizer).to_dict(), vision_config=_vision_config(), projection_dim=32,
        logit_scale_init_value=4.6052,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(str(folder))
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    if card:
        (folder / "README.md").write_text(f"---\nlicense: {card}\n---\n")
    return folder


def write_siglip(folder: Path) -> Path:
    """A SiglipModel with its processor (its tokenizer is CLIP's here)."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(13)
    tokenizer = _clip_tokenizer(folder.parent)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    SiglipModel(SiglipConfig(text_config=text, vision_config=_vision_config())).save_pretrained(str(folder))
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def write_head(file: Path, widths: tuple[int, ...] = (32, 16, 8, 1), **metadata: str) -> Path:
    """An aesthetic head as LAION's: `layers.0`, `layers.2` … over embeddings of unit length."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(14)
    state = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        layer = torch.nn.Linear(before, after)
        state |= {f"layers.{2 * number}.weight": layer.weight, f"layers.{2 * number}.bias": layer.bias}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().contiguous() for n, t in state.items()}, str(file), metadata=metadata or None)
    return file


def write_safety_checker(folder: Path) -> Path:
    """Stable Diffusion's safety checker with concepts that random pictures fall on either side of."""
    import torch
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    torch.manual_seed(15)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=_vision_config(), projection_dim=32))
    with torch.no_grad():
        model.concept_embeds.copy_(torch.randn(17, 32))
        model.special_care_embeds.copy_(torch.randn(3, 32))
        model.concept_embeds_weights.fill_(0.9)
        model.special_care_embeds_weights.fill_(0.9)
    model.save_pretrained(str(folder))
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(str(folder))
    return folder


def write_classifier(folder: Path) -> Path:
    """A ViTForImageClassification with the labels `normal` and `nsfw`."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(16)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32,
            patch_size=8, id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1},
        )
    )  # fmt: skip
    with torch.no_grad():
        model.classifier.weight.mul_(50)  # random weights else find every picture alike
    model.save_pretrained(str(folder))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(str(folder))
    return folder


def _vision_config() -> dict[str, Any]:
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "projection_dim": 32,
    }  # fmt: skip
