"""The architectures of the starter pack, as configurations of the field's standard classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CONTEXT_LENGTH = 32
TEXT_WIDTH = 128
LATENT_CHANNELS = 4
LATENT_SIDE = 16


def make_vae() -> Any:
    """Return an untrained `AutoencoderTiny`: 64 × 64 × 3 to 16 × 16 × 4 and back, 0.3 M parameters.

    The encoder has no residual block at full resolution (where they cost most); latents are trained to
    zero mean and unit scale, so `scaling_factor` stays 1.
    """
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 2, 3),
        num_decoder_blocks=(3, 2, 1),
        latent_channels=LATENT_CHANNELS,
    )


def make_preview() -> Any:
    """Return an untrained `AutoencoderTiny` whose decoder has a quarter of the pack's work; see `train.preview`."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4),
        decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(2, 1, 0),
        latent_channels=LATENT_CHANNELS,
    )


def make_unet() -> Any:
    """Return an untrained `UNet2DConditionModel` on 16 × 16 × 4 latents.

    The caption acts twice: pooled into the time embedding, which scales and shifts every residual block
    (`addition_embed_type="text"`, as DeepFloyd IF has it), and by cross-attention at the lower levels.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def make_scheduler() -> Any:
    """Return the scheduler the pack ships: DDIM, v-prediction, trailing steps, zero terminal SNR."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def clip_config(num_tokens: int) -> dict[str, Any]:
    """Return the open_clip `model_cfg`: a small ResNet and a 3-layer text tower, 128-d embeddings."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": num_tokens,
            "width": TEXT_WIDTH,
            "heads": 4,
            "layers": 3,
            "pool_type": "argmax",
            "hf_tokenizer_name": "starter",
            "tokenizer_kwargs": {},
        },
    }


def make_text_encoder(num_tokens: int, start: int, end: int) -> Any:
    """Return a `CLIPTextModel` of the same shape as the CLIP's text tower."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=num_tokens,
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH * 4,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            hidden_act="gelu",
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def copy_text_tower(clip: torch.nn.Module, encoder: torch.nn.Module) -> None:
    """Copy the text tower of an open_clip model into a `CLIPTextModel` of the same shape."""
    source = clip.state_dict()
    target = encoder.state_dict()
    prefix = "text_model." if any(name.startswith("text_model.") for name in target) else ""
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    copied = {prefix + ours: source[theirs] for ours, theirs in names.items()}
    layers = sum(1 for name in source if name.endswith("ln_1.weight") and name.startswith("transformer."))
    for layer in range(layers):
        theirs, ours = f"transformer.resblocks.{layer}.", f"{prefix}encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            packed = source[f"{theirs}attn.in_proj_{kind}"].chunk(3)
            for part, value in zip(("q_proj", "k_proj", "v_proj"), packed, strict=True):
                copied[f"{ours}self_attn.{part}.{kind}"] = value
            copied[f"{ours}self_attn.out_proj.{kind}"] = source[f"{theirs}attn.out_proj.{kind}"]
            copied[f"{ours}layer_norm1.{kind}"] = source[f"{theirs}ln_1.{kind}"]
            copied[f"{ours}layer_norm2.{kind}"] = source[f"{theirs}ln_2.{kind}"]
            copied[f"{ours}mlp.fc1.{kind}"] = source[f"{theirs}mlp.c_fc.{kind}"]
            copied[f"{ours}mlp.fc2.{kind}"] = source[f"{theirs}mlp.c_proj.{kind}"]
    missing = {name for name in target if name not in copied and not name.endswith("position_ids")}
    if missing:
        raise ValueError(f"the CLIP text tower lacks {', '.join(sorted(missing))}: the two shapes differ")
    encoder.load_state_dict(copied, strict=False)


def make_judge() -> Any:
    """Return the untrained judge: a plain CNN with one linear head per attribute."""
    from assetmill.starter.judge import Judge

    return Judge()


def make_upscaler() -> Any:
    """Return an untrained compact SRVGG ×4 (16 convolutions of 32 channels), as spandrel reads it."""
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    return SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=32, num_conv=8, upscale=4, act_type="prelu")


def save_half(module: torch.nn.Module, file: Path) -> None:
    """Write a module's weights as fp16 safetensors."""
    from safetensors.torch import save_file

    state = {name: value.detach().half().contiguous().clone() for name, value in module.state_dict().items()}
    save_file(state, str(file))
