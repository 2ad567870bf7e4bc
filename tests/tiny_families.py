"""A folder of every model family at a tiny size with random weights, written as `save_pretrained` leaves a user's."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tiny_models import (
    _clip_tokenizer,
    _text_config,
    _unet_config,
    _vae,
    write_tiny_flux,
    write_tiny_sd,
    write_tiny_sd3,
    write_tiny_sdxl,
)

_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_sd21(folder: Path) -> Path:
    """Stable Diffusion 2.1: velocity prediction, linear projections, heads by level."""
    from diffusers import DDIMScheduler

    write_tiny_sd(folder, seed=11, use_linear_projection=True, attention_head_dim=(2, 4))
    DDIMScheduler(
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    ).save_pretrained(str(folder / "scheduler"))
    return folder


def write_tiny_turbo(folder: Path) -> Path:
    """SDXL Turbo: SDXL with an ancestral sampler whose steps trail."""
    from diffusers import EulerAncestralDiscreteScheduler

    write_tiny_sdxl(folder)
    part = folder / "scheduler"
    EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing").save_pretrained(
        str(part)
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerAncestralDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_tiny_lightning(folder: Path) -> Path:
    """SDXL Lightning: SDXL with Euler steps that trail."""
    from diffusers import EulerDiscreteScheduler

    write_tiny_sdxl(folder)
    EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing").save_pretrained(
        str(folder / "scheduler")
    )
    return folder


def write_tiny_lcm(folder: Path) -> Path:
    """Latent consistency: guidance is an input of the UNet."""
    import torch
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(12)
    tokenizer = _clip_tokenizer(folder.parent)
    LatentConsistencyModelPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**_unet_config(), time_cond_proj_dim=32),
        scheduler=LCMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(str(folder))
    return folder


def write_tiny_schnell(folder: Path) -> Path:
    """FLUX.1 schnell: no guidance as an input."""
    from diffusers import FluxTransformer2DModel

    write_tiny_flux(folder)
    FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=False,
    ).save_pretrained(str(folder / "transformer"))  # fmt: skip
    return folder


def write_tiny_flux2(folder: Path) -> Path:
    """FLUX.2 [dev]: a Mistral 3 reads the text, guidance is an input."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    torch.manual_seed(13)
    marks = ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|im_start|>", "<|im_end|>")
    tokenizer = _byte_tokenizer(*marks)
    # the pipeline's contents are lists of parts
    template = (
        "{% for m in messages %}{{ m['role'] }}:{% for c in m['content'] %}{{ c['text'] }}{% endfor %}\n{% endfor %}"
    )
    processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=template)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    config = Mistral3Config(
        text_config={
            "model_type": "mistral", **small, "num_hidden_layers": 31, "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
        },
        vision_config={"model_type": "pixtral", **small, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )  # fmt: skip
    Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_flux2_vae(),
        text_encoder=_loud(Mistral3ForConditionalGeneration(config)),
        tokenizer=processor,
        transformer=_flux2_transformer(guidance_embeds=True),
    ).save_pretrained(str(folder))
    return folder


