"""One evaluation from end to end: adapters, pictures, scores; killed and run again, it goes on where it was."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from palp.base import Base
from palp.base.icons.grammar import Scene
from palp.base.icons.judges import AttributeJudge, SmallCLIP
from palp.draw import Sampling
from palp.evaluate.drawing import Gallery, Shot
from palp.evaluate.methods import Cell, Choices, Method, Need, Plan, stopped
from palp.evaluate.metrics import PHOTO_METRICS, PROMPT_METRICS, Examiner, Scores
from palp.evaluate.protocol import Protocol, clean_prompt, photo_prompt, renders, target_prompt
from palp.evaluate.shelf import Bar, Shelf
from palp.guidance import Prompt
from palp.recipes import guidance_scale

__all__ = ["RENDERED", "Study"]

RENDERED = "rendered"
"""Row of the scenes themselves as the picture world draws them: what a perfect method would get."""
RENDER_SEEDS_FROM = 1000  # other layouts than those that pictures are compared with


@dataclass(frozen=True)
class _Drawn:
    """What is scored of a subject and a target: shots of the target and of "a photo of [V]"."""

    subject: str
    target: Scene
    on_prompt: Shot
    on_photo: Shot


class Study:
    """Methods on a protocol.

    Args:
        base: the embedded base.
        judges: of the picture world.
        protocol: subjects, targets, seeds.
        folder: of adapters and pictures, reused by every evaluation in it.
        sizes: settings over those of every recipe.
        choices: settings that a sweep has chosen.
        bar: for progress.
    """

    def __init__(
        self,
        base: Base,
        judges: tuple[AttributeJudge, SmallCLIP],
        protocol: Protocol,
        folder: Path,
        bar: Bar,
        sizes: Mapping[str, Any] | None = None,
        choices: Choices | None = None,
    ) -> None:
        self.protocol, self.choices = protocol, choices or {}
        self.sampling = Sampling(guidance=guidance_scale(base.name))
        self.shelf = Shelf(base, folder / "adapters", sizes or {}, bar)
        self._gallery = Gallery(self.shelf, folder / "pictures", self.sampling, bar)
        self._examiner = Examiner(judges, protocol)

    def with_choices(self, choices: Choices) -> Study:
        """The same study with other settings chosen, on the same adapters and pictures."""
        other = copy.copy(self)
        other.choices = choices
        return other

    def train(self, methods: Iterable[Method], on_the_way: Iterable[tuple[Method, float]] = ()) -> None:
        """Train all that the methods need; `on_the_way` also takes adapters after a share of their training."""
        self.shelf.fill(self.needs(methods, on_the_way))

    def needs(self, methods: Iterable[Method], on_the_way: Iterable[tuple[Method, float]] = ()) -> list[Need]:
        """Every adapter that the methods draw with."""
        wanted = [*((method, 1.0) for method in methods), *on_the_way]
        plans = [self._plan(method, *pair, share) for method, share in wanted for pair in self._pairs()]
        return [need for plan in plans for need, _ in plan.parts]

    def scores(self, method: Method, share: float = 1.0) -> Scores:
        """Every metric of every picture, by subject, then target, then seed; draws what is missing."""
        drawn = [self._drawn(method, subject, target, share) for subject, target in self._pairs()]
        self._gallery.fill([shot for row in drawn for shot in (row.on_prompt, row.on_photo)], method.label)
        parts = [
            {
                **self._examiner.on_prompt(self._gallery.pictures(row.on_prompt), row.subject, row.target),
                **self._examiner.on_photo(self._gallery.pictures(row.on_photo), row.subject),
            }
            for row in drawn
        ]
        return _joined(parts)

    def rendered_scores(self) -> Scores:
        """The same of the scenes themselves, in layouts of their own."""
        parts = []
        for subject, target in self._pairs():
            on_prompt, on_photo = self.rendered(subject, target), self.rendered(subject, Scene(""))
            parts.append(
                {
                    **self._examiner.on_prompt(on_prompt, subject, target),
                    **self._examiner.on_photo(on_photo[: len(self.protocol.photo_seeds)], subject),
                }
            )
        return _joined(parts)

    def steps(self, method: Method, share: float) -> int:
        """Optimiser steps of a method's own adapter at a share of its training."""
        plan = self._plan(method, *self._pairs()[0], share)
        return self.shelf.stop(plan.parts[-1][0])

    def clusters(self, metric: str) -> list[str]:
        """The subject of each number of `scores`."""
        seeds = self.protocol.photo_seeds if metric in PHOTO_METRICS else self.protocol.seeds
        return [name for name in self.protocol.subjects for _ in self.protocol.targets for _ in seeds]

    def pictures(self, method: Method, subject: str, target: Scene) -> Float[Tensor, "seeds 3 H W"]:
        """What a method has drawn."""
        return self._gallery.pictures(self._drawn(method, subject, target, 1.0).on_prompt)

    def rendered(self, subject: str, target: Scene) -> Float[Tensor, "seeds 3 H W"]:
        """The target with the character itself."""
        seeds = [RENDER_SEEDS_FROM + seed for seed in self.protocol.seeds]
        return renders(replace(target, subject=subject), seeds)

    def _pairs(self) -> list[tuple[str, Scene]]:
        return [(subject, target) for subject in self.protocol.subjects for target in self.protocol.targets]

    def _plan(self, method: Method, subject: str, target: Scene, share: float) -> Plan:
        plan = method.plan(Cell(subject, target, self.protocol, self.choices))
        return plan if share == 1 else stopped(plan, share)

    def _drawn(self, method: Method, subject: str, target: Scene, share: float) -> _Drawn:
        plan, protocol = self._plan(method, subject, target, share), self.protocol
        clean, photo = clean_prompt(target, subject), photo_prompt(subject)
        if not plan.parts:
            shots = Shot(plan, clean, protocol.seeds), Shot(plan, photo, protocol.photo_seeds)
        else:
            prompt = target_prompt(target)
            asked: tuple[tuple[Prompt, str], ...] = (
                ("personal", photo_prompt()), ("clean", clean), ("photo", photo), ("target", prompt)
            )  # fmt: skip
            alone = replace(plan, parts=plan.opening or plan.parts, composition=None, opening=())  # nothing to compose
            shots = (
                Shot(plan, prompt, protocol.seeds, None if plan.composition is None else asked),
                Shot(alone, photo_prompt(), protocol.photo_seeds),
            )
        return _Drawn(subject, target, *shots)


def _joined(parts: Sequence[Scores]) -> Scores:
    metrics = (*PROMPT_METRICS, *PHOTO_METRICS)
    return {name: np.concatenate([part[name] for part in parts]) for name in metrics}
