"""A pipeline of Stable Diffusion 1.5's size with random weights, in diffusers' layout: a `--base` for benchmarks.

python -m benchmarks.sd15_shape runs/sd15-shape        # 2 GB
python -m benchmarks.one_request --base runs/sd15-shape --repeats 3
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks import setting

VOCABULARY = 49408
START, END = "<|startoftext|>", "<|endoftext|>"


def pipeline(narrow: int) -> Any:
    """The pipeline, every width divided by `narrow`."""
    tokenizer, width = byte_tokenizer(), 768 // narrow
    text = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(channels // narrow for channels in (320, 640, 1280, 1280)),
        attention_head_dim=8,
        cross_attention_dim=width,
        norm_num_groups=32 // narrow,
    )
    vae = AutoencoderKL(
        block_out_channels=tuple(channels // narrow for channels in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32 // narrow,
        sample_size=512,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def byte_tokenizer() -> CLIPTokenizer:
    """A token a letter: which tokens a prompt has does not change how long anything takes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=END, model_max_length=77)


def main(
    folder: Annotated[Path, typer.Argument(help="To be written.")],
    quick: Annotated[bool, typer.Option("--quick", help="An eighth of every width: does it run at all?")] = False,
) -> None:
    """Write the pipeline; the weights are the same each time."""
    torch.manual_seed(0)
    pipeline(8 if quick else 1).to(torch.float16).save_pretrained(folder)
    typer.echo(f"written to {folder}")


if __name__ == "__main__":
    setting.run(main)
