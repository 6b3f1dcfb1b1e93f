"""How a hypernetwork is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from palp.errors import InputError
from palp.settings import CheckedSettings

__all__ = ["TERMS", "HyperSettings"]

TERMS = ("delta", "direction", "norm", "contrastive", "behaviour", "shuffled", "recipe", "recipe_shuffled", "trust")
"""The terms of the loss; each has its weight in `HyperSettings`, and 0 switches it off."""
CHEAP_TERMS = ("delta", "direction", "norm", "contrastive", "trust")  # those that need no denoiser
TUNE_TERMS = ("recipe", "recipe_shuffled", "trust")  # those that need no adapter of the corpus
CORPUS_TERMS = tuple(term for term in TERMS if not term.startswith("recipe"))


@dataclass(frozen=True)
class HyperSettings(CheckedSettings):
    """loss = Σ weight · term; see `hypernet.losses`.

    Training has three parts: the corpus' adapters by their weights, then by what they do as well, and then the recipe's
    own loss, on prompts that the corpus has no adapter for. The first two are a quick way to where the third begins.

    Raises:
        InputError: a value out of its range, or no term at all.
    """

    steps: int = 4000  # optimiser steps, at most
    warm: int | None = (
        None  # of these, the first so many are on the weight side alone, without denoiser; None: 1 in 4 of the rest
    )
    tune: int | None = None  # of these, the last so many are on the recipe's own loss, without the corpus; None: half
    prompts: int = 16  # a step and process
    samples: int = 1  # noised pictures of each prompt
    lr: float = 5e-4  # peak
    lr_gain: float = 1e-2  # of each site's scale, which starts at zero; peak
    warmup: int = 100  # steps until the peak, linear; then a cosine to 0
    weight_decay: float = 0.01  # of matrices, a step, times the learning rate
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.998  # decay of the averaged weights a step, which are what is kept; less while few steps are done
    delta: float = 0.1  # weight of the relative error of ΔW
    direction: float = 0.1  # weight of 1 − cos
    norm: float = 0.01  # weight of the squared log ratio of norms
    contrastive: float = 0.1  # weight of telling the corpus' adapters apart, centred by their mean
    behaviour: float = 1.0  # weight of the relative error of the change in the denoiser's output
    shuffled: float = 0.2  # weight of the margin to another prompt's adapter
    recipe: float = 1.0  # weight of the corpus recipe's own loss, in that of the subjects alone
    recipe_shuffled: float = 1.0  # weight of the margin to another prompt's adapter in that loss
    trust: float = 0.1  # weight of telling the corpus' prompts from nonsense
    margin: float = 0.3  # of "shuffled", in relative errors
    recipe_margin: float = 0.15  # of "recipe_shuffled", in the loss of the subjects alone
    temperature: float = 0.1  # of "contrastive"
    validate_every: int = 250  # steps; the last one is validated too
    validation_prompts: int = 16  # held-out prompts looked at, at most
    patience: int = 6  # validations of the last part without a better score until it stops; 0 never stops early
    seed: int = 0  # of first weights and draws

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "validate_every"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("prompts", "validation_prompts"):
            self.require(name, getattr(self, name) >= 2, "at least 2, for a prompt is held against others")
        for name in ("lr", "lr_gain", "clip", "temperature"):
            self.require(name, 0 < getattr(self, name) < math.inf, "above 0")
        for name in ("warmup", "weight_decay", "margin", "recipe_margin", "patience", *TERMS):
            self.require(name, 0 <= getattr(self, name) < math.inf, "0 or above")
        self.require_seeds("seed")
        self.require("ema", 0 <= self.ema < 1, "from 0 to below 1")
        self.require("tune", 0 <= self.tune_steps <= self.steps, f"from 0 to steps {self.steps}")
        left = self.steps - self.tune_steps
        self.require("warm", 0 <= self.warm_steps <= left, f"from 0 to steps {self.steps} less tune {self.tune_steps}")
        for start in {0, self.warm_steps, left} - {self.steps}:
            if not self.weights(start).keys() - {"trust"}:
                raise InputError(f"all terms of step {start} have weight 0: give one a weight, or see warm and tune")

    @property
    def warm_steps(self) -> int:
        """How many steps are on the weight side alone."""
        return (self.steps - self.tune_steps) // 4 if self.warm is None else self.warm

    @property
    def tune_steps(self) -> int:
        """How many steps are on the recipe's own loss."""
        return self.steps // 2 if self.tune is None else self.tune

    def weights(self, step: int) -> dict[str, float]:
        """The weight of each term that counts in a step."""
        terms = TUNE_TERMS if self.tunes(step) else CHEAP_TERMS if step < self.warm_steps else CORPUS_TERMS
        return {term: getattr(self, term) for term in terms if getattr(self, term)}

    def tunes(self, step: int) -> bool:
        """Whether a step is one of the last, on the recipe's own loss."""
        return step >= self.steps - self.tune_steps

    def lr_scale(self, step: int) -> float:
        """Factor on the learning rates in a step, numbered from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
