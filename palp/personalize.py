"""From what a user asks of a prompt to a training job: the paper's modes, and the residual form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palp.base import Base
from palp.errors import InputError
from palp.guidance import RESIDUAL
from palp.learn import Watch
from palp.sources import learned_subject, named_v, read_subject
from palp.subjects import Subject, find_pictures, read_pictures
from palp.train import Job, joint_job, residual_job
from palp.words import check_words

__all__ = ["Request", "joint", "residual"]


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Args:
        prompt: y, with [V], or with [V1], [V2], … for several subjects in one picture.
        sources: of the subjects: run folders, adapters in them, or pictures.
        classes: class words, one a subject; none where the sources know their own.
        artwork: a picture of a work of art, which becomes the last placeholder.
        technique: of the artwork, such as "oil painting".
        rule: of guidance; None for the form's own.
        seed: of the job.
        flip: learn the mirror images too.
    """

    prompt: str
    sources: Sequence[Path]
    classes: Sequence[str] = ()
    artwork: Path | None = None
    technique: str = "oil painting"
    rule: str | None = None
    seed: int = 0
    flip: bool = False

    def check(self, residual: bool) -> None:
        """Raise InputError for what needs no base to be seen."""
        if self.classes and len(self.classes) != len(self.sources):
            raise InputError(
                f"{len(self.classes)} class words were given for {len(self.sources)} subjects: give one each"
            )
        if residual and self.artwork is not None:
            raise InputError("an artwork was given in the residual form, and is learned only with --mode joint")
        check_words(self.prompt, {"[V]"} if residual else set(self.placeholders()))
        if self.artwork is not None:
            find_pictures(self.artwork)

    def placeholders(self) -> list[str]:
        """The joint form's words: [V] for one subject alone, else [V1], [V2], …, that of the artwork last."""
        count = len(self.sources) + (self.artwork is not None)
        return ["[V]"] if count == 1 else [f"[V{number}]" for number in range(1, count + 1)]

    def defaults(self, residual: bool) -> dict[str, Any]:
        """Settings that the paper has for compositions: α 7.5 and β 1 (Section 5)."""
        several = not residual and len(self.placeholders()) > 1
        return {"alpha": 7.5, "beta": 1.0} if several else {}

    def class_words(self) -> Sequence[str | None]:
        """One a source; None where the source is asked."""
        return self.classes or [None] * len(self.sources)


def joint(base: Base, request: Request) -> tuple[list[Subject], Job]:
    """The subjects and the job that learns them with the prompt, in one adapter.

    Raises:
        InputError, PictureError, AdapterMismatchError: as `read_subject` and `joint_job`.
    """
    words = request.placeholders()
    pairs = zip(words, request.sources, request.class_words(), strict=False)
    subjects = [replace(read_subject(base, source, noun), placeholder=word) for word, source, noun in pairs]
    if request.artwork is not None:
        pictures = read_pictures(request.artwork, base.resolution)
        subjects.append(Subject(request.technique, pictures, words[-1], artwork=True))
    job = joint_job(
        base,
        subjects,
        request.prompt,
        rule=request.rule or "palp",
        seed=request.seed,
        name=request.prompt,
        flip=request.flip,
    )
    return subjects, job


def residual(base: Base, request: Request, watch: Watch | None = None) -> tuple[list[Subject], Job]:
    """The subjects and the job that learns the prompt over their frozen adapters; each is [V] in its turn.

    Args:
        watch: for subjects that are pictures, and are learned first.

    Raises:
        InputError, PictureError, AdapterMismatchError: as `learned_subject` and `residual_job`.
    """
    members = []
    for source, noun in zip(request.sources, request.class_words(), strict=True):
        subject = replace(read_subject(base, source, noun), placeholder="[V]")
        members.append((subject, named_v(learned_subject(base, source, noun, watch))))
    job = residual_job(
        base,
        members,
        request.prompt,
        rule=request.rule or RESIDUAL,
        seed=request.seed,
        name=request.prompt,
        flip=request.flip,
    )
    return [], job
