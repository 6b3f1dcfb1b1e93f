"""How adapters are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from palp.base import SITES
from palp.settings import CheckedSettings

__all__ = ["TrainSettings"]


@dataclass(frozen=True)
class TrainSettings(CheckedSettings):
    """One recipe; every job of a `Trainer` shares it.

    loss = reconstruction + guidance_weight · guidance + prior_weight · prior

    Raises:
        InputError: a value out of its range.
    """

    rank: int = 8  # of every LoRA pair
    lora_alpha: float | None = None  # ΔW = lora_alpha / rank · B A; None is the rank
    sites: str = "attention"  # layers with a LoRA pair: "attention", "cross", "cross-kv", "cross-kv-ff" or "all"
    vectors: int = 1  # tokens of a learned word
    steps: int = 500  # optimiser steps
    batch: int = 4  # pictures a step and job
    lr: float = 1e-4  # of the LoRA pairs, peak; a factor, normally 1, with Prodigy
    lr_placeholder: float = 5e-4  # of the learned words, peak; the same as lr with Prodigy
    warmup: int = 0  # steps until the peak, linear
    schedule: str = "constant"  # "constant" or "cosine", which falls to 0 after the warm-up
    optimizer: str = "adamw"  # "adamw" or "prodigy"
    weight_decay: float = 0.0  # a step, times the learning rate; of the LoRA pairs only
    clip: float | None = 1.0  # largest gradient norm of a job; None for no limit
    guidance_weight: float = 0.1  # λ; about 1 / alpha is a sensible size
    alpha: float = 15.0  # guidance scale of the frozen base at y_c (paper 15; 7.5 for several subjects)
    beta: float = 7.5  # guidance scale of the student at y_P (paper 7.5; 1 for several subjects)
    gamma: float = 1.5  # "composed", "regional": how far their targets go from what the subject's adapter says
    subject_scale: float = 1.0  # residual form: strength of the frozen subject adapters, and of any beside the result
    prior_weight: float = 0.0  # of ‖student − base‖² at the photo prompt, per latent dimension; 0 for none
    min_snr: float | None = None  # γ of min-SNR weights (arXiv 2303.09556), on all terms; None for none
    t_min: float = 0.0  # timesteps are drawn evenly from this share of the schedule …
    t_max: float = 1.0  # … up to this one
    gradient_checkpointing: bool = False  # less memory, a third more time
    dtype: str = "float32"  # of the finished adapters; what is trained stays float32

    def __post_init__(self) -> None:
        for name in ("rank", "vectors", "steps", "batch"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("lr", "subject_scale"):
            self.require(name, getattr(self, name) > 0, "above 0")
        unsigned = ("lr_placeholder", "warmup", "weight_decay", "guidance_weight", "prior_weight")
        for name in unsigned:
            self.require(name, getattr(self, name) >= 0, "0 or above")
        for name in ("lr", "subject_scale", *unsigned, "alpha", "beta", "gamma"):
            self.require(name, math.isfinite(getattr(self, name)), "finite")
        self.require("t_min", 0 <= self.t_min < 1, "from 0 to below 1")
        self.require("t_max", self.t_min < self.t_max <= 1, f"above t_min {self.t_min}, up to 1")
        for name in ("lora_alpha", "clip", "min_snr"):
            value = getattr(self, name)
            self.require(name, value is None or 0 < value < math.inf, "above 0, or left out")
        choices = {
            "sites": tuple(SITES),
            "schedule": ("constant", "cosine"),
            "optimizer": ("adamw", "prodigy"),
            "dtype": ("float32", "float16", "bfloat16"),
        }
        for name, allowed in choices.items():
            self.require(name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
        same_lr = self.optimizer == "adamw" or self.lr == self.lr_placeholder
        self.require("lr_placeholder", same_lr, f"{self.lr} like lr, for Prodigy finds the step size itself")

    def t_range(self, timesteps: int) -> tuple[int, int]:
        """The timesteps drawn of so many: from the first up to below the second, one at least."""
        low = min(round(self.t_min * timesteps), timesteps - 1)
        return low, max(round(self.t_max * timesteps), low + 1)

    def lr_scale(self, step: int) -> float:
        """Factor on the learning rates in a step, numbered from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
