"""From an accepted request to a picture that can be drawn: adapters, slot, text states, sampler, noise."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from palp.adapter import Adapter
from palp.base import Base, TextState
from palp.base.sample import initial_noise, make_scheduler
from palp.compose import strengths
from palp.opening import Opening, opening_ends, opening_prompt
from palp.prompts import placeholders_in
from palp.recipes import guidance_scale, opening_of, recipe
from serving.engine.drawing import Drawing, Stage, preview_steps
from serving.engine.entry import Entry
from serving.engine.predictions import Forecast, Predictions, is_aligned
from serving.engine.refinement import Lesson, refine
from serving.engine.settings import EngineSettings
from serving.engine.slots import Part, Slots
from serving.engine.stored import Stored
from serving.subjects.library import Library
from serving.subjects.records import Record

__all__ = ["Plan", "Preparation"]


@dataclass(eq=False)
class Plan:
    """What a picture is to be drawn with.

    Args:
        entry: whose it is.
        subject: adapter, or None for the bare base.
        forecast: prediction for the prompt, or None where none was asked for.
        prompt_part: key and adapter of the prompt adapter, or None without one.
        said: about the prompt adapter, for the notes.
        seconds: wall time by stage so far.
    """

    entry: Entry
    subject: Adapter | None = None
    forecast: Forecast | None = None
    prompt_part: tuple[str, Adapter] | None = None
    said: str = "none"
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def abstained(self) -> bool:
        """Whether the prediction was refused."""
        return self.forecast is not None and self.forecast.adapter is None


class Preparation:
    """Prepares accepted requests, on the engine's thread.

    Args:
        base, library, predictions, stored: as in `BatchEngine`.
        settings: sizes.
    """

    def __init__(
        self,
        base: Base,
        library: Library,
        predictions: Predictions | None,
        settings: EngineSettings,
        stored: Stored,
    ) -> None:
        self._base, self._library, self._predictions, self._stored = base, library, predictions, stored
        ranks = [adapter.spec.rank for _, adapter in stored.values()]
        ranks += [] if predictions is None else [predictions.network.spec.rank]
        rank = (settings.subject_rank or recipe(base.name, "subject").rank) + max(ranks, default=0)
        self.slots = Slots(base, rank, settings.slots)
        self._negatives: OrderedDict[str, TextState] = OrderedDict()
        self._most_negatives = settings.negatives

    def plan(self, entry: Entry) -> Plan:
        """Load the subject, and find or predict the prompt's adapter.

        Raises:
            UnknownSubjectError, AdapterFileError, AdapterMismatchError: the subject's adapter is not what it was.
        """
        request, record, plan = entry.request, entry.record, Plan(entry)
        plan.seconds["queue"] = time.monotonic() - entry.accepted_at
        stored = self._stored.get(request.prompt_adapter)
        if stored is not None:
            plan.prompt_part, plan.said = stored, f"{request.prompt_adapter} ({stored[0][:12]})"
        if record is None or request.subject is None:
            return plan
        with _timed(plan.seconds, "compose"):
            plan.subject = self._library.adapter(request.owner, request.subject, record)
            plan.subject.check(self._base.fingerprint, self._base.sites("all"))
        if stored is None:
            self._predict(plan, record)
            plan.seconds["predict"] = 0.0 if plan.forecast is None else plan.forecast.seconds
        return plan

    def refinement(self, plan: Plan) -> Generator[None, None, Adapter] | None:
        """The training that a plan asks for, or None; its result goes into the plan with `refined`.

        Raises:
            InputError: the subject has no pictures.
        """
        request, record = plan.entry.request, plan.entry.record
        if not request.refine or plan.forecast is None or plan.subject is None or record is None:
            return None
        assert self._predictions is not None
        assert request.subject is not None
        network = self._predictions.network
        lesson = Lesson(
            prompt=request.prompt,
            class_word=record.class_word,
            pictures=self._library.pictures(request.owner, request.subject, record.words[0]),
            subject=plan.subject,
            spec=network.spec,
            start=plan.forecast.adapter,
            steps=request.refine,
            recipe=network.recipe,
        )
        return refine(self._base, lesson)

    def refined(self, plan: Plan, adapter: Adapter) -> None:
        """Draw with this prompt adapter, which was trained from the prediction."""
        assert plan.forecast is not None
        request, record = plan.entry.request, plan.entry.record
        assert record is not None
        plan.prompt_part = (f"{plan.forecast.key}:{request.prompt}:{request.refine}:{record.adapter}", adapter)
        plan.said += f", refined by {request.refine} steps"

    def begin(self, plan: Plan) -> Drawing:
        """Take slots for the plan's adapters, and set the picture up at its first step.

        Raises:
            InputError: the adapters do not fit a slot.
        """
        request = plan.entry.request
        opening = opening_of(self._base.name, request.opening)
        guidance = guidance_scale(self._base.name) if request.guidance is None else request.guidance
        stages: list[Stage] = []
        with _timed(plan.seconds, "compose"):
            try:
                if plan.subject is not None and opening.opens(request.prompt):
                    ends = opening_ends(len(self._base.schedule), opening.share)
                    subject, scale = self._subject_part(plan, 1.0), opening.guided(guidance)
                    stages.append(self._stage(plan, opening_prompt(request.prompt), [subject], scale, ends))
                parts = self._parts(plan, opening.strength(request.prompt))
                stages.append(self._stage(plan, request.prompt, parts, guidance))
                return self._drawing(plan, stages, guidance, opening)
            except BaseException:
                for stage in stages:
                    self.slots.release(stage.slot)
                raise

    def _predict(self, plan: Plan, record: Record) -> None:
        request = plan.entry.request
        if request.prompt_adapter == "off":
            plan.said = "off"
        elif self._predictions is None:
            plan.said = "none: there is no hypernetwork"
        elif plan.subject is not None and is_aligned(plan.subject):
            plan.said = "none: the subject's adapter is aligned with a prompt already"
        elif len(placeholders_in(request.prompt)) != 1:
            plan.said = "none: the prompt does not name one [V]"
        else:
            plan.forecast = self._predictions.forecast(request.prompt, record.class_word)
            plan.said = self._predictions.describe(plan.forecast)
            if plan.forecast.adapter is not None:
                plan.prompt_part = (plan.forecast.key, plan.forecast.adapter)

    def _parts(self, plan: Plan, rest: float) -> list[Part]:
        """Subject and prompt adapter, with what an opening leaves of them."""
        prompt = None if plan.prompt_part is None else plan.prompt_part[1]
        own, scale = strengths(prompt, plan.entry.request.prompt_adapter_scale, rest)
        parts = [] if plan.subject is None else [self._subject_part(plan, own)]
        return parts if plan.prompt_part is None else [*parts, Part(*plan.prompt_part, scale)]

    def _subject_part(self, plan: Plan, strength: float) -> Part:
        record = plan.entry.record
        assert plan.subject is not None
        assert record is not None
        assert record.adapter is not None
        return Part(record.adapter, plan.subject, plan.entry.request.subject_scale * strength)

    @torch.no_grad()
    def _stage(self, plan: Plan, prompt: str, parts: Sequence[Part], guidance: float, down_to: int = 0) -> Stage:
        words = plan.subject.placeholders if plan.subject is not None else {}
        text = self._base.encode_prompts([prompt], words)
        if guidance != 1:
            text = TextState.cat([self._negative(plan.entry.request.negative_prompt), text])
        slot = self.slots.acquire(parts)
        try:
            with self.slots.route(torch.full((len(text),), slot)):
                return Stage(slot, guidance, self._base.project(text), down_to)
        except BaseException:
            self.slots.release(slot)
            raise

    def _drawing(self, plan: Plan, stages: Sequence[Stage], guidance: float, opening: Opening) -> Drawing:
        request = plan.entry.request
        sampler = make_scheduler(self._base, request.scheduler, request.steps)
        return Drawing(
            entry=plan.entry,
            stages=stages,
            sampler=sampler,
            latents=initial_noise(self._base, [request.seed]) * sampler.init_noise_sigma,
            notes=self._notes(plan, guidance, opening),
            seconds=plan.seconds,
            reliability=None if plan.forecast is None else plan.forecast.reliability,
            abstained=plan.abstained,
            previews_at=preview_steps(len(sampler.timesteps), request.previews),
        )

    def _negative(self, prompt: str) -> TextState:
        """The states of a negative prompt, kept."""
        if prompt not in self._negatives:
            self._negatives[prompt] = self._base.encode_prompts([prompt])
            if len(self._negatives) > self._most_negatives:
                self._negatives.popitem(last=False)
        self._negatives.move_to_end(prompt)
        return self._negatives[prompt]

    def _notes(self, plan: Plan, guidance: float, opening: Opening) -> Mapping[str, str]:
        request, record = plan.entry.request, plan.entry.record
        notes = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": str(request.seed),
            "base": self._base.fingerprint,
            "steps": str(request.steps),
            "guidance": str(guidance),
            "scheduler": request.scheduler,
            "software": "palp-hyper",
        }
        if record is not None:
            notes["subject"] = f"{record.name} ({record.class_word}) × {request.subject_scale:g}"
            notes["subject_adapter"] = str(record.adapter)
            notes["opening"] = str(opening.share)
        if record is not None or plan.prompt_part is not None:
            scale = f" × {request.prompt_adapter_scale:g}" if plan.prompt_part else ""
            notes["prompt_adapter"] = plan.said + scale
        return notes


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the block's wall time to a stage."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - start
