"""One optimiser for K slots, in which no slot knows of another.

Every tensor has the slot as its leading dimension. Gradients and state are matrices of one row a slot, so a
step is the same few large operations for one slot and for a hundred, and clipping, step counts, step sizes
and freezing are things of rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palp.errors import InputError

__all__ = ["SlotOptimizer", "SlotParameters"]

D0 = 1e-6  # Prodigy's first estimate of its step size
Rows = dict[str, Tensor]  # state by name; "steps" is [slots], the others [slots] or [slots elements]


@dataclass(frozen=True)
class Settings:
    """Of the rules: decay of both averages per step, and what is added to the root of the second."""

    betas: tuple[float, float]
    eps: float


@dataclass(frozen=True)
class SlotParameters:
    """Tensors that share a learning rate.

    Args:
        tensors: by name, [slots ...]: "down.x" [slots rank in], "placeholder.[V].text_encoder" [slots n dim].
        lr: learning rate; for Prodigy a factor on its own estimate, normally 1, and the same in every group.
        weight_decay: decoupled, per step, times the learning rate.
    """

    tensors: Mapping[str, Tensor]
    lr: float
    weight_decay: float = 0.0


class SlotOptimizer:
    """AdamW or Prodigy for K slots at once; each slot moves as if it had an optimiser of its own.

    "adamw" is Loshchilov and Hutter's rule, as in torch.optim.AdamW. "prodigy" is that of Mishchenko and
    Defazio, as in prodigyopt with bias correction and safeguarded warm-up; each slot has a step size d.

    Args:
        groups: every tensor that learns, with the same K, on one device.
        name: "adamw" or "prodigy".
        betas: decay of the averages of the gradient and of its square, per step.
        eps: added to the root of the second.
        max_norm: a slot's gradient, over all its tensors, is scaled down to this norm; inf for never.

    Raises:
        InputError: an unknown name, tensors that disagree on K, or Prodigy with several learning rates.
    """

    def __init__(
        self,
        groups: Sequence[SlotParameters],
        name: str = "adamw",
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_norm: float = 1.0,
    ) -> None:
        if name not in RULES:
            raise InputError(f"there is no optimiser {name!r}: choose one of {', '.join(RULES)}")
        if name == "prodigy" and len({group.lr for group in groups}) > 1:
            raise InputError("Prodigy finds one step size a slot: give every group the same lr, normally 1")
        self.name, self.groups, self.max_norm = name, tuple(groups), max_norm
        self._settings = Settings(betas, eps)
        self._tensors = [tensor for group in groups for tensor in group.tensors.values()]
        if len({len(tensor) for tensor in self._tensors}) != 1:
            raise InputError("tensors with different leading dimensions were given: each must have one row a slot")
        self.slots = len(self._tensors[0])
        self._state = _start(name, _flat(self._tensors).detach())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for tensor in self._tensors:
            tensor.grad = None

    @torch.no_grad()
    def step(
        self, active: Bool[Tensor, "slots"], lr_scale: Float[Tensor, "slots"] | None = None
    ) -> Float[Tensor, "slots"]:
        """Move the active slots whose gradients are finite; the others' rows and state stay bit for bit.

        Args:
            active: the slots that are still learning.
            lr_scale: each slot's factor on the learning rates, such as its warm-up; 1 if not given.

        Returns:
            Each slot's gradient norm before clipping; not finite where the slot was passed over for that.
        """
        gradient = _flat([torch.zeros_like(t) if t.grad is None else t.grad for t in self._tensors])
        norms: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        moving = active.to(norms.device) & norms.isfinite()
        rows = moving.nonzero().squeeze(1)
        if len(rows):
            scale = torch.ones_like(norms) if lr_scale is None else lr_scale.to(norms)
            self._move(rows, gradient, norms, scale)
        return norms

    def _move(self, rows: Tensor, gradient: Tensor, norms: Tensor, lr_scale: Tensor) -> None:
        everyone = len(rows) == self.slots
        state = self._state if everyone else {name: value[rows] for name, value in self._state.items()}
        clip = (self.max_norm / (norms[rows] + 1e-6)).clamp(max=1.0)
        clipped = (gradient if everyone else gradient[rows]) * clip[:, None]
        lr = lr_scale[rows] * self.groups[0].lr  # only Prodigy looks at it, and has one lr
        direction, size = RULES[self.name](state, clipped, self._weights(rows), lr, self._settings)
        if not everyone:
            for name, value in state.items():
                self._state[name][rows] = value
        columns = iter(direction.split([sum(t[0].numel() for t in group.tensors.values()) for group in self.groups], 1))
        for group in self.groups:
            rate = size * lr_scale[rows] * group.lr
            tensors = list(group.tensors.values())
            _apply(tensors, None if everyone else rows, next(columns), rate, group.weight_decay)

    def _weights(self, rows: Tensor) -> Callable[[], Tensor]:
        return lambda: _flat([tensor[rows] for tensor in self._tensors])

    def reset(self, slot: int) -> None:
        """Forget what a slot's optimiser has gathered, as in a new one."""
        start = _start(self.name, _flat(self._tensors).detach()[:1])
        for name, value in start.items():
            self._state[name][slot] = value[0]

    def state_dict(self) -> dict[str, Any]:
        """Copies of the rule's name and state, enough to go on bit for bit."""
        return {"name": self.name, "state": {name: value.clone() for name, value in self._state.items()}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            InputError: it is of another rule, number of slots or set of tensors.
        """
        shapes = {name: tuple(value.shape) for name, value in saved["state"].items()}
        mine = {name: tuple(value.shape) for name, value in self._state.items()}
        if (saved["name"], shapes) != (self.name, mine):
            raise InputError(
                f"the saved optimiser is {saved['name']} with {shapes}, this one {self.name} with {mine}: "
                "resume with the settings of the run that saved it"
            )
        for name, value in saved["state"].items():
            self._state[name].copy_(value)


def _flat(tensors: Sequence[Tensor]) -> Float[Tensor, "slots elements"]:
    """One row a slot, in float32, or in float64 if a tensor is."""
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return torch.cat([tensor.flatten(1).to(widest) for tensor in tensors], dim=1)


def _start(rule: str, like: Float[Tensor, "slots elements"]) -> Rows:
    per_slot = torch.zeros_like(like[:, 0])
    state = {"steps": per_slot.clone(), "mean": torch.zeros_like(like), "square": torch.zeros_like(like)}
    if rule == "prodigy":
        state |= {"sum": torch.zeros_like(like), "origin": torch.zeros_like(like)}
        state |= {"numerator": per_slot.clone(), "d": torch.full_like(per_slot, D0)}
    return state


def _one_minus_power(beta: float, steps: Tensor) -> Tensor:
    """1 - beta^steps, exact for few steps in float32 too, as a column."""
    return -torch.expm1(steps * math.log(beta))[:, None]


def _adamw(
    state: Rows, gradient: Tensor, weights: Callable[[], Tensor], lr: Tensor, to: Settings
) -> tuple[Tensor, Tensor]:
    """m ← β₁m + (1-β₁)g, v ← β₂v + (1-β₂)g²; the step is m̂ / (√v̂ + eps)."""
    beta1, beta2 = to.betas
    steps, mean, square = state["steps"].add_(1), state["mean"], state["square"]
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = square.sqrt().div_(_one_minus_power(beta2, steps).sqrt()).add_(to.eps)
    return mean / root / _one_minus_power(beta1, steps), torch.ones_like(steps)


def _prodigy(
    state: Rows, gradient: Tensor, weights: Callable[[], Tensor], lr: Tensor, to: Settings
) -> tuple[Tensor, Tensor]:
    """AdamW on d·g with step size d; d grows to the largest averaged ⟨g, x₀ - x⟩ / ‖s‖₁ so far."""
    (beta1, beta2), beta3 = to.betas, math.sqrt(to.betas[1])
    steps, d, numerator = state["steps"], state["d"].clone(), state["numerator"]
    correction = (_one_minus_power(beta2, steps + 1).sqrt() / _one_minus_power(beta1, steps + 1)).squeeze(1)
    now = weights()
    state["origin"].copy_(torch.where(steps[:, None] == 0, now, state["origin"]))
    toward = (gradient * (state["origin"] - now)).sum(1)
    state["mean"].mul_(beta1).add_(gradient * d[:, None] * (1 - beta1))
    state["square"].mul_(beta2).add_((gradient * d[:, None]).square() * (1 - beta2))
    state["sum"].mul_(beta3).add_(gradient * (d * d / D0)[:, None])
    length = state["sum"].abs().sum(1)
    moves = length > 0
    grown = beta3 * numerator + (d / D0) * d * lr * correction * toward
    numerator.copy_(torch.where(moves, grown, numerator))
    state["d"].copy_(torch.where(moves, torch.maximum(d, numerator / length), d))
    steps.add_(moves)
    direction = state["mean"] / (state["square"].sqrt() + (state["d"] * to.eps)[:, None])
    return direction, d * correction * moves


def _apply(
    tensors: Sequence[Tensor], rows: Tensor | None, direction: Tensor, rate: Tensor, weight_decay: float
) -> None:
    """x ← x - rate · (weight_decay · x + direction), on some rows or, in place, on all."""
    moves = (rate[:, None] * direction).split([tensor[0].numel() for tensor in tensors], 1)
    if rows is None and not weight_decay:  # a launch for all of them: on a GPU those are most of a step's time
        torch._foreach_sub_(list(tensors), [move.view_as(tensor) for tensor, move in zip(tensors, moves, strict=True)])
        return
    for tensor, move in zip(tensors, moves, strict=True):
        part = tensor if rows is None else tensor[rows]
        column = rate.view(-1, *[1] * (tensor.ndim - 1))
        moved = part * (1 - column * weight_decay) - move.view_as(part)
        if rows is None:
            tensor.copy_(moved)
        else:
            tensor[rows] = moved.to(tensor.dtype)


RULES = {"adamw": _adamw, "prodigy": _prodigy}
