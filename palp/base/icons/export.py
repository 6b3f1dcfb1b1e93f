"""From trained parts to the shipped files, and sample sheets on the way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from jaxtyping import Float
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from palp.atomic import atomic_write
from palp.base import Base, base_from_pipeline, sample
from palp.base.icons import GUIDANCE
from palp.base.icons.architecture import build_scheduler
from palp.base.icons.codec import tidy_config
from palp.base.icons.decoder import DecoderTraining, last_stages
from palp.base.icons.denoiser import DenoiserTraining
from palp.base.icons.grammar import STYLES, Scene, caption, random_scene
from palp.base.last_stages import FILE

SHEET_COLUMNS = 8


def assemble(model: nn.ModuleDict, vae: AutoencoderTiny, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """A diffusers pipeline of copies, so that freezing, casting or moving it leaves what is in training as it is.

    Arguments:
        model: the denoiser under "unet", and the "text_encoder"; normally averaged weights.
    """
    parts = copy.deepcopy(model)
    pipeline: StableDiffusionPipeline = cast(Any, StableDiffusionPipeline)(
        vae=copy.deepcopy(vae),
        text_encoder=parts["text_encoder"],
        tokenizer=tokenizer,
        unet=parts["unet"],
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def export_pipeline(
    folder: Path,
    denoiser: DenoiserTraining,
    decoder: DecoderTraining,
    vae: AutoencoderTiny,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write the finished base in diffusers' format, weights in float16."""
    pipeline = assemble(denoiser.average, vae, tokenizer)
    pipeline.vae.decoder = copy.deepcopy(decoder.average)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    tidy_config(folder / "vae")
    last_stages(pipeline.vae).write(folder / "vae" / FILE)


def export_judge(folder: Path, name: str, judge: nn.Module) -> None:
    """Write a judge's weights in float16; counters stay whole numbers."""
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items()}
    with atomic_write(folder / f"{name}.safetensors") as partial:
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial)


def preview_captions() -> list[str]:
    """What the sample sheets show: plain subjects, every style once, and held-out mixtures."""
    rng = np.random.default_rng(3)
    plain = [Scene(subject) for subject in ("cat", "fox", "robot", "house", "car", "rocket", "elephant", "guitar")]
    styled = [Scene(random_scene(rng).subject, style=style, place="beach") for style in STYLES]
    mixed = [random_scene(rng, held_out=True) for _ in range(12)]
    return [caption(scene) for scene in (*plain, *styled, *mixed)]


def preview(denoiser: DenoiserTraining, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, path: Path) -> None:
    """Sample the preview captions with the averaged weights, 20 DDIM steps, and write one sheet."""
    pipeline = assemble(denoiser.average, vae, tokenizer)
    dtype = torch.bfloat16 if denoiser.device.type == "cuda" else torch.float32
    write_sheet(base_from_pipeline(pipeline, denoiser.device, dtype, name="icons"), preview_captions(), path)


def write_sheet(base: Base, captions: list[str], path: Path) -> None:
    """One picture a caption, in rows of eight, seeds counting from 0."""
    text, null = base.encode_prompts(captions), base.encode_prompts([""])
    write_grid(sample(base, text, null, range(len(captions)), steps=20, guidance=GUIDANCE), path)


def write_grid(pictures: Float[Tensor, "n 3 h w"], path: Path) -> None:
    """Pictures in [-1, 1] as one file, eight a row."""
    grid = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    missing = -len(grid) % SHEET_COLUMNS
    grid = np.concatenate([grid, np.full((missing, *grid.shape[1:]), 255, dtype=np.uint8)])
    rows = [np.concatenate(list(grid[i : i + SHEET_COLUMNS]), axis=1) for i in range(0, len(grid), SHEET_COLUMNS)]
    with atomic_write(path) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial)
