"""Tiny random pipelines of every family, built from configurations alone: no network, a second each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from palp.base import Base, base_from_pipeline

Kind = Literal["sd1", "sd2", "sd2-v", "sdxl"]
KINDS: tuple[Kind, ...] = ("sd1", "sd2", "sd2-v", "sdxl")

WIDTH = 32
TOKENS = 24
MERGES = [
    ("c", "a"),
    ("ca", "t</w>"),
    ("p", "h"),
    ("ph", "o"),
    ("t", "o</w>"),
    ("pho", "to</w>"),
    ("o", "f</w>"),
]


def save_tiny(kind: Kind, folder: Path) -> Path:
    """A random pipeline of `kind` in diffusers format, the same each time."""
    tiny_pipeline(kind).save_pretrained(folder)
    return folder


def tiny_pipeline(kind: Kind) -> Any:
    """A random pipeline of `kind`: 8x8 latents, 16x16 pixels, width 32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _pipeline(kind)


def _pipeline(kind: Kind) -> Any:
    common = {"vae": _vae(), "unet": _unet(kind), "scheduler": _scheduler(kind)}
    if kind == "sdxl":
        return StableDiffusionXLPipeline(
            text_encoder=CLIPTextModel(_text_config(48, act="quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(WIDTH, act="gelu")),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(pad="!"),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
            **common,
        )
    act = "quick_gelu" if kind == "sd1" else "gelu"
    return StableDiffusionPipeline(
        text_encoder=CLIPTextModel(_text_config(WIDTH, act)),
        tokenizer=tiny_tokenizer(pad="<|endoftext|>" if kind == "sd1" else "!"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **common,
    )


def tiny_base(kind: Kind, dtype: torch.dtype = torch.float32) -> Base:
    """`tiny_pipeline` as a base on the CPU."""
    return base_from_pipeline(tiny_pipeline(kind), torch.device("cpu"), dtype)


def tiny_placeholder(base: Base, vectors: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random vectors for one placeholder."""
    generator = torch.Generator().manual_seed(seed)
    shapes = base.embedding_shapes().items()
    return {name: torch.randn(vectors, dim, generator=generator) for name, dim in shapes}


def tiny_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer over the byte alphabet with a handful of merges, the end token last as in CLIP."""
    alphabet, merges = _byte_alphabet(), cast(list[str], MERGES)  # the annotation upstream forgets pairs
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in MERGES)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=TOKENS)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for all bytes, "!" first."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _text_config(width: int, act: str) -> CLIPTextConfig:
    tokenizer = tiny_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=1.0,
    )


def _unet(kind: Kind) -> UNet2DConditionModel:
    common: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (WIDTH, 2 * WIDTH),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": WIDTH,
    }
    if kind == "sdxl":
        common |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "transformer_layers_per_block": (1, 2),
            "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
            "cross_attention_dim": 48 + WIDTH,
        }
    elif kind != "sd1":
        common |= {"attention_head_dim": (2, 4), "use_linear_projection": True}
    return UNet2DConditionModel(**common)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.18215,
    )


def _scheduler(kind: Kind) -> DDIMScheduler:
    zero_terminal = kind == "sd2-v"
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if zero_terminal else "epsilon",
        rescale_betas_zero_snr=zero_terminal,
        timestep_spacing="trailing" if zero_terminal else "leading",
    )
