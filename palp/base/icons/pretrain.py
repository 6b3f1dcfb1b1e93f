"""Pre-training the embedded base, stage by stage; every stage resumes where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from palp.atomic import atomic_write
from palp.base.icons.architecture import build_scheduler, load_tokenizer
from palp.base.icons.codec import CHANNELS, LATENT_SIDE, build_autoencoder, patch_matrix, set_encoder, to_patches
from palp.base.icons.dataset import render_chunk, to_tensor
from palp.base.icons.denoiser import DenoiserSettings, DenoiserTraining, LatentSet
from palp.base.icons.grammar import Scene, caption
from palp.base.icons.tokenizer import write_tokenizer

PARAPHRASES = 6  # captions drawn for each picture
SAVE_EVERY_S = 120.0


def render_stage(folder: Path, chunks: int, simple: float, workers: int) -> list[Path]:
    """Render `chunks` files of a thousand pictures; those that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(render_chunk, folder, index, simple) for index in range(chunks)]
        return [job.result() for job in tqdm(jobs, desc="rendering", unit="k pictures")]


def codec_stage(folder: Path, chunks: Sequence[Path]) -> AutoencoderTiny:
    """The autoencoder with its encoder set from the first pictures; its decoder is trained later."""
    if (folder / "config.json").exists():
        loaded: AutoencoderTiny = AutoencoderTiny.from_pretrained(folder)
        return loaded
    torch.manual_seed(0)
    vae = build_autoencoder()
    set_encoder(vae, np.concatenate([np.load(path)["pictures"] for path in chunks[:3]]))
    vae.save_pretrained(folder)
    return vae


def cache_stage(path: Path, chunks: Sequence[Path], vae: AutoencoderTiny, tokenizer: object) -> LatentSet:
    """Encode all pictures and caption them with several paraphrases, once."""
    if not path.exists():
        encoder = patch_matrix(vae)
        parts = [_cache_chunk(chunk, encoder, tokenizer, i) for i, chunk in enumerate(tqdm(chunks, desc="caching"))]
        tensors = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
        tensors["no_caption"] = _tokens(tokenizer, [""])[0]
        with atomic_write(path) as partial:
            save_file(tensors, partial)
    return LatentSet(**load_file(path))


def _cache_chunk(path: Path, encoder: tuple[Tensor, Tensor], tokenizer: object, index: int) -> dict[str, Tensor]:
    with np.load(path) as chunk:
        pictures = to_tensor(chunk["pictures"])
        scenes = [Scene(**scene) for scene in json.loads(str(chunk["scenes"]))]
        cover = torch.from_numpy(chunk["cover"])
    weights, bias = encoder
    latents = (to_patches(pictures) @ weights + bias).transpose(1, 2).reshape(len(pictures), CHANNELS, LATENT_SIDE, LATENT_SIDE).half()
    rng = np.random.default_rng((77, index))
    captions = [caption(scene, rng) for scene in scenes for _ in range(PARAPHRASES)]
    return {"latents": latents, "cover": cover, "tokens": _tokens(tokenizer, captions).reshape(len(scenes), PARAPHRASES, -1)}


def _tokens(tokenizer: object, captions: list[str]) -> Tensor:
    ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids  # type: ignore[operator]
    tokens: Tensor = ids.to(torch.int16)
    return tokens


def denoiser_stage(
    folder: Path, data: LatentSet, settings: DenoiserSettings, device: torch.device, sheet: Callable[[DenoiserTraining], None], sheet_every: int
) -> DenoiserTraining:
    """Train the denoiser, saving every two minutes and drawing a sheet of samples every `sheet_every` pictures."""
    training = DenoiserTraining(load_tokenizer(folder / "tokenizer"), data, settings, device)
    state = folder / "denoiser-state.safetensors"
    if state.exists():
        training.load(state)
    saved = time.monotonic()
    bar = tqdm(total=settings.pictures, initial=training.seen, desc="denoiser", unit="pic", mininterval=5)
    for loss in training.run():
        if training.seen // sheet_every > (training.seen - settings.batch) // sheet_every:
            sheet(training)
        if time.monotonic() - saved > SAVE_EVERY_S:
            training.save(state)
            saved = time.monotonic()
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(settings.batch)
    training.save(state)
    return training


def preview_captions() -> list[str]:
    """What the sample sheets show: every style once, with subjects and places of all kinds."""
    rng = np.random.default_rng(3)
    plain = [Scene(subject) for subject in ("cat", "fox", "robot", "house", "car", "rocket", "elephant", "guitar")]
    from palp.base.icons.grammar import STYLES, random_scene

    styled = [Scene(random_scene(rng).subject, style=style, place="beach") for style in STYLES]
    mixed = [random_scene(rng, held_out=True) for _ in range(12)]
    return [caption(scene) for scene in (*plain, *styled, *mixed)]


def iterate_batches(total: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most `size`."""
    for start in range(0, total, size):
        yield range(start, min(start + size, total))


@torch.no_grad()
def preview(training: DenoiserTraining, vae: AutoencoderTiny, tokenizer: object, path: Path, guidance: float = 4.0) -> None:
    """Sample the preview captions with the averaged weights, 20 DDIM steps, and write one sheet."""
    captions = preview_captions()
    model, scheduler = training.average, build_scheduler()
    scheduler.set_timesteps(20)
    tokens = _tokens(tokenizer, captions + [""] * len(captions)).long().to(training.device)
    x = torch.randn(len(captions), *training.data.latents.shape[1:], generator=torch.Generator().manual_seed(1)).to(training.device)
    with torch.autocast(training.device.type, torch.bfloat16):
        hidden = model["text_encoder"](tokens).last_hidden_state
        for t in scheduler.timesteps:
            output = model["unet"](torch.cat([x, x]), t, hidden).sample.float()
            clean, null = output.chunk(2)
            x = scheduler.step(null + guidance * (clean - null), t, x).prev_sample
        pictures = vae.decode(x / vae.config.scaling_factor).sample.float()
    grid = ((pictures.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(grid[i : i + 8], axis=1) for i in range(0, len(grid) // 8 * 8, 8)]
    with atomic_write(path) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial)
