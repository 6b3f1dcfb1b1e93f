"""Training the two judges on fresh renders of their own, degraded as generated pictures are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from palp.base.icons.codec import to_patches, from_patches
from palp.base.icons.dataset import to_tensor
from palp.base.icons.grammar import Scene, caption, random_scene, training_subjects
from palp.base.icons.judges import AttributeJudge, SmallCLIP, labels, word_tokens
from palp.base.icons.render import Layout, render

NOVEL = 0.2  # share of pictures that show a training-split character in the place of a concept


@dataclass(frozen=True)
class JudgeSet:
    """Rendered pictures `[n, 128, 128, 3]` and their scenes."""

    pictures: NDArray[np.uint8]
    scenes: list[Scene]


def render_judge_set(count: int, seed: int) -> JudgeSet:
    """Fresh pictures from a seed range of the judges' own, with varied layouts."""
    rng = np.random.default_rng((991, seed))
    novel = [name for name, entry in training_subjects().items() if entry["split"] == "train"]
    pictures, scenes = [], []
    for _ in range(count):
        scene = random_scene(rng, simple=0.1, held_out=bool(rng.random() < 0.1))
        if rng.random() < NOVEL:
            scene = replace(scene, subject=novel[int(rng.integers(len(novel)))])
        layout = Layout.random(rng, scene.companion is not None)
        pictures.append(render(scene, rng, layout))
        scenes.append(scene)
    return JudgeSet(np.stack(pictures), scenes)


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """Indices into `labels()` for every attribute."""
    words = labels()

    def of(scene: Scene, name: str) -> int:
        value = getattr(scene, name) or "none"
        return words[name].index(value)

    return {name: torch.tensor([of(scene, name) for scene in scenes]) for name in words}


def degrade(pictures: Tensor, codec: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Make renders look generated: latent round trips with a little latent noise, blur, noise, contrast.

    Arguments:
        pictures: `[n, 3, 128, 128]` in [-1, 1].
        codec: the linear encoder's weights `[768, 64]` and bias `[64]`.
    """
    n = len(pictures)
    weights, bias = codec
    latents = to_patches(pictures) @ weights + bias
    strength = 0.35 * torch.rand(n, 1, 1, generator=generator)
    latents = latents + strength * torch.randn(latents.shape, generator=generator)
    rebuilt = from_patches((latents - bias) @ torch.linalg.pinv(weights)).clamp(-1, 1)
    share = (torch.rand(n, 1, 1, 1, generator=generator) < 0.6).float()
    mixed = share * rebuilt + (1 - share) * pictures
    blurred = functional.avg_pool2d(functional.pad(mixed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    soft = torch.rand(n, 1, 1, 1, generator=generator) * (torch.rand(n, 1, 1, 1, generator=generator) < 0.5)
    noisy = mixed + soft * (blurred - mixed) + 0.04 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(mixed.shape, generator=generator)
    gain = 1 + 0.1 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    return (noisy * gain).clamp(-1, 1)


def attribute_loss(judge: AttributeJudge, pictures: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Sum of the heads' cross-entropies; the subject's counts twice."""
    logits, _ = judge(pictures)
    losses = {name: functional.cross_entropy(logits[name].float(), truth[name], label_smoothing=0.02) for name in truth}
    return torch.stack(list(losses.values())).sum() + losses["subject"]


def clip_loss(judge: SmallCLIP, pictures: Tensor, tokens: Tensor) -> Tensor:
    """Symmetric contrastive cross-entropy over the batch (Radford et al. 2021)."""
    scores = judge.log_scale.exp().clamp(max=100) * judge.embed_pictures(pictures).float() @ judge.embed_tokens(tokens).float().T
    own = torch.arange(len(scores))
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def train_judge(
    judge: nn.Module, data: JudgeSet, codec: tuple[Tensor, Tensor], steps: int, batch: int, learning_rate: float, seed: int
) -> Iterator[float]:
    """Train one judge in place, one-cycle AdamW; yields the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    truth = targets(data.scenes)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=learning_rate, weight_decay=0.05, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.15)
    judge.train()
    for _ in range(steps):
        index = rng.integers(0, len(data.scenes), batch)
        pictures = degrade(to_tensor(data.pictures[index]), codec, generator)
        with torch.autocast("cpu", torch.bfloat16):
            if isinstance(judge, AttributeJudge):
                loss = attribute_loss(judge, pictures, {name: values[index] for name, values in truth.items()})
            else:
                assert isinstance(judge, SmallCLIP)
                loss = clip_loss(judge, pictures, word_tokens([caption(data.scenes[i], rng) for i in index]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        rate.step()
        yield float(loss.detach())
    judge.eval()
