"""Pre-training the embedded base, stage by stage; every stage resumes where it was stopped.

render pictures → set the encoder → cache latents → train denoiser → redraw some → train decoder → train judges →
export.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from palp.atomic import atomic_write
from palp.base import base_from_pipeline
from palp.base.device import fastest_dtype
from palp.base.icons.architecture import load_tokenizer
from palp.base.icons.codec import build_autoencoder, patch_latents, patch_matrix, save_autoencoder, set_encoder
from palp.base.icons.dataset import render_chunk, to_tensor
from palp.base.icons.decoder import DecoderSettings, DecoderTraining
from palp.base.icons.denoiser import DenoiserSettings, DenoiserTraining, LatentSet
from palp.base.icons.export import assemble, export_judge, export_pipeline, preview
from palp.base.icons.grammar import Scene, caption
from palp.base.icons.guise import THING
from palp.base.icons.inverse import grown, set_decoder
from palp.base.icons.judges import NAMES, build_judges, read_judges
from palp.base.icons.names import PLACE, tokens_of
from palp.base.icons.redraw import redrawn
from palp.base.icons.tokenizer import write_tokenizer
from palp.base.icons.train_judges import JudgeSettings, JudgeTraining, linear_codec, render_judge_chunk
from palp.errors import InputError

PARAPHRASES = 6  # captions drawn for each picture
DECODER_SAMPLE = 200  # pictures that the decoder is first fitted to
ENCODER_CHUNKS = 2  # thousands of pictures that the encoder's components are read from
DECODER_CHUNKS = 12  # thousands of pictures held in memory for the decoder
REDRAWN_CHUNKS = 7  # thousands of these that the denoiser draws again for it
REDRAWN_STEPS = (6, 8, 10, 12, 14)  # of 20, that a picture is drawn again from; as many pictures of each
SAVE_EVERY_S = 600.0  # a state is 300 MB, and a slow disk stops the training for half a minute


@dataclass(frozen=True)
class PretrainSettings:
    """The whole pre-training."""

    chunks: int = 40  # thousands of pictures rendered for the base
    first_chunk: int = 0  # thousands of pictures that were rendered for earlier trainings
    judge_chunks: int = 24  # thousands of pictures rendered for the judges
    simple: float = 0.4  # share of pictures with only a subject and a style
    guises: float = 0.5  # share of pictures whose subject looks otherwise than its glyph
    workers: int = 2  # processes that render
    sheet_every: int = 20_000  # pictures between two sample sheets
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    judges: JudgeSettings = field(default_factory=JudgeSettings)


@runtime_checkable
class Training(Protocol):
    """What the stages have in common: a resumable training that counts pictures."""

    @property
    def seen(self) -> int: ...
    def run(self) -> Iterator[float]: ...
    def save(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...


def pretrain(
    folder: Path, weights: Path, settings: PretrainSettings, device: torch.device, start: Path | None = None
) -> None:
    """Make the embedded base and its judges from nothing but the font.

    Arguments:
        folder: for what resuming needs: pictures, caches, training states, sample sheets (3 GB by default).
        weights: where the finished pipeline and judges go.
        settings: sizes of the stages.
        device: to train on.
        start: folder of a finished pipeline and judges to train on from; its autoencoder is kept, so latents stay.
    """
    numbers = range(settings.first_chunk, settings.first_chunk + settings.chunks)
    chunks = render_stage(
        folder / "pictures", numbers, settings.workers, render_chunk, settings.simple, settings.guises
    )
    write_tokenizer(folder / "tokenizer")
    vae = codec_stage(folder / "vae", chunks, start)
    latents = folder / f"latents-{numbers.start}-{numbers.stop}.safetensors"  # of these pictures and no others
    data = cache_stage(latents, chunks, vae, load_tokenizer(folder / "tokenizer"), settings.workers)
    denoiser = DenoiserTraining(load_tokenizer(folder / "tokenizer"), data, settings.denoiser, device)
    if start is not None:
        denoiser.begin_from(start)
    sheets = Sheets(
        folder / "sheets",
        settings.sheet_every,
        lambda path: preview(denoiser, vae, load_tokenizer(folder / "tokenizer"), path),
    )
    train_stage("denoiser", denoiser, folder, settings.denoiser.pictures, sheets)
    pictures = load_pictures(chunks[:DECODER_CHUNKS])
    scenes = [scene for chunk in chunks[:REDRAWN_CHUNKS] for scene in scenes_of(chunk)]
    again = redraw_stage(folder / f"redrawn-{numbers.start}-{numbers.stop}.safetensors", denoiser, vae, scenes)
    decoder = DecoderTraining(vae, pictures, settings.decoder, device, again)
    train_stage("decoder", decoder, folder, settings.decoder.pictures)
    export_pipeline(weights, denoiser, decoder, vae, load_tokenizer(folder / "tokenizer"))
    pretrain_judges(folder, weights, settings, device, start)


def pretrain_judges(
    folder: Path,
    weights: Path,
    settings: PretrainSettings,
    device: torch.device,
    start: Path | None = None,
    names: Sequence[str] = NAMES,
) -> None:
    """Render pictures for the judges, train those named, and write them beside the base.

    Arguments:
        folder: for what resuming needs.
        weights: of the finished base, of which they need the autoencoder: they are trained on what it makes of renders.
        settings: sizes.
        device: to train on.
        start: folder of finished judges to train on from, under `judges`.
        names: of the judges.

    Raises:
        InputError: there is no base, or no such judge.
    """
    for name in names:
        if name not in NAMES:
            raise InputError(f"there is no judge {name!r}: name some of {', '.join(NAMES)}")
    if not (weights / "vae").is_dir():
        raise InputError(f"{weights} has no base, which its judges are trained for: make one first")
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(weights / "vae", torch_dtype=torch.float32)
    numbers = range(settings.judge_chunks)
    chunks = render_stage(folder / "judge-pictures", numbers, settings.workers, render_judge_chunk)
    codec = linear_codec(vae, device)
    torch.manual_seed(settings.judges.seed)
    judges = build_judges() if start is None else read_judges(start / "judges")
    for name, judge in zip(NAMES, judges, strict=True):
        if name in names:
            training = JudgeTraining(judge, chunks, codec, settings.judges)
            train_stage(f"judge-{name}", training, folder, settings.judges.pictures)
            export_judge(weights / "judges", name, training.average)


@dataclass
class Sheets:
    """Draws a sample sheet whenever another `every` pictures have been seen."""

    folder: Path
    every: int
    draw: Callable[[Path], None]

    def maybe(self, before: int, now: int) -> None:
        """Draw if a multiple of `every` lies between the two counts."""
        if now // self.every > before // self.every:
            self.draw(self.folder / f"{now:08d}.png")


def render_stage(folder: Path, numbers: range, workers: int, render: Callable[..., Path], *args: object) -> list[Path]:
    """Render the files of a thousand pictures that have these numbers; those that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with _pool(workers) as pool:
        jobs = [pool.submit(render, folder, index, *args) for index in numbers]
        return [job.result() for job in tqdm(jobs, desc=f"rendering {folder.name}", unit="k")]


