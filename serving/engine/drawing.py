"""Pictures being drawn, each with its own sampler and step, and the one call of the denoiser that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.base import Base, TextState
from serving.contract import Details
from serving.engine.entry import Entry
from serving.engine.slots import Slots

__all__ = ["Drawing", "Prediction", "SharedText", "Stage", "denoise", "preview_steps"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the denoiser said of one picture.

    Args:
        x_t: its input, in the variance-preserving form of the base's schedule.
        t: timestep.
        output: native output, guided.
    """

    x_t: Float[Tensor, "1 c h w"]
    t: Int[Tensor, "1"]
    output: Float[Tensor, "1 c h w"]


@dataclass(frozen=True, eq=False)
class Stage:
    """What a picture is drawn with down to a timestep.

    Args:
        slot: of its adapters.
        guidance: scale; 1 where `text` has one row.
        text: what its rows of a batch read: with guidance the negative prompt, then the prompt; else the prompt.
            Projected through `slot`, so that no step makes the text's keys and values again.
        down_to: the least timestep that it is for.
    """

    slot: int
    guidance: float
    text: TextState
    down_to: int = 0


@dataclass(eq=False)
class Drawing:
    """One picture on its way.

    Args:
        entry: whose it is.
        stages: its opening, if it has one, and what it is drawn with from there.
        sampler: of diffusers, this picture's alone.
        latents: the sampler's.
        notes: how to draw it again.
        seconds: wall time by stage.
        reliability: of the predicted adapter, None without one.
        abstained: whether the prediction was refused.
        step: steps done.
        mates: pictures in its calls of the denoiser, summed over the steps.
        previews_at: steps after which a preview is due.
        estimate: what the finished latents may be, where a preview is due.
    """

    entry: Entry
    stages: Sequence[Stage]
    sampler: Any
    latents: Float[Tensor, "1 c h w"]
    notes: Mapping[str, str]
    seconds: dict[str, float]
    reliability: float | None = None
    abstained: bool = False
    step: int = 0
    mates: int = 0
    previews_at: frozenset[int] = frozenset()
    estimate: Float[Tensor, "1 c h w"] | None = None

    @property
    def steps(self) -> int:
        """In all."""
        return len(self.sampler.timesteps)

    @property
    def timestep(self) -> int:
        """Of the next step, as the base counts noise."""
        return int(self.sampler.timesteps[self.step])

    @property
    def stage(self) -> Stage:
        """What the next step is drawn with."""
        return next(stage for stage in self.stages if self.timestep >= stage.down_to)

    @property
    def left(self) -> int:
        """Steps left of its stage."""
        return int((self.sampler.timesteps[self.step :] >= self.stage.down_to).sum())

    @property
    def finished(self) -> bool:
        """Whether the latents are final."""
        return self.step >= self.steps

    def input(self) -> Float[Tensor, "1 c h w"]:
        """What the denoiser is to see next; may be asked for again."""
        scaled: Tensor = self.sampler.scale_model_input(self.latents, self.sampler.timesteps[self.step])
        return scaled

    def advance(self, prediction: Prediction, batch_size: int) -> None:
        """Make the step."""
        timestep = self.sampler.timesteps[self.step]
        self.latents = self.sampler.step(prediction.output, timestep, self.latents, return_dict=False)[0]
        self.step += 1
        self.mates += batch_size

    @property
    def preview_due(self) -> bool:
        """Whether the step just made is one to show."""
        return self.step in self.previews_at

    def details(self) -> Details:
        """How the picture came about."""
        seconds = {stage: round(value, 6) for stage, value in self.seconds.items()}
        return Details(seconds, self.mates / max(self.step, 1), self.abstained, self.reliability, self.notes)


def preview_steps(steps: int, previews: int) -> frozenset[int]:
    """The steps after which a preview is due, evenly spread, without the last one."""
    return frozenset(round(steps * k / (previews + 1)) for k in range(1, previews + 1)) - {0, steps}


class SharedText:
    """What a batch reads of its pictures' prompts, joined again only when its pictures or what they read changes."""

    def __init__(self) -> None:
        self._parts: list[TextState] = []
        self._text: TextState | None = None

    def of(self, drawings: Sequence[Drawing]) -> TextState:
        """The rows of these pictures, in their order."""
        parts = [drawing.stage.text for drawing in drawings]
        if self._text is None or self._parts != parts:
            self._parts, self._text = parts, TextState.cat(parts)
        return self._text


@torch.no_grad()
def denoise(base: Base, slots: Slots, drawings: Sequence[Drawing], shared: SharedText) -> list[Prediction]:
    """One call of the denoiser for pictures at any steps, with any guidance, through their own slots.

    Changes nothing, so that it may be called again for some of them. Side by side in a batch are the rows of one
    picture, and best the pictures of one slot.
    """
    inputs = [drawing.input() for drawing in drawings]
    rows = [len(drawing.stage.text) for drawing in drawings]
    times = [drawing.timestep for drawing in drawings]
    counts = torch.tensor(rows)
    through = torch.tensor([drawing.stage.slot for drawing in drawings]).repeat_interleave(counts)
    t = torch.tensor(times).repeat_interleave(counts).to(base.device)
    x_t = torch.cat([x.expand(n, -1, -1, -1) for x, n in zip(inputs, rows, strict=True)])
    with slots.route_projected(through):
        outputs = base.predict(x_t, t, shared.of(drawings)).split(rows)
    first = [sum(rows[:i]) for i in range(len(rows))]
    return [
        Prediction(x, t[i : i + 1], _guided(output, drawing.stage.guidance))
        for x, i, output, drawing in zip(inputs, first, outputs, drawings, strict=True)
    ]


def _guided(output: Float[Tensor, "rows c h w"], guidance: float) -> Float[Tensor, "1 c h w"]:
    """null + guidance (text − null), or the one row there is."""
    if len(output) == 1:
        return output
    return output[:1] + guidance * (output[1:] - output[:1])
