"""Adapters for an evaluation: trained many at a time, kept on disk by content, and never trained twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

from palp.adapter import Adapter
from palp.base import Base
from palp.draw import batch_size
from palp.errors import InputError
from palp.evaluate.methods import Need, subject_need
from palp.evaluate.protocol import learnable, target_prompt
from palp.learn import Report
from palp.prompt_pictures import clean_latents, on_latents
from palp.recipes import Form, recipe
from palp.subjects import Subject
from palp.train import GUIDANCE, Job, Trainer, TrainSettings, joint_job, residual_job

__all__ = ["Bar", "Shelf"]

Bar: TypeAlias = Callable[[str], AbstractContextManager[Report]]
"""Opens a progress bar with a title."""

CHECKPOINT_S = 60.0  # seconds of work that a kill may cost
SEEDS = {"subject": 0, "joint": 1, "residual": 2}  # by form: all jobs of a form share first weights and draws …
SEED_STRIDE = 100  # … but for needs of another seed


class Shelf:
    """Trained adapters by need, in `folder/ID.safetensors`; ID is a hash of all that fixes the adapter.

    Args:
        base: frozen.
        folder: of the files; one unfinished bank is kept there too.
        sizes: settings over those of every recipe, such as {"steps": 100}.
        bar: for progress.
    """

    def __init__(self, base: Base, folder: Path, sizes: Mapping[str, Any], bar: Bar) -> None:
        self.base, self._folder, self._sizes, self._bar = base, folder, dict(sizes), bar
        self._subjects: dict[str, Subject] = {}
        self._jobs: dict[Need, Job] = {}
        self._settings: dict[tuple[Form, tuple[tuple[str, Any], ...]], TrainSettings] = {}
        self._teachers: dict[str, Adapter] = {}

    def fill(self, needs: Iterable[Need]) -> None:
        """Train what is missing: subject adapters first, since residual adapters stand on them.

        Raises:
            NonFiniteLossError: a training went wrong; the others of its bank are kept.
        """
        wanted = list(dict.fromkeys(needs))
        teachers = [subject_need(name) for need in wanted if need.form == "residual" for name in need.subjects]
        alone = [need for need in (*wanted, *teachers) if need.form == "subject"]
        for wave in (alone, [need for need in wanted if need.form == "joint"], wanted):
            self._train_missing(list(dict.fromkeys(need for need in wave if not self.path(need).is_file())))

    def adapter(self, need: Need) -> Adapter:
        """A trained adapter, from its file."""
        return Adapter.load(self.path(need))

    def path(self, need: Need) -> Path:
        """Where the adapter is, or will be."""
        return self._folder / f"{self.identity(need)}.safetensors"

    def identity(self, need: Need) -> str:
        """A hash of base, arithmetic, settings, job (pictures, prompts, frozen adapters, rule, seed) and step."""
        settings = self.settings(need)
        parts = [
            self.base.fingerprint,
            self.base.arithmetic,
            settings.to_mapping(),
            self.job(need).content_hash,
            self.stop(need),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def settings(self, need: Need) -> TrainSettings:
        """The recipe of the form, with this evaluation's sizes and the need's changes."""
        key = need.form, need.changes
        if key not in self._settings:
            self._settings[key] = recipe(self.base.name, need.form, {**self._sizes, **dict(need.changes)})
        return self._settings[key]

    def recipes(self) -> dict[str, dict[str, Any]]:
        """Settings of each form, before a need's changes."""
        return {form: recipe(self.base.name, form, self._sizes).to_mapping() for form in get_args(Form)}

    def _shared(self, need: Need) -> TrainSettings:
        """The same without what a job has of its own: trainings that differ in nothing else share a bank."""
        shared = {name: value for name, value in need.changes if name not in GUIDANCE}
        return recipe(self.base.name, need.form, {**self._sizes, **shared})

    def stop(self, need: Need) -> int:
        """Steps after which the adapter is taken."""
        return max(1, round(need.share * self.settings(need).steps))

    def job(self, need: Need) -> Job:
        """What the need is to the trainer; needs that differ in `share`, or in what a bank shares, have equal jobs."""
        guidance = tuple((name, float(value)) for name, value in need.changes if name in GUIDANCE)
        key = replace(need, share=1.0, changes=guidance)
        if key not in self._jobs:
            self._jobs[key] = replace(self._make_job(key), guidance=guidance)
        return self._jobs[key]

    def _make_job(self, need: Need) -> Job:
        prompt = None if need.target is None else target_prompt(need.target)
        name = f"{need.rule}: {prompt or ', '.join(need.subjects)}"
        seed = SEEDS[need.form] + SEED_STRIDE * need.seed
        if need.form != "residual":
            base = replace(self.base, company=None) if need.pictures == "alone" else self.base
            return joint_job(base, [self._subject(need.subjects[0])], prompt, rule=need.rule, seed=seed, name=name)
        assert prompt is not None
        members = [(self._subject(name), self._teacher(name)) for name in need.subjects]
        job = residual_job(self.base, members, prompt, rule=need.rule, seed=seed, name=name)
        if need.pictures == "prompt":
            return replace(job, subjects=on_latents(job.subjects, clean_latents(self.base, job.subjects, seed)))
        return job

    def _subject(self, name: str) -> Subject:
        if name not in self._subjects:
            self._subjects[name] = learnable(name)
        return self._subjects[name]

    def _teacher(self, name: str) -> Adapter:
        """A subject's adapter, one object for all jobs, so that they share its slot."""
        if name not in self._teachers:
            self._teachers[name] = self.adapter(subject_need(name))
        return self._teachers[name]

    def _train_missing(self, missing: Sequence[Need]) -> None:
        groups: dict[str, dict[Job, list[Need]]] = {}
        for need in missing:
            kind = json.dumps([need.form == "residual", self._shared(need).to_mapping()])
            groups.setdefault(kind, {}).setdefault(self.job(need), []).append(need)
        size = batch_size(self.base)
        chunks = [part for group in groups.values() for part in _chunks(list(group.values()), size)]
        for number, chunk in enumerate(chunks, start=1):
            rules = ", ".join(dict.fromkeys(need.rule for needs in chunk for need in needs))
            with self._bar(f"{chunk[0][0].form} adapters ({rules}), bank {number} of {len(chunks)}") as report:
                self._train(chunk, report)

    def _train(self, rows: Sequence[Sequence[Need]], report: Report) -> None:
        """One bank: a row of needs a slot, which are one training taken at several steps, and end with the last."""
        trainer = Trainer(self.base, [self.job(needs[0]) for needs in rows], self._shared(rows[0][0]))
        unfinished = self._folder / "unfinished-bank.safetensors"
        if unfinished.is_file():
            try:
                trainer.load(unfinished)
            except InputError:  # of another bank: this evaluation was asked for something else before
                unfinished.unlink()
        total, saved_at = max(self.stop(need) for needs in rows for need in needs), time.monotonic()
        for step in trainer.run():
            done = step.number + 1
            self._keep(trainer, rows, done)
            report(done, total, float(step.losses.loss.mean()))
            if time.monotonic() - saved_at > CHECKPOINT_S and done < total:
                trainer.save(unfinished)
                saved_at = time.monotonic()
        unfinished.unlink(missing_ok=True)

    def _keep(self, trainer: Trainer, rows: Sequence[Sequence[Need]], done: int) -> None:
        """Save the adapters that are to be taken now, but for failed ones; end the slots that have none left."""
        due = [(slot, need) for slot, needs in enumerate(rows) for need in needs if self.stop(need) == done]
        if due:
            failed = trainer.failed_at.tolist()
            for slot, need in due:
                if failed[slot] < 0:
                    trainer.adapter(slot).save(self.path(need))
                    if done == max(self.stop(other) for other in rows[slot]):
                        trainer.stop(slot)


def _chunks(rows: list[list[Need]], size: int) -> list[list[list[Need]]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