def _pool(workers: int) -> Executor:
    """Processes of one thread each."""
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )


def codec_stage(folder: Path, chunks: Sequence[Path], start: Path | None) -> AutoencoderTiny:
    """The autoencoder of `start`, with today's blocks, or one set from the first pictures; its decoder trains later."""
    if not folder.exists() and start is not None:
        known: AutoencoderTiny = AutoencoderTiny.from_pretrained(start / "vae", torch_dtype=torch.float32)
        save_autoencoder(grown(known), folder)
    elif not folder.exists():
        torch.manual_seed(0)
        vae = build_autoencoder()
        pictures = load_pictures(chunks[:ENCODER_CHUNKS])
        set_encoder(vae, pictures)
        set_decoder(vae, to_tensor(pictures[:DECODER_SAMPLE]))
        save_autoencoder(vae, folder)
    loaded: AutoencoderTiny = AutoencoderTiny.from_pretrained(folder)
    return loaded


def load_pictures(chunks: Sequence[Path]) -> NDArray[np.uint8]:
    """The pictures of several files, `[n, 128, 128, 3]` bytes."""
    return np.concatenate([np.load(path)["pictures"] for path in chunks])


def cache_stage(
    path: Path, chunks: Sequence[Path], vae: AutoencoderTiny, tokenizer: CLIPTokenizer, workers: int
) -> LatentSet:
    """Encode all pictures and caption them with several paraphrases, once."""
    if not path.exists():
        encoder = patch_matrix(vae)
        with _pool(workers) as pool:
            jobs = [pool.submit(_cache_chunk, chunk, encoder, tokenizer, n) for n, chunk in enumerate(chunks)]
            parts = [job.result() for job in tqdm(jobs, desc="caching latents", unit="k")]
        tensors = {key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]}
        tensors["no_caption"] = tokens_of(tokenizer, [""], [-1])[0]
        with atomic_write(path) as partial:
            save_file(tensors, partial)
    return LatentSet(**load_file(path))


