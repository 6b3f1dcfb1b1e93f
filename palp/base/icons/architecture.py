"""Shapes of the embedded base's parts, as diffusers and transformers configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palp.base.icons.codec import CHANNELS, LATENT_SIDE
from palp.base.icons.tokenizer import END, MAX_TOKENS, START

TEXT_WIDTH = 192
WIDTHS = (128, 256)
HEAD_WIDTH = 32


def build_unet() -> UNet2DConditionModel:
    """The denoiser, untrained: 8 x 8 x 64 latents; cross-attention at 4 x 4, and on the way up at 8 x 8."""
    unet: UNet2DConditionModel = cast(Any, UNet2DConditionModel)(
        sample_size=LATENT_SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(width // HEAD_WIDTH for width in WIDTHS),
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        # the caption as a whole also enters with the time embedding: what a picture shows is then learned sooner
        addition_embed_type="text",
        addition_embed_type_num_heads=6,
    )
    # plain matrix products: the backward pass of scaled-dot-product attention is slow on a CPU at 64 tokens
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder, untrained: two layers of width 192."""
    vocab = tokenizer.get_vocab()
    config = cast(Any, CLIPTextConfig)(
        vocab_size=len(vocab),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=TEXT_WIDTH // HEAD_WIDTH,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=vocab[START],
        eos_token_id=vocab[END],
        pad_token_id=vocab[END],
        attn_implementation="eager",
    )
    return CLIPTextModel(config)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer that `write_tokenizer` put into `folder`."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def build_scheduler() -> DDIMScheduler:
    """Noise levels of Stable Diffusion; the denoiser predicts x0. Latents exceed 1, so samples are never clipped."""
    scheduler: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="sample",
        timestep_spacing="trailing",
        steps_offset=1,  # without effect at this spacing, and what diffusers' pipeline asks for
    )
    return scheduler
