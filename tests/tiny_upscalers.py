"""Upscalers of the real classes at tiny sizes with random weights, written to folders as a user's would lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import _clip_tokenizer, _text_config, _tiny_t5


def write_tiny_sd_upscaler(folder: Path) -> Path:
    """A StableDiffusionUpscalePipeline whose VAE has the real one's three levels: 4 times."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

    torch.manual_seed(6)
    tokenizer = _clip_tokenizer(folder.parent)
    StableDiffusionUpscalePipeline(
        vae=AutoencoderKL(
            block_out_channels=(16, 16, 16), norm_num_groups=8, latent_channels=4, scaling_factor=0.08333,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        ),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16, in_channels=7, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            norm_num_groups=8, cross_attention_dim=32, attention_head_dim=8, num_class_embeds=1000,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            only_cross_attention=(True, False),
        ),
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear", clip_sample=False),
        max_noise_level=350,
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_ldm_upscaler(folder: Path) -> Path:
    """An LDMSuperResolutionPipeline of 4 times: VQ model and unconditional UNet."""
    import torch
    from diffusers import DDIMScheduler, LDMSuperResolutionPipeline, UNet2DModel, VQModel

    torch.manual_seed(7)
    LDMSuperResolutionPipeline(
        vqvae=VQModel(
            block_out_channels=(16, 16, 16), norm_num_groups=8, latent_channels=3, num_vq_embeddings=16,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        ),
        unet=UNet2DModel(
            sample_size=16, in_channels=6, out_channels=3, block_out_channels=(16, 32), layers_per_block=1,
            norm_num_groups=8, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_if_upscaler(folder: Path) -> Path:
    """An IFSuperResolutionPipeline with T5 (its tokenizer is CLIP's here) and a UNet that also gives variances."""
    import torch
    from diffusers import DDPMScheduler, IFSuperResolutionPipeline, UNet2DConditionModel
    from diffusers.models.attention_processor import AttnAddedKVProcessor

    torch.manual_seed(8)
    tokenizer = _clip_tokenizer(folder.parent)
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=6, out_channels=6, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=32, attention_head_dim=8, encoder_hid_dim=32, act_fn="gelu",
        addition_embed_type="text", addition_embed_type_num_heads=2, class_embed_type="timestep",
        class_embeddings_concat=False, resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )  # fmt: skip
    unet.set_attn_processor(AttnAddedKVProcessor())
    IFSuperResolutionPipeline(
        tokenizer=tokenizer, text_encoder=_tiny_t5(tokenizer), unet=unet,
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True, sample_max_value=1.0,
            dynamic_thresholding_ratio=0.95,
        ),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def write_tiny_swin2sr(folder: Path, *, scale: int = 2, **config: Any) -> Path:
    """A Swin2SRForImageSuperResolution with its processor."""
    import torch
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution, Swin2SRImageProcessor

    torch.manual_seed(9)
    Swin2SRForImageSuperResolution(
        Swin2SRConfig(
            image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, mlp_ratio=2.0, upscale=scale,
            **config,
        )
    ).save_pretrained(str(folder))  # fmt: skip
    Swin2SRImageProcessor().save_pretrained(str(folder))
    return folder