def _cache_chunk(
    path: Path, encoder: tuple[Tensor, Tensor], tokenizer: CLIPTokenizer, index: int
) -> dict[str, NDArray[np.generic]]:
    scenes = scenes_of(path)
    with np.load(path) as chunk:
        pictures, cover, names = to_tensor(chunk["pictures"]), chunk["cover"], chunk["names"]
    rng = np.random.default_rng((77, index))
    named = [(scene, int(name)) for scene, name in zip(scenes, names, strict=True) for _ in range(PARAPHRASES)]
    captions = [caption(scene, rng, subject=None if name < 0 else PLACE) for scene, name in named]
    tokens = tokens_of(tokenizer, captions, [name for _, name in named]).reshape(len(scenes), PARAPHRASES, -1)
    latents = patch_latents(pictures, encoder).half()
    return {"latents": latents.contiguous().numpy(), "cover": cover, "tokens": tokens.numpy()}


def scenes_of(path: Path) -> list[Scene]:
    """What the pictures of a file show."""
    with np.load(path) as chunk:
        return [Scene(**scene) for scene in json.loads(str(chunk["scenes"]))]


def redraw_stage(path: Path, denoiser: DenoiserTraining, vae: AutoencoderTiny, scenes: Sequence[Scene]) -> Tensor:
    """The latents of the first pictures as the trained denoiser draws them, once."""
    if not path.exists():
        dtype = fastest_dtype(denoiser.device)
        pipeline = assemble(denoiser.average, vae, load_tokenizer(path.with_name("tokenizer")))
        base = base_from_pipeline(pipeline, denoiser.device, dtype, name="icons")
        captions = ["" if scene.subject == THING else caption(scene) for scene in scenes]
        parts = zip(REDRAWN_STEPS, np.array_split(np.arange(len(scenes)), len(REDRAWN_STEPS)), strict=True)
        again = [redrawn(base, denoiser.data.latents[rows], [captions[i] for i in rows], n) for n, rows in parts]
        with atomic_write(path) as partial:
            save_file({"latents": torch.cat(again).contiguous()}, partial)
    return load_file(path)["latents"]


def train_stage(name: str, training: Training, folder: Path, pictures: int, sheets: Sheets | None = None) -> None:
    """Run a training to its end, from its saved state if there is one, saving every ten minutes."""
    state = folder / f"{name}-state.safetensors"
    if state.exists():
        training.load(state)
    saved, before = time.monotonic(), training.seen
    bar = tqdm(total=pictures, initial=before, desc=name, unit="pic", mininterval=2)
    for loss in training.run():
        if sheets is not None:
            sheets.maybe(before, training.seen)
        if time.monotonic() - saved > SAVE_EVERY_S:
            training.save(state)
            saved = time.monotonic()
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update(training.seen - before)
        before = training.seen
    training.save(state)
    bar.close()
