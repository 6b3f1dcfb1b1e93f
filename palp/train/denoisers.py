"""The models that a guidance rule may ask, as routes through the banks on one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.bank import AdapterBank
from palp.base import Base, TextState
from palp.guidance import Prompt

States: TypeAlias = Callable[[Prompt, Int[Tensor, "rows"]], TextState]
"""The text states of a prompt for samples that show these subjects; `palp.train.words.PromptStates` is one."""


@dataclass(frozen=True, eq=False)
class Route:
    """A bank and the slot in it that each sample goes through."""

    bank: AdapterBank
    slots: Int[Tensor, "rows"]

    def rows(self, index: Int[Tensor, "some"]) -> Route:
        """That of some of the samples."""
        return Route(self.bank, self.slots[index])


@dataclass(frozen=True, eq=False)
class BankDenoisers:
    """`palp.guidance.Denoisers` on one base with a bank in training, for some samples of a step.

    What does not learn is asked each distinct question once: jobs of one seed and phase share pictures, timesteps and
    noise, so over the same subjects most of their questions to the subject's model and to the base are the same.

    Args:
        model: the base.
        states: text states of the subjects' prompts.
        subjects: which subject each sample shows.
        trained: the bank in training.
        frozen: residual form: the bank of subject adapters.
    """

    model: Base
    states: States
    subjects: Int[Tensor, "rows"]
    trained: Route
    frozen: Route | None

    def rows(self, index: Int[Tensor, "some"] | None) -> BankDenoisers:
        """The same for some of the samples; None is all of them."""
        if index is None:
            return self
        frozen = None if self.frozen is None else self.frozen.rows(index)
        return replace(self, subjects=self.subjects[index], trained=self.trained.rows(index), frozen=frozen)

    @torch.no_grad()
    def base(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Noise predicted by the frozen base."""
        return self._unlearned(x_t, t, prompts, None)

    @torch.no_grad()
    def student(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Noise predicted by the model in training."""
        with self.as_student(len(prompts)):
            return self.model.predict_noise(*self._questions(x_t, t, prompts)).chunk(len(prompts))

    @torch.no_grad()
    def teacher(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Noise predicted with the frozen subject adapters alone; in the joint form that is the base."""
        return self._unlearned(x_t, t, prompts, self.frozen)

    @contextmanager
    def as_student(self, copies: int) -> Iterator[None]:
        """Within, the base is the model in training, for batches of the samples `copies` times over."""
        with _through(self.trained, copies), _through(self.frozen, copies):
            yield

    def _unlearned(
        self, x_t: Tensor, t: Tensor, prompts: tuple[Prompt, ...], frozen: Route | None
    ) -> tuple[Tensor, ...]:
        x, times, text = self._questions(x_t, t, prompts)
        columns = [x, times, text.hidden, *([] if text.pooled is None else [text.pooled])]
        if frozen is not None:
            frozen = Route(frozen.bank, frozen.slots.repeat(len(prompts)))
            columns.append(frozen.slots.to(x.device))
        first, kind = distinct(*columns)
        asked = None if frozen is None else frozen.rows(first.cpu())
        with _through(self.trained, 0), _through(self.frozen, 0), _through(asked, 1):
            noise = self.model.predict_noise(x[first], times[first], text[first])
        return noise[kind].chunk(len(prompts))

    def _questions(self, x_t: Tensor, t: Tensor, prompts: tuple[Prompt, ...]) -> tuple[Tensor, Tensor, TextState]:
        """Every sample at every prompt, those of a prompt side by side."""
        n = len(prompts)
        text = TextState.cat([self.states(prompt, self.subjects) for prompt in prompts])
        return x_t.repeat(n, 1, 1, 1), t.repeat(n), text


def distinct(*columns: Tensor) -> tuple[Int[Tensor, "kinds"], Int[Tensor, "rows"]]:
    """Which rows are equal in all columns: the first row of each kind, in their order, and the kind of each row.

    Rows are told apart by a 64-bit sum of their bits, each times a random number: a GPU sorts these in no time.
    """
    bits = [column.reshape(len(column), -1).float().view(torch.int32) for column in columns]  # nan is like itself
    factors = _factors(sum(part.shape[1] for part in bits), bits[0].device).split([part.shape[1] for part in bits])
    keys = torch.stack([(part * factor).sum(dim=1) for part, factor in zip(bits, factors, strict=True)]).sum(dim=0)
    kinds, kind = torch.unique(keys, return_inverse=True)
    numbers = torch.arange(len(keys), device=keys.device)
    first = torch.full((len(kinds),), len(keys), device=keys.device).scatter_reduce(0, kind, numbers, "amin")
    order = first.argsort()
    return first[order], order.argsort()[kind]


@cache
def _factors(count: int, device: torch.device) -> Int[Tensor, "count"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator).to(device)


@contextmanager
def _through(route: Route | None, copies: int) -> Iterator[None]:
    """Within, batches of the samples `copies` times over go through the route's bank; 0 copies: past it."""
    with ExitStack() as stack:
        if route is not None:
            stack.enter_context(route.bank.route(route.slots.repeat(copies) if copies else None))
        yield


def native_of(
    base: Base, x_t: Float[Tensor, "rows c h w"], t: Int[Tensor, "rows"], *texts: TextState
) -> tuple[Tensor, ...]:
    """Native predictions at the same x_t for several texts, one batched call, with gradient."""
    n = len(texts)
    return base.predict(x_t.repeat(n, 1, 1, 1), t.repeat(n), TextState.cat(texts)).chunk(n)
