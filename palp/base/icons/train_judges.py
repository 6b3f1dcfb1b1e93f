"""Training the two judges on fresh renders of their own, degraded as generated pictures are."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional

from palp.base.icons.checkpoint import autocast, follow, load_training, save_training
from palp.base.icons.codec import from_patches, patch_matrix, to_patches
from palp.base.icons.dataset import CHUNK, to_tensor
from palp.base.icons.grammar import Scene, caption, random_scene, training_subjects
from palp.base.icons.judges import AttributeJudge, SmallCLIP, labels, word_tokens
from palp.base.icons.render import Layout, render
from palp.errors import NonFiniteLossError

Codec: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""The linear encoder's weights `[768, 64]` and bias `[64]`, and the pseudoinverse of the weights."""
NOVEL = 0.2  # share of pictures that show a training-split character in the place of a concept


def render_judge_chunk(folder: Path, index: int) -> Path:
    """Render a thousand fresh pictures, from seeds of the judges' own, unless the file is there already."""
    path = folder / f"judge-{index:03d}.npz"
    if path.exists():
        return path
    rng = np.random.default_rng((991, index))
    novel = [name for name, entry in training_subjects().items() if entry["split"] == "train"]
    pictures, scenes = [], []
    for _ in range(CHUNK):
        scene = random_scene(rng, simple=0.1, held_out=bool(rng.random() < 0.1))
        if rng.random() < NOVEL:
            scene = replace(scene, subject=novel[int(rng.integers(len(novel)))])
        layout = Layout.random(rng, scene.companion is not None).loosened(rng)
        pictures.append(render(scene, rng, layout))
        scenes.append(asdict(scene))
    partial = path.with_suffix(".tmp.npz")
    np.savez(partial, pictures=np.stack(pictures), scenes=np.array(json.dumps(scenes)))
    partial.replace(path)
    return path


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """Indices into `labels()` for every attribute."""
    words = labels()

    def of(scene: Scene, name: str) -> int:
        value = getattr(scene, name) or "none"
        return words[name].index(value)

    return {name: torch.tensor([of(scene, name) for scene in scenes]) for name in words}


def linear_codec(vae: AutoencoderTiny, device: torch.device) -> Codec:
    """The autoencoder's linear encoder, and its inverse, on a device."""
    weights, bias = patch_matrix(vae)
    return weights.to(device), bias.to(device), torch.linalg.pinv(weights).to(device)


def degrade(pictures: Tensor, codec: Codec, generator: torch.Generator) -> Tensor:
    """Make renders look generated: latent round trips with a little latent noise, blur, noise, contrast.

    Arguments:
        pictures: `[n, 3, 128, 128]` in [-1, 1], on the device of codec and generator.
    """
    weights, bias, inverse = codec

    def chance() -> Tensor:
        return torch.rand(len(pictures), 1, 1, 1, generator=generator, device=pictures.device)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=pictures.device)

    latents = to_patches(pictures) @ weights + bias
    latents = latents + 0.35 * chance()[..., 0] * noise(latents)
    rebuilt = from_patches((latents - bias) @ inverse).clamp(-1, 1)
    share = (chance() < 0.6).float()
    mixed = share * rebuilt + (1 - share) * pictures
    blurred = functional.avg_pool2d(functional.pad(mixed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    soft = chance() * (chance() < 0.5)
    noisy = mixed + soft * (blurred - mixed) + 0.04 * chance() * noise(mixed)
    return (noisy * (1 + 0.1 * (chance() - 0.5))).clamp(-1, 1)


def attribute_loss(judge: AttributeJudge, pictures: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Sum of the heads' cross-entropies; the subject's counts twice."""
    logits, _ = judge(pictures)
    losses = {name: functional.cross_entropy(logits[name].float(), truth[name], label_smoothing=0.02) for name in truth}
    return torch.stack(list(losses.values())).sum() + losses["subject"]


def clip_loss(judge: SmallCLIP, pictures: Tensor, tokens: Tensor) -> Tensor:
    """Symmetric contrastive cross-entropy over the batch (Radford et al. 2021)."""
    scores = (
        judge.log_scale.exp().clamp(max=100)
        * judge.embed_pictures(pictures).float()
        @ judge.embed_tokens(tokens).float().T
    )
    own = torch.arange(len(scores), device=scores.device)
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


@dataclass(frozen=True)
class JudgeSettings:
    """How each judge is trained."""

    pictures: int = 60_000  # seen in all
    batch: int = 64  # pictures a step
    learning_rate: float = 3e-3  # peak, AdamW
    weight_decay: float = 0.05  # AdamW
    warmup: float = 0.1  # share of the training until the peak; then half a cosine
    average: float = 0.06  # horizon of the weights' moving average, as a share of the training
    seed: int = 7


class JudgeTraining:
    """A judge in training with its moving average; everything resumes from one file."""

    def __init__(self, judge: nn.Module, chunks: Sequence[Path], codec: Codec, settings: JudgeSettings) -> None:
        self.codec, self.settings, self.device = codec, settings, codec[0].device
        self.model = judge.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        files = [np.load(path) for path in chunks]
        self.pictures = torch.from_numpy(np.concatenate([file["pictures"] for file in files])).to(self.device)
        self.scenes = [Scene(**scene) for file in files for scene in json.loads(str(file["scenes"]))]
        self.truth = {name: values.to(self.device) for name, values in targets(self.scenes).items()}
        self.optimizer = torch.optim.AdamW(
            judge.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.step = 0

    @property
    def seen(self) -> int:
        """Pictures trained on so far."""
        return self.step * self.settings.batch

    def run(self) -> Iterator[float]:
        """Train to the end, yielding each step's loss."""
        self.model.train()
        while self.seen < self.settings.pictures:
            yield self._step()

    def _step(self) -> float:
        cfg = self.settings
        rng = np.random.default_rng((cfg.seed, self.step))
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        index = rng.integers(0, len(self.scenes), cfg.batch)
        rows = torch.from_numpy(index).to(self.device)
        pictures = degrade(to_tensor(self.pictures[rows]), self.codec, generator)
        with autocast(self.device):
            loss = self._loss(pictures, rows, [caption(self.scenes[i], rng) for i in index])
        if not torch.isfinite(loss):
            raise NonFiniteLossError(self.step, 0)
        self.optimizer.param_groups[0]["lr"] = cfg.learning_rate * self.rate(self.seen / cfg.pictures)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        follow(self.average, self.model, min(cfg.average * cfg.pictures, 0.1 * self.seen) / cfg.batch)
        return float(loss.detach())

    def _loss(self, pictures: Tensor, rows: Tensor, captions: list[str]) -> Tensor:
        if isinstance(self.model, AttributeJudge):
            return attribute_loss(self.model, pictures, {name: values[rows] for name, values in self.truth.items()})
        assert isinstance(self.model, SmallCLIP)
        return clip_loss(self.model, pictures, word_tokens(captions).to(self.device))

    def rate(self, done: float) -> float:
        """Share of the peak learning rate when `done` of the training is over."""
        return min(1.0, (done + 1e-3) / self.settings.warmup) * 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0))))

    def save(self, path: Path) -> None:
        """Write everything that resuming needs."""
        save_training(path, self.step, self.model, self.average, self.optimizer)

    def load(self, path: Path) -> None:
        """Continue from a file that `save` wrote."""
        self.step = load_training(path, self.model, self.average, self.optimizer)
