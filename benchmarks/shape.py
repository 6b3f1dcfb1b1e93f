"""A pipeline of Stable Diffusion's full size with random weights, in diffusers' layout: a `--base` for benchmarks.

python -m benchmarks.shape sd15 runs/sd15-shape               # 2 GB
python -m benchmarks.shape sdxl runs/sdxl-shape --side 256    # 7 GB; 19 GB of memory in float32
python -m benchmarks.one_request --base runs/sdxl-shape --repeats 3
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks import setting

VOCABULARY = 49408
START, END = "<|startoftext|>", "<|endoftext|>"
PIXELS = 8  # of a picture to one of its latents, along a side
TIME_IDS, TIME_WIDTH = 6, 256  # numbers of SDXL's size and crop, and the width of each one's embedding


class Shape(StrEnum):
    """Whose size."""

    sd15 = "sd15"
    sdxl = "sdxl"


def sd15(narrow: int, side: int) -> Any:
    """Stable Diffusion 1.5, every width divided by `narrow`, for pictures of `side` pixels."""
    tokenizer, width = byte_tokenizer(), 768 // narrow
    unet = UNet2DConditionModel(
        sample_size=side // PIXELS,
        block_out_channels=tuple(channels // narrow for channels in (320, 640, 1280, 1280)),
        attention_head_dim=8,
        cross_attention_dim=width,
        norm_num_groups=32 // narrow,
    )
    return StableDiffusionPipeline(
        vae=autoencoder(narrow, side, 0.18215),
        text_encoder=CLIPTextModel(text_config(tokenizer, width, 12, 12, "quick_gelu")),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(narrow: int, side: int) -> Any:
    """Stable Diffusion XL, every width divided by `narrow`, for pictures of `side` pixels."""
    tokenizer, first, second = byte_tokenizer(), 768 // narrow, 1280 // narrow
    unet = UNet2DConditionModel(
        sample_size=side // PIXELS,
        block_out_channels=tuple(channels // narrow for channels in (320, 640, 1280)),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=first + second,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=second + TIME_IDS * TIME_WIDTH,
        norm_num_groups=32 // narrow,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(narrow, side, 0.13025),
        text_encoder=CLIPTextModel(text_config(tokenizer, first, 12, 12, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, second, 32, 20, "gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )


SHAPES: Mapping[Shape, Callable[[int, int], Any]] = {Shape.sd15: sd15, Shape.sdxl: sdxl}
SIDES = {Shape.sd15: 512, Shape.sdxl: 1024}


def autoencoder(narrow: int, side: int, scaling_factor: float) -> AutoencoderKL:
    """For pictures of `side` pixels."""
    return AutoencoderKL(
        block_out_channels=tuple(channels // narrow for channels in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32 // narrow,
        sample_size=side,
        scaling_factor=scaling_factor,
    )


def text_config(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, activation: str) -> CLIPTextConfig:
    """Of a CLIP text encoder that projects to its own width."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def byte_tokenizer() -> CLIPTokenizer:
    """A token a letter: which tokens a prompt has does not change how long anything takes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=END, model_max_length=77)


def main(
    shape: Annotated[Shape, typer.Argument(help="Whose size.")],
    folder: Annotated[Path, typer.Argument(help="To be written.")],
    side: Annotated[int | None, typer.Option(min=64, help="Pixels of its pictures; by default the usual.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="An eighth of every width: does it run at all?")] = False,
) -> None:
    """Write the pipeline; the weights are the same each time."""
    torch.manual_seed(0)
    pipeline = SHAPES[shape](8 if quick else 1, side or SIDES[shape])
    pipeline.to(torch.float16).save_pretrained(folder)
    typer.echo(f"written to {folder}")


if __name__ == "__main__":
    setting.run(main)