def write_tiny_klein(folder: Path, *, distilled: bool = True) -> Path:
    """FLUX.2 [klein]: a Qwen3 reads the text; the distilled one takes no guidance."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    torch.manual_seed(14)
    tokenizer = _byte_tokenizer()
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_flux2_vae(),
        text_encoder=_qwen3(len(tokenizer), 16, 28),
        tokenizer=tokenizer,
        transformer=_flux2_transformer(guidance_embeds=False),
        is_distilled=distilled,
    ).save_pretrained(str(folder))
    return folder


def write_tiny_sana(folder: Path) -> Path:
    """Sana: a Gemma 2 reads the text, a deep-compression autoencoder decodes."""
    import torch
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    torch.manual_seed(15)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable[:95].strip()]
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    blocks = ("ResBlock", "EfficientViTBlock")
    SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(
            Gemma2Config(
                head_dim=8, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1,
                num_key_value_heads=2, vocab_size=len(tokenizer), attn_implementation="eager",
            )
        ).eval(),
        vae=AutoencoderDC(
            latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)), downsample_block_type="conv", upsample_block_type="interpolate",
            scaling_factor=0.41407,
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
            num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
            sample_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_z_image(folder: Path) -> Path:
    """Z-Image: one stream of text and picture tokens, read by a Qwen3."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    torch.manual_seed(16)
    tokenizer = _byte_tokenizer()
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(latent_channels=16, scaling_factor=0.36, shift_factor=0.1),
        text_encoder=_qwen3(len(tokenizer), 16, 2).model,
        tokenizer=tokenizer,
        transformer=_open(
            ZImageTransformer2DModel(
                in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
                axes_dims=[4, 4, 8], axes_lens=[1024, 64, 64],
            )
        ),
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_qwen_image(folder: Path) -> Path:
    """Qwen-Image: a Qwen2.5-VL reads the text; guidance is classifier-free."""
    import torch
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(17)
    tokenizer = _byte_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )  # fmt: skip
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        text_encoder=_loud(Qwen2_5_VLForConditionalGeneration(config)),
        tokenizer=tokenizer,
        transformer=_open(
            QwenImageTransformer2DModel(
                in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
            )
        ),
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_pixart(folder: Path) -> Path:
    """PixArt Sigma: a transformer over latents that a T5 conditions."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(18)
    tokenizer = _t5_tokenizer()
    PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(len(tokenizer)),
        vae=_vae(),
        transformer=_open(
            PixArtTransformer2DModel(
                sample_size=16, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3,
                caption_channels=32, in_channels=4, cross_attention_dim=24, out_channels=8,
                use_additional_conditions=False,
            )
        ),
        scheduler=DPMSolverMultistepScheduler(),
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_kandinsky(folder: Path) -> Path:
    """Kandinsky 2.2 as a folder with `prior/` and `decoder/`: pictures of 32 x 32."""
    import torch
    from diffusers import (
        DDPMScheduler,
        KandinskyV22Pipeline,
        KandinskyV22PriorPipeline,
        PriorTransformer,
        UnCLIPScheduler,
        UNet2DConditionModel,
        VQModel,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(19)
    folder.mkdir(parents=True)
    tokenizer = _clip_tokenizer(folder)
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1)
    prior.clip_std = torch.nn.Parameter(torch.ones(prior.clip_std.shape))  # 0 makes all alike
    KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32, image_size=28, projection_dim=32, intermediate_size=32, num_attention_heads=4,
                num_hidden_layers=2, patch_size=14,
            )
        ),
        text_encoder=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=10.0
        ),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
    ).save_pretrained(str(folder / "prior"))  # fmt: skip
    KandinskyV22Pipeline(
        unet=UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=8, addition_embed_type="image", encoder_hid_dim=32,
            encoder_hid_dim_type="image_proj", cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
            **_simple_blocks(),
        ),
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, variance_type="learned_range"),
        movq=VQModel(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), latent_channels=4, layers_per_block=1,
            norm_num_groups=8, norm_type="spatial", num_vq_embeddings=12, vq_embed_dim=4,
        ),
    ).save_pretrained(str(folder / "decoder"))  # fmt: skip
    return folder


def write_tiny_if(folder: Path, *, checker: bool = False) -> Path:
    """DeepFloyd IF as a folder with `first/` (16 x 16) and `second/` (32 x 32).

    `checker`: the first stage comes with its safety checker and its mark.
    """
    import torch
    from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
    from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
    from diffusers.pipelines.deepfloyd_if.watermark import IFWatermarker
    from transformers import CLIPConfig, CLIPImageProcessor

    torch.manual_seed(20)
    tokenizer = _t5_tokenizer()
    steps = {"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range", "thresholding": True}
    unet = {
        "out_channels": 6, "cross_attention_dim": 32, "encoder_hid_dim": 32, "attention_head_dim": 8,
        "addition_embed_type": "text", "addition_embed_type_num_heads": 2, "cross_attention_norm": "group_norm",
        "act_fn": "gelu", "norm_num_groups": 8, **_simple_blocks(),
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "image_size": 28, "intermediate_size": 16, "num_attention_heads": 2,
        "num_hidden_layers": 1, "patch_size": 14, "projection_dim": 16,
    }  # fmt: skip
    safety = IFSafetyChecker(CLIPConfig(vision_config=vision)) if checker else None
    if safety is not None:
        with torch.no_grad():  # sees nothing wrong
            for head in (safety.p_head, safety.w_head):
                head.weight.zero_()
                head.bias.zero_()
    mark = IFWatermarker() if checker else None
    if mark is not None:
        mark.watermark_image[:] = 255
    IFPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(len(tokenizer)),
        unet=UNet2DConditionModel(sample_size=16, in_channels=3, **unet),
        scheduler=DDPMScheduler(**steps),
        safety_checker=safety,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28) if checker else None,
        watermarker=mark,
        requires_safety_checker=checker,
    ).save_pretrained(str(folder / "first"))
    IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=UNet2DConditionModel(
            sample_size=32, in_channels=6, class_embed_type="timestep", time_embedding_act_fn="gelu", **unet
        ),
        scheduler=DDPMScheduler(**steps),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    ).save_pretrained(str(folder / "second"))
    return folder


def write_tiny_janus(folder: Path) -> Path:
    """Janus: 16 tokens of a codebook of 64, decoded to 8 x 8."""
    import torch
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusImageProcessor,
        JanusProcessor,
        LlamaConfig,
    )
    from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

    torch.manual_seed(21)
    marks = {
        "image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>",
    }  # fmt: skip
    tokenizer = _byte_tokenizer(bos_token="<bos>", extra_special_tokens=marks)
    template = (
        "{% for m in messages %}<bos>{{ m['role'] }}: "
        "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}\n{% endfor %}"
    )
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config=LlamaConfig(
                hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=4, vocab_size=len(tokenizer), max_position_embeddings=512,
            ),
            vision_config=JanusVisionConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4,
                projection_dim=32, num_image_tokens=16,
            ),
            vq_config=JanusVQVAEConfig(
                embed_dim=8, num_embeddings=64, latent_channels=8, base_channels=32, channel_multiplier=[1, 1],
                num_res_blocks=1, projection_dim=32, image_token_embed_dim=32, num_hidden_layers=2,
            ),
            image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        )
    )  # fmt: skip
    _loud(model)
    with torch.no_grad():  # logits that differ, and a codebook that shows
        model.model.generation_head.vision_head.weight.normal_(0, 1.0)
        model.model.generation_embeddings.weight.normal_(0, 1.0)
        model.model.vqmodel.quantize.embedding.weight.normal_(0, 1.0)
        for part in (model.model.generation_aligner, model.model.language_model):
            for linear in part.modules():
                if isinstance(linear, torch.nn.Linear):
                    linear.weight.normal_(0, 0.3)
    settings = model.generation_config
    settings.bos_token_id = tokenizer.convert_tokens_to_ids("<bos>")
    settings.eos_token_id = settings.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(str(folder))
    processor = JanusProcessor(
        JanusImageProcessor(size={"height": 16, "width": 16}), tokenizer, chat_template=template, num_image_tokens=16
    )
    processor.save_pretrained(str(folder))
    return folder


WRITERS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "stable-diffusion-1.5": write_tiny_sd,
        "stable-diffusion-2.1": write_tiny_sd21,
        "stable-diffusion-xl": write_tiny_sdxl,
        "sdxl-turbo": write_tiny_turbo,
        "sdxl-lightning": write_tiny_lightning,
        "lcm": write_tiny_lcm,
        "stable-diffusion-3.5": write_tiny_sd3,
        "flux-1-dev": write_tiny_flux,
        "flux-1-schnell": write_tiny_schnell,
        "flux-2-dev": write_tiny_flux2,
        "flux-2-klein": write_tiny_klein,
        "sana": write_tiny_sana,
        "z-image": write_tiny_z_image,
        "qwen-image": write_tiny_qwen_image,
        "pixart-sigma": write_tiny_pixart,
        "kandinsky-2.2": write_tiny_kandinsky,
        "deepfloyd-if": write_tiny_if,
        "janus-pro": write_tiny_janus,
    }
)
"""Each family's tiny folder, by the name of its config in `configs/engines/`."""


