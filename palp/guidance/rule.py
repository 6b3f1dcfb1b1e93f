"""What a guidance rule is: a pure function from a draw and the denoisers to one loss a sample.

All predictions are in noise form; v-prediction models are converted, noise = a v + s x_t. Losses are means
over the latent's dimensions, like the reconstruction loss, so that their weights compare: with λ·α ≈ 1 the
guidance moves the prediction about as strongly as the reconstruction does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from palp.errors import InputError

Prompt: TypeAlias = Literal["personal", "clean", "null", "target", "photo", "negative"]
"""y_P, y_c, the empty prompt, y, "a photo of a CLASS", and `palp.prompts.NEGATIVE`."""


@dataclass(frozen=True, eq=False)
class Draw:
    """One noised picture a sample, and what the student made of it.

    Args:
        x0: latents of the subject's picture.
        noise: ε, in x_t = a x0 + s ε.
        fresh_noise: another ε, for rules that want one.
        x_t: the noised latents.
        t: timestep.
        timesteps: how many there are, 1000.
        a, s: √ᾱ_t and √(1 − ᾱ_t).
        weight: w(t), that of the reconstruction loss in noise form: 1 for noise models, 1 / a² for v models.
        pred: the student's noise at the rule's own prompt, with gradient.
        x0_pred: x̂0 = (x_t − s pred) / a, without gradient (Eq. 2).
    """

    x0: Float[Tensor, "batch c h w"]
    noise: Float[Tensor, "batch c h w"]
    fresh_noise: Float[Tensor, "batch c h w"]
    x_t: Float[Tensor, "batch c h w"]
    t: Int[Tensor, "batch"]
    timesteps: int
    a: Float[Tensor, "batch 1 1 1"]
    s: Float[Tensor, "batch 1 1 1"]
    weight: Float[Tensor, "batch"]
    pred: Float[Tensor, "batch c h w"]
    x0_pred: Float[Tensor, "batch c h w"]

    def rows(self, index: Int[Tensor, "some"] | None) -> Draw:
        """Some of the samples; None is all of them."""
        if index is None:
            return self
        index = index.to(self.t.device)
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}
        return Draw(**{name: part[index] for name, part in parts.items()}, timesteps=self.timesteps)


@runtime_checkable
class Denoisers(Protocol):
    """The models a rule may ask, without gradients: one batched call for all the prompts of one question."""

    def base(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Noise predicted by the frozen base, [batch c h w] for each prompt."""

    def student(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Noise predicted by the model in training."""

    def teacher(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        """Residual form: noise predicted by the base with the frozen subject adapter alone."""


@runtime_checkable
class GuidanceSettings(Protocol):
    """The numbers that rules may use; `palp.train.TrainSettings` has them."""

    @property
    def alpha(self) -> float:
        """Guidance scale of the base at y_c."""

    @property
    def beta(self) -> float:
        """Guidance scale of the student at y_P."""

    @property
    def gamma(self) -> float:
        """How many times the base's change from photo to target is asked for."""


Loss: TypeAlias = Callable[[Draw, Denoisers, GuidanceSettings], Float[Tensor, "batch"]]
Target: TypeAlias = Callable[[Tensor, Tensor, Denoisers, float], Tensor]
"""x_t `[batch c h w]`, t `[batch]`, the denoisers and γ to a prediction `[batch c h w]`: what a residual distils."""


@dataclass(frozen=True)
class Rule:
    """A guidance rule by name.

    Args:
        loss: the function.
        student_prompt: where the student predicts `Draw.pred`: at "personal", beside the reconstruction loss
            (λ weighs the rule), or at "target", where the rule is the whole loss.
        target: of a rule that needs a frozen subject adapter as teacher: what it distils. Its weights over predictions
            sum to one, so it is the same in the noise and in the native form, and one can sample with it too.
    """

    name: str
    loss: Loss
    student_prompt: Literal["personal", "target"] = "personal"
    target: Target | None = None

    @property
    def residual(self) -> bool:
        """Whether it needs a frozen subject adapter."""
        return self.target is not None

    @property
    def reconstructs(self) -> bool:
        """Whether the reconstruction loss (Eq. 1) stands beside it."""
        return self.student_prompt == "personal"


RULES: dict[str, Rule] = {}


def register(name: str) -> Callable[[Loss], Loss]:
    """Decorator: the function is the rule `name`, beside the reconstruction loss."""

    def add(loss: Loss) -> Loss:
        add_rule(Rule(name, loss))
        return loss

    return add


def add_rule(rule: Rule) -> None:
    """Make a rule known by its name, which must be new."""
    assert rule.name not in RULES
    RULES[rule.name] = rule


def find_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        InputError: there is none.
    """
    if name not in RULES:
        raise InputError(f"there is no guidance rule {name!r}: choose one of {', '.join(sorted(RULES))}")
    return RULES[name]
