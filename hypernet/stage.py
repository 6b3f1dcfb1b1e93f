"""The frozen base with a subject's adapter present, on which prompt adapters given as tensors are tried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypernet.draws import HyperBatch
from hypernet.factors import Factors
from hypernet.prompts import prompts_of
from palp.adapter import AdapterSpec
from palp.bank import AdapterBank
from palp.base import Base, TextState
from palp.compose import in_one_frame
from palp.corpus import CorpusSubject
from palp.guidance import RESIDUAL, Prompt, Rule, find_rule
from palp.prompts import Prompts
from palp.train import TrainSettings
from palp.train.denoisers import BankDenoisers, Route

__all__ = ["Samples", "Stage", "recipe_rule", "recipe_settings", "refining"]

REFINE_RATE = 1 / 8  # of the recipe's learning rate


@dataclass(frozen=True, eq=False)
class Samples:
    """A batch, noised, and the denoisers that may be asked about it.

    Args:
        batch: the draw.
        x_t: noised latents.
        denoisers: with each sample's subject, and the slot of its prompt.
    """

    batch: HyperBatch
    x_t: Float[Tensor, "rows c h w"]
    denoisers: BankDenoisers


class Stage:
    """Base, subject adapters and room for the adapters of a batch's prompts.

    Args:
        base: frozen.
        spec: of the prompt adapters.
        subjects: whose adapters may be present.
        slots: prompts in a batch, at most.
        subject_scale: strength of the subjects' adapters.
    """

    def __init__(
        self,
        base: Base,
        spec: AdapterSpec,
        subjects: Sequence[CorpusSubject],
        slots: int,
        subject_scale: float = 1.0,
    ) -> None:
        self.base, self.subjects = base, tuple(subjects)
        own = in_one_frame([subject.adapter.scaled(subject_scale) for subject in subjects])
        self._subject_bank = AdapterBank.holding(base.unet, own).requires_grad_(False)
        self._bank = AdapterBank(base.unet, spec, slots).requires_grad_(False)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within, the base has the banks."""
        banks = (self._bank.attach(), self._subject_bank.attach())
        try:
            yield
        finally:
            for bank in banks:
                bank.detach()

    def samples(self, batch: HyperBatch) -> Samples:
        """The batch noised, its prompts encoded when they are first asked for."""
        x_t = self.base.schedule.add_noise(batch.x0, batch.noise, batch.t)
        states = _States(self.base, self._texts(batch), [self.subjects[i] for i in batch.subjects.tolist()])
        everyone = torch.arange(len(batch.t))
        routes = Route(self._bank, batch.rows), Route(self._subject_bank, batch.subjects)
        return Samples(batch, x_t, BankDenoisers(self.base, states, everyone, *routes))

    def native(
        self, samples: Samples, factors: Factors, rows: Int[Tensor, "rows"] | None = None
    ) -> Float[Tensor, "rows c h w"]:
        """The denoiser's own output at y, each sample through its subject's and its prompt's adapter; differentiable.

        Args:
            factors: of the batch's prompts.
            rows: whose factors each sample gets; by default its own prompt's.
        """
        denoisers = samples.denoisers
        slots = denoisers.trained.slots if rows is None else rows
        text = denoisers.states("target", denoisers.subjects)
        frozen = denoisers.frozen
        assert frozen is not None
        self._check(factors)
        with (
            self._bank.lend(factors.down, factors.up),
            self._bank.route(slots),
            self._subject_bank.route(frozen.slots),
        ):
            return self.base.predict(samples.x_t, samples.batch.t, text)

    def alone(self, samples: Samples) -> Float[Tensor, "rows c h w"]:
        """The denoiser's own output at y with the subject's adapter alone. No gradients."""
        denoisers = samples.denoisers
        frozen = denoisers.frozen
        assert frozen is not None
        with torch.no_grad(), self._subject_bank.route(frozen.slots):
            text = denoisers.states("target", denoisers.subjects)
            return self.base.predict(samples.x_t, samples.batch.t, text)

    def _check(self, factors: Factors) -> None:
        self._bank.spec.check(factors.spec)

    def _texts(self, batch: HyperBatch) -> list[Prompts]:
        words = [self.subjects[i].class_word for i in batch.subjects.tolist()]
        return [prompts_of(batch.prompts[row].text, word) for row, word in zip(batch.rows.tolist(), words, strict=True)]


class _States:
    """The text states of a batch's prompts; a `palp.train.denoisers.States`."""

    def __init__(self, base: Base, texts: Sequence[Prompts], subjects: Sequence[CorpusSubject]) -> None:
        self._base, self._texts, self._subjects = base, texts, subjects
        self._known: dict[Prompt, TextState] = {}

    @torch.no_grad()
    def __call__(self, prompt: Prompt, subjects: Int[Tensor, "rows"]) -> TextState:
        if prompt not in self._known:
            texts = ["" if prompt == "null" else str(getattr(text, prompt)) for text in self._texts]
            words = [subject.adapter.placeholders for subject in self._subjects]
            self._known[prompt] = self._base.encode_prompts(texts, words)
        return self._known[prompt][subjects.to(self._base.device)]


def recipe_settings(recipe: Mapping[str, Any]) -> TrainSettings:
    """The training settings among a corpus' recipe; what else is in it is not for the trainer."""
    known = {field.name for field in fields(TrainSettings)}
    return TrainSettings.from_mapping({name: value for name, value in recipe.items() if name in known})


def recipe_rule(recipe: Mapping[str, Any]) -> Rule:
    """The guidance rule of a corpus' recipe."""
    return find_rule(str(recipe.get("rule", RESIDUAL)))


def refining(settings: TrainSettings, steps: int) -> TrainSettings:
    """The settings to train on with from a prediction, which is near the end of its training.

    Adam's first steps move every weight by the whole rate, however small its gradient: at the recipe's own, twenty of
    them may leave a prediction worse than they found it (`benchmarks/refining.py`).
    """
    return replace(settings, steps=steps, lr=settings.lr * REFINE_RATE, warmup=0)
