"""The learned words of all jobs, and the text states of their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    """Text states of all subjects' prompts: those with learned words anew each step, the others once."""

    def __init__(self, base: Base, jobs: Sequence[Job], words: Words) -> None:
        self._base, self._words = base, words
        self._members = [subject for job in jobs for subject in job.subjects]
        self._learners = [slot for slot, job in enumerate(jobs) for _ in job.subjects if not job.residual]
        self._fixed: dict[Prompt, TextState] = {}  # the distinct ones in this role
        self._rows: dict[Prompt, Int[Tensor, "subjects"]] = {}  # the row of each subject's among them
        self._learned: TextState | None = None  # y_P of each subject

    def refresh(self) -> None:
        """Encode the prompts with learned words anew, with gradient, as one batch."""
        if self._learners:
            words = self._words.rows()
            prompts = [member.prompts.personal for member in self._members]
            self._learned = self._base.encode_prompts(prompts, [words[slot] for slot in self._learners])

    def __call__(self, prompt: Prompt, subjects: Int[Tensor, "rows"]) -> TextState:
        """The states of a prompt for samples that show these subjects."""
        if prompt == "personal" and self._learned is not None:
            return self._learned[subjects]
        if prompt not in self._fixed:
            self._encode(prompt)
        return self._fixed[prompt][self._rows[prompt][subjects]]

    @torch.no_grad()
    def _encode(self, prompt: Prompt) -> None:
        texts = [_text(prompt, member) for member in self._members]
        words: list[Placeholders] = [m.adapter.placeholders if m.adapter else {} for m in self._members]
        keys = [(text, id(word) if placeholders_in(text) else 0) for text, word in zip(texts, words, strict=True)]
        first = list({key: index for index, key in reversed(list(enumerate(keys)))}.values())
        self._fixed[prompt] = TextState.cat(
            [
                self._base.encode_prompts([texts[i] for i in part], [words[i] for i in part])
                for part in (first[start : start + CHUNK] for start in range(0, len(first), CHUNK))
            ]
        )
        row_of = {keys[index]: row for row, index in enumerate(first)}
        self._rows[prompt] = torch.tensor([row_of[key] for key in keys], device=self._base.device)


def _text(prompt: Prompt, member: JobSubject) -> str:
    fixed = {"null": "", "negative": NEGATIVE}
    return fixed[prompt] if prompt in fixed else str(getattr(member.prompts, prompt))
