"""What one slot of a trainer learns: its subjects, their prompts, a guidance rule and a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from palp.adapter import Adapter
from palp.base import Base, Shown
from palp.compose import strength_note
from palp.errors import InputError
from palp.guidance import RESIDUAL, find_rule
from palp.prompts import Prompts, make_prompts
from palp.settings import MOST_SEED
from palp.subjects import Subject, encode_pictures, latents_source
from palp.train.settings import TrainSettings

__all__ = ["GUIDANCE", "Job", "JobSubject", "joint_job", "residual_job"]

GUIDANCE = ("guidance_weight", "alpha", "beta", "gamma")
"""Settings that a job may have of its own."""
ALONE = 4
"""Pictures of a subject alone for each beside something that the base knows."""


@dataclass(frozen=True, eq=False)
class JobSubject:
    """One subject of a job.

    Args:
        latents: of its pictures.
        prompts: y_P, y_c, y, and the photo prompt.
        placeholder: "[V]".
        class_word: "cat".
        adapter: residual form: the frozen subject adapter, which holds the placeholder; else None.
        source: a hash of what the latents were made from, by which a job is known in the place of their bits; "" for
            latents of no other source.
        beside: words for what else its pictures show, "next to a tree"; "" for nothing.
    """

    latents: Float[Tensor, "pictures c h w"]
    prompts: Prompts
    placeholder: str
    class_word: str
    adapter: Adapter | None = None
    source: str = ""
    beside: str = ""

    def said(self, prompt: str) -> str:
        """A prompt of a photo, with what else the pictures show."""
        return f"{prompt} {self.beside}".strip()


@dataclass(frozen=True, eq=False)
class Job:
    """What one adapter learns.

    In the joint form the adapter draws the subjects itself, and learns their words. In the residual form
    every subject has a frozen adapter, and this one carries the prompt, for all of them.

    Args:
        subjects: each step draws its pictures from their union, every picture equally often.
        rule: name of a guidance rule.
        seed: of A, pictures, timesteps and noise; two jobs of one seed share them all.
        name: for logs and the adapter's metadata.
        guidance: settings of `GUIDANCE` over those of the trainer, so that one bank compares several.

    Raises:
        InputError: no subjects, a part of them with adapters, or a rule that needs them without.
    """

    subjects: tuple[JobSubject, ...]
    rule: str = "palp"
    seed: int = 0
    name: str = "job"
    guidance: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        with_adapter = sum(subject.adapter is not None for subject in self.subjects)
        if not self.subjects or with_adapter not in (0, len(self.subjects)):
            raise InputError(
                f"job {self.name!r} has {len(self.subjects)} subjects, {with_adapter} with an adapter: "
                "give at least one, and an adapter to all or to none"
            )
        if find_rule(self.rule).residual and not self.residual:
            raise InputError(
                f"the rule {self.rule!r} of job {self.name!r} works on a frozen subject adapter: "
                "give each subject its adapter"
            )
        if odd := [name for name, _ in self.guidance if name not in GUIDANCE]:
            raise InputError(f"{odd[0]!r} of job {self.name!r} is no setting of its own: choose {', '.join(GUIDANCE)}")
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"the seed of job {self.name!r} is {self.seed}, and must be from 0 to below 2^63")

    @property
    def residual(self) -> bool:
        """Whether its subjects have frozen adapters."""
        return self.subjects[0].adapter is not None

    @property
    def pictures(self) -> int:
        """Pictures of all its subjects."""
        return sum(len(subject.latents) for subject in self.subjects)

    @property
    def content_hash(self) -> str:
        """sha256 over everything that its result depends on, but for the base and the settings."""
        digest = hashlib.sha256(json.dumps([self.rule, self.seed, *self.guidance]).encode())
        for subject in self.subjects:
            words = [*vars(subject.prompts).values(), subject.placeholder, subject.class_word, subject.beside]
            digest.update(json.dumps([words, len(subject.latents), subject.source]).encode())
            if not subject.source:
                digest.update(subject.latents.float().cpu().numpy().tobytes())
            for name, tensor in _adapter_tensors(subject.adapter):
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def settings(self, shared: TrainSettings) -> TrainSettings:
        """The trainer's settings with the job's own over them."""
        return TrainSettings.from_mapping({**shared.to_mapping(), **dict(self.guidance)})

    def describe(self, steps: int, settings: TrainSettings) -> dict[str, str]:
        """Metadata of its adapter after so many steps."""

        def distinct(values: Iterator[str]) -> str:
            return " | ".join(dict.fromkeys(values))

        return {
            **(strength_note(settings.subject_scale) if self.residual else {}),
            "name": self.name,
            "class_word": distinct(subject.class_word for subject in self.subjects),
            "prompt": distinct(subject.prompts.target for subject in self.subjects),
            "clean_prompt": distinct(subject.prompts.clean for subject in self.subjects),
            "personal_prompt": distinct(subject.prompts.personal for subject in self.subjects),
            "form": "residual" if self.residual else "joint",
            "rule": self.rule,
            "seed": str(self.seed),
            "steps": str(steps),
            "settings": json.dumps(self.settings(settings).to_mapping()),
        }


def joint_job(
    base: Base,
    subjects: Sequence[Subject],
    prompt: str | None = None,
    *,
    rule: str = "palp",
    seed: int = 0,
    name: str = "job",
    flip: bool = False,
) -> Job:
    """A job that learns subjects of one picture, aligned with a prompt: the paper's form.

    Args:
        subjects: one with [V], or several with [V1], [V2], …; one of them may be an artwork.
        prompt: y, such as "a sketch of [V]"; without one the subjects are learned alone, with rule "none".
        rule, seed, name: as in `Job`.
        flip: mirror images too.

    Raises:
        InputError: as `make_prompts` and `Job` say.
    """
    prompts = make_prompts(subjects, prompt)
    members: list[JobSubject] = []
    for subject in subjects:
        alone = _with_latents(base, subject, prompts[subject.placeholder], flip)
        members += _and_in_company(base, subject, alone)
    return Job(tuple(members), "none" if prompt is None else rule, seed, name)


def residual_job(
    base: Base,
    subjects: Sequence[tuple[Subject, Adapter]],
    prompt: str,
    *,
    rule: str = RESIDUAL,
    seed: int = 0,
    name: str = "job",
    flip: bool = False,
) -> Job:
    """A job that learns a prompt over frozen subject adapters: one of them in each sample.

    Args:
        subjects: with their adapters; all may have the placeholder [V], for each has its own.
        prompt: y, such as "a sketch of [V]".
        rule, seed, name: as in `Job`.
        flip: mirror images too.

    Raises:
        InputError: as `make_prompts` and `Job` say.
        AdapterMismatchError: an adapter of another base.
    """
    members = []
    for subject, adapter in subjects:
        adapter.check(base.fingerprint, base.sites("all"))
        prompts = make_prompts([subject], prompt)[subject.placeholder]
        members.append(_with_latents(base, subject, prompts, flip, adapter))
    return Job(tuple(members), rule, seed, name)


def _with_latents(
    base: Base, subject: Subject, prompts: Prompts, flip: bool, adapter: Adapter | None = None
) -> JobSubject:
    latents, source = encode_pictures(base, subject, flip), latents_source(base, subject, flip)
    return JobSubject(latents, prompts, subject.placeholder, subject.class_word, adapter, source)


def _and_in_company(base: Base, subject: Subject, alone: JobSubject) -> list[JobSubject]:
    """The subject alone, and beside things that the base knows: at least `ALONE` pictures of the one for each other."""
    if base.company is None or subject.artwork or not (company := base.company(base, subject.pictures)):
        return [alone]
    beside = [
        replace(alone, latents=shown.latents, beside=shown.beside, source=_source_in_company(base, alone, shown))
        for shown in company
    ]
    shown = sum(len(member.latents) for member in beside)
    often = -(-ALONE * shown // len(alone.latents))
    return [replace(alone, latents=alone.latents.repeat(often, 1, 1, 1)), *beside]


def _source_in_company(base: Base, alone: JobSubject, shown: Shown) -> str:
    made_of = [alone.source, repr(base.company), base.fingerprint, shown.beside]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _adapter_tensors(adapter: Adapter | None) -> Iterator[tuple[str, Tensor]]:
    """Everything of an adapter, in an order of its own."""
    if adapter is not None:
        words = {f"{word}.{name}": v for word, e in adapter.placeholders.items() for name, v in e.items()}
        for tensors in (adapter.down, adapter.up, words):
            yield from sorted(tensors.items())
