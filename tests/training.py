"""Small jobs on tiny bases, for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.subjects import Subject
from palp.train import Job, Trainer, TrainSettings, joint_job, residual_job
from tests.adapters import random_adapter

SETTINGS = TrainSettings(rank=2, steps=3, batch=2, lr=1e-2, lr_placeholder=1e-2, alpha=4.0, beta=2.0)
JOINT_RULES = ("none", "palp", "palp_fresh_noise", "palp_no_rescale", "sds", "nfsd")


def settings(**changes: Any) -> TrainSettings:
    """`SETTINGS` with some of them changed."""
    return replace(SETTINGS, **changes)


def pictures(seed: int, number: int = 3) -> Tensor:
    """Random pictures of 16 x 16 pixels."""
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def joint(base: Base, seed: int = 0, rule: str = "palp", class_word: str = "cat", **changes: Any) -> Job:
    """One subject, aligned with a prompt; pictures and draws follow the seed."""
    subject = Subject(class_word, pictures(seed))
    return joint_job(base, [subject], "a sketch of [V] to a photo", rule=rule, seed=seed, **changes)


def subject_adapter(base: Base, seed: int) -> Adapter:
    """A random subject adapter with a word [V]."""
    spec = AdapterSpec(base.fingerprint, base.sites(), 2, 3.0)
    return random_adapter(spec, seed, {"[V]": base.embedding_shapes()})


def residual(base: Base, seed: int = 0, rule: str = "composed", subjects: int = 2) -> Job:
    """One prompt over several frozen subjects of different class words."""
    pairs = [
        (Subject(word, pictures(10 + i)), subject_adapter(base, i))
        for i, word in enumerate(("cat", "photo", "cap")[:subjects])
    ]
    return residual_job(base, pairs, "a sketch of [V] to a photo", rule=rule, seed=seed)


def trained(base: Base, jobs: list[Job], how: TrainSettings) -> Trainer:
    """A trainer that has run to its end."""
    trainer = Trainer(base, jobs, how)
    for _ in trainer.run():
        pass
    return trainer


def tensors_of(adapter: Adapter) -> dict[str, Tensor]:
    """Everything learned, by name."""
    words = {f"{w}.{name}": v for w, e in adapter.placeholders.items() for name, v in e.items()}
    sides = {f"{side}.{site}": v for side in ("down", "up") for site, v in getattr(adapter, side).items()}
    return sides | words
