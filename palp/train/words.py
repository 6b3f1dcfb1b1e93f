"""The learned words of all jobs, and the text states of their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.base import Base, Placeholders, TextState
from palp.guidance import Prompt
from palp.prompts import NEGATIVE, placeholders_in
from palp.train.jobs import Job, JobSubject

CHUNK = 64  # prompts in one call of the text encoder, when they are encoded once for all


class Words:
    """The embeddings of the words that jobs learn, one row a job; a word starts as its class word."""

    def __init__(self, base: Base, jobs: Sequence[Job], vectors: int) -> None:
        names = sorted({s.placeholder for job in jobs for s in job.subjects if s.adapter is None})
        self.tensors: dict[str, dict[str, Float[Tensor, "slots vectors dim"]]] = {
            name: {
                encoder: torch.zeros(len(jobs), vectors, dim, device=base.device)
                for encoder, dim in base.embedding_shapes().items()
            }
            for name in names
        }
        for slot, job in enumerate(jobs):
            for subject in job.subjects if names else ():
                for encoder, start in base.word_embedding(subject.class_word).items():
                    self.tensors[subject.placeholder][encoder][slot] = start
        for _, tensor in self.named():
            tensor.requires_grad_()

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
    """Text states of the prompts of all subjects: fixed ones encoded once, those with learned words each step."""

    def __init__(self, base: Base, jobs: Sequence[Job], words: Words) -> None:
        self._base, self._words = base, words
        self._live: TextState | None = None
        self._learned: list[tuple[str, int]] = [  # y_P of each subject, and its slot
            (subject.prompts.personal, slot)
            for slot, job in enumerate(jobs)
            for subject in job.subjects
            if subject.adapter is None
        ]
        members = [subject for job in jobs for subject in job.subjects]
        table: dict[tuple[str, int], _Fixed] = {}
        self._rows: dict[Prompt, Int[Tensor, "subjects"]] = {}
        for role in get_args(Prompt):
            entries = [_fixed(role, member) for member in members]
            if known := [entry for entry in entries if entry is not None]:
                rows = [table.setdefault(entry.key, entry.at(len(table))).row for entry in known]
                self._rows[role] = torch.tensor(rows, device=base.device)
        self._states = _encode(base, list(table.values()))

    def refresh(self) -> None:
        """Encode the prompts with learned words anew, with gradient, as one batch."""
        if self._learned:
            words = self._words.rows()
            prompts = [prompt for prompt, _ in self._learned]
            self._live = self._base.encode_prompts(prompts, [words[slot] for _, slot in self._learned])

    def __call__(self, prompt: Prompt, subjects: Int[Tensor, "rows"]) -> TextState:
        """The states of a prompt for samples that show these subjects."""
        if prompt in self._rows:
            return self._states[self._rows[prompt][subjects]]
        assert prompt == "personal" and self._live is not None, f"no rule of the joint form asks at {prompt}"
        return self._live[subjects]


@dataclass(frozen=True)
class _Fixed:
    """A prompt without learned words, the frozen words in it, and its row among the fixed states."""

    text: str
    words: Placeholders
    row: int = -1

    @property
    def key(self) -> tuple[str, int]:
        """Equal for prompts that are encoded alike."""
        return (self.text, id(self.words) if self.words else 0)

    def at(self, row: int) -> _Fixed:
        """The same in this row."""
        return replace(self, row=row)


def _fixed(role: Prompt, member: JobSubject) -> _Fixed | None:
    """A subject's prompt in this role; None if the job learns a word in it."""
    text = {"null": "", "negative": NEGATIVE}.get(role)
    if text is None:
        text = str(getattr(member.prompts, role))
    if not placeholders_in(text):
        return _Fixed(text, {})
    return None if member.adapter is None else _Fixed(text, member.adapter.placeholders)


@torch.no_grad()
def _encode(base: Base, prompts: Sequence[_Fixed]) -> TextState:
    parts = [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]
    return TextState.cat(
        [base.encode_prompts([p.text for p in part], [p.words for p in part]) for part in parts]
    )