# --- parts --------------------------------------------------------------------------------------------------


def _open(model: Any) -> Any:
    """Weights under which text and guidance show, which hardly count in an untrained transformer."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
            elif name.startswith(("context_embedder", "txt_in", "proj_out")) and parameter.ndim == 2:
                parameter.normal_(0, 1.0)
    return model


def _loud(model: Any) -> Any:
    """Word embeddings of unit size: with those a random model begins with, texts would hardly differ."""
    import torch

    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 1.0)
    return model.eval()


def _byte_tokenizer(*marks: str, **settings: Any) -> Any:
    """A Qwen tokenizer whose words are single bytes."""
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import Qwen2Tokenizer

    words = ["<|endoftext|>", *bytes_to_unicode().values()]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=2048, padding_side="left"
        if settings else "right", **settings,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *marks]})
    tokenizer.chat_template = _CHAT
    return tokenizer


def _t5_tokenizer() -> Any:
    """A T5 tokenizer whose pieces are single letters."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(string.ascii_lowercase + string.digits + ".,-'")]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0, model_max_length=77)


def _t5(words: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=words, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)).eval()


def _qwen3(words: int, hidden: int, layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=words, hidden_size=hidden, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, head_dim=hidden // 2, max_position_embeddings=2048,
    )  # fmt: skip
    return _loud(Qwen3ForCausalLM(config))


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4, sample_size=32, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def _flux2_transformer(*, guidance_embeds: bool) -> Any:
    from diffusers import Flux2Transformer2DModel

    return _open(
        Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        )
    )  # fmt: skip


def _simple_blocks() -> dict[str, Any]:
    """The blocks of Kandinsky's and IF's UNets."""
    return {
        "block_out_channels": (16, 32), "layers_per_block": 1, "resnet_time_scale_shift": "scale_shift",
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    }  # fmt: skip
