"""The learned words of all jobs, and the text states of their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.base import Base, Placeholders, TextState
from palp.errors import InputError
from palp.guidance import Prompt
from palp.prompts import NEGATIVE, placeholders_in
from palp.train.jobs import Job, JobSubject

CHUNK = 64  # prompts in one call of the text encoder, when they are encoded once for all
Texts: TypeAlias = tuple[tuple[str, int], ...]


class Words:
    """The embeddings of the words that jobs learn, one row a job; a word starts as its class word."""

    def __init__(self, base: Base, jobs: Sequence[Job], vectors: int) -> None:
        self._base = base
        names = sorted({s.placeholder for job in jobs for s in job.subjects if s.adapter is None})
        self.tensors: dict[str, dict[str, Float[Tensor, "slots vectors dim"]]] = {
            name: {
                encoder: torch.zeros(len(jobs), vectors, dim, device=base.device)
                for encoder, dim in base.embedding_shapes().items()
            }
            for name in names
        }
        for slot, job in enumerate(jobs):
            self.start(slot, job)
        for _, tensor in self.named():
            tensor.requires_grad_()

    @torch.no_grad()
    def start(self, slot: int, job: Job) -> None:
        """Set a slot's words to the class words of a job, which may have no words but those of the first jobs.

        Raises:
            InputError: it has.
        """
        learned = {s.placeholder: s.class_word for s in job.subjects if s.adapter is None}
        if odd := sorted(learned.keys() - self.tensors.keys()):
            raise InputError(f"job {job.name!r} learns {odd[0]}, and the first jobs of the bank do not: train it apart")
        for _, tensor in self.named():
            tensor[slot] = 0
        for word, class_word in learned.items():
            for encoder, start in self._base.word_embedding(class_word).items():
                self.tensors[word][encoder][slot] = start

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with a name of its own."""
        for word, encoders in self.tensors.items():
            for encoder, tensor in encoders.items():
                yield f"placeholder.{word}.{encoder}", tensor

    def rows(self) -> list[Placeholders]:
        """The words of each slot, with gradient."""
        parts = {
            word: {encoder: tensor.unbind() for encoder, tensor in encoders.items()}
            for word, encoders in self.tensors.items()
        }
        slots = max((len(rows) for encoders in parts.values() for rows in encoders.values()), default=0)
        return [
            {word: {encoder: rows[slot] for encoder, rows in e.items()} for word, e in parts.items()}
            for slot in range(slots)
        ]

    def of_job(self, slot: int, job: Job) -> dict[str, dict[str, Tensor]]:
        """Copies of a job's own words, on the CPU."""
        own = {subject.placeholder for subject in job.subjects}
        return {
            word: {encoder: tensor[slot].detach().clone().cpu() for encoder, tensor in encoders.items()}
            for word, encoders in self.tensors.items()
            if word in own
        }


class PromptStates:
    """Text states of all subjects' prompts: those with learned words anew each step, the others once.

    A job's prompts of one role are encoded together, and apart from those of other jobs: so the bits of its states
    do not depend on what else is in the bank. What jobs share, such as y_P of the same subjects, is encoded once.
    """

    def __init__(self, base: Base, jobs: Sequence[Job], words: Words) -> None:
        self._base, self._words, self._jobs = base, words, list(jobs)
        self._encoded: dict[Prompt, dict[Texts, tuple[TextState, Job]]] = {}  # with the job, whose words it holds
        self._fixed: dict[Prompt, TextState] = {}  # a row for each subject
        self._learned: TextState | None = None  # y_P of the subjects of a step
        self._shown: Int[Tensor, "subjects"] = torch.zeros(0, dtype=torch.long)  # these subjects, in order

    def fill(self, slot: int, job: Job) -> None:
        """Take another job's prompts for a slot."""
        self._jobs[slot] = job
        self._fixed.clear()

    def refresh(self, subjects: Int[Tensor, "rows"]) -> None:
        """Encode the prompts with learned words anew, with gradient, as one batch: those of a step's samples."""
        learners = [(slot, s) for slot, job in enumerate(self._jobs) if not job.residual for s in job.subjects]
        if learners:
            words, self._shown = self._words.rows(), subjects.unique()
            asked = [learners[subject] for subject in self._shown.tolist()]
            prompts = [subject.said(subject.prompts.personal) for _, subject in asked]
            self._learned = self._base.encode_prompts(prompts, [words[slot] for slot, _ in asked])

    def __call__(self, prompt: Prompt, subjects: Int[Tensor, "rows"]) -> TextState:
        """The states of a prompt for samples that show these subjects."""
        if prompt == "personal" and self._learned is not None:
            return self._learned[torch.searchsorted(self._shown, subjects)]
        if prompt not in self._fixed:
            self._fixed[prompt] = self._states(prompt)
        return self._fixed[prompt][subjects]

    @torch.no_grad()
    def _states(self, prompt: Prompt) -> TextState:
        """The states of all jobs' subjects; those that no job needs any more are forgotten."""
        before, kept = self._encoded.get(prompt, {}), {}
        keys = [_texts(prompt, job) for job in self._jobs]
        for key, job in zip(keys, self._jobs, strict=True):
            if key not in kept:
                kept[key] = before[key] if key in before else (self._encode(key, job), job)
        self._encoded[prompt] = kept
        return TextState.cat([kept[key][0] for key in keys])

    def _encode(self, texts: Texts, job: Job) -> TextState:
        """Distinct texts once, then a row for each subject."""
        words: list[Placeholders] = [s.adapter.placeholders if s.adapter else {} for s in job.subjects]
        first = {text: index for index, text in reversed(list(enumerate(texts)))}
        states = [
            self._base.encode_prompts([texts[i][0] for i in part], [words[i] for i in part])
            for part in _parts(list(first.values()))
        ]
        row_of = {text: row for row, text in enumerate(first)}
        return TextState.cat(states)[[row_of[text] for text in texts]]


def _texts(prompt: Prompt, job: Job) -> Texts:
    """A job's prompts of a role, a subject each, with the identity of its words if the prompt holds any."""
    texts = [_text(prompt, member) for member in job.subjects]
    return tuple(
        (text, id(member.adapter.placeholders) if member.adapter and placeholders_in(text) else 0)
        for text, member in zip(texts, job.subjects, strict=True)
    )


def _parts(rows: Sequence[int]) -> list[Sequence[int]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def _text(prompt: Prompt, member: JobSubject) -> str:
    fixed = {"null": "", "negative": NEGATIVE}
    if prompt in fixed:
        return fixed[prompt]
    text = str(getattr(member.prompts, prompt))
    return member.said(text) if prompt in ("personal", "photo") else text
