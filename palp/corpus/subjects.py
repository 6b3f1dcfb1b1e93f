"""The subjects of a corpus: found, learned in one bank, and kept with their latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from palp.adapter import Adapter
from palp.atomic import atomic_write, write_json
from palp.base import Base
from palp.corpus.folder import CorpusFolder, only_one, read_json, sha256
from palp.corpus.leakage import check_subjects
from palp.corpus.plan import CorpusPlan
from palp.corpus.relays import Report, Saved, run_saved
from palp.errors import InputError
from palp.prompts import make_prompts
from palp.recipes import recipe
from palp.sources import adapter_file, load_adapter, named_v, read_subject
from palp.subjects import Subject, encode_pictures
from palp.train import JobSubject, Relay, joint_job

__all__ = ["Learner", "Teacher", "find_learners", "learn_subjects", "read_subjects"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A subject that all jobs share: class word, latents, frozen adapter."""

    class_word: str
    latents: torch.Tensor
    adapter: Adapter

    def at(self, prompt: str) -> JobSubject:
        """The subject as a part of a prompt's job."""
        word = Subject(self.class_word, torch.zeros(1, 3, 1, 1))
        return JobSubject(self.latents, make_prompts([word], prompt)["[V]"], "[V]", self.class_word, self.adapter)


@dataclass(frozen=True, eq=False)
class Learner:
    """A subject to be learned, or one whose adapter is there already."""

    name: str
    role: str
    subject: Subject
    adapter: Adapter | None = None


def find_learners(base: Base, plan: CorpusPlan) -> list[Learner]:
    """The subjects of a plan.

    Raises:
        InputError: no subject to train over, or a base of another size than the picture world.
        LeakageError: two with the same pictures; others as `read_subject`.
    """
    learners = _own(base, plan) if plan.subjects else _characters(base, plan)
    if not any(learner.role == "train" for learner in learners):
        raise InputError("the plan has no subject of role train: give at least one")
    roles = {learner.name: learner.role for learner in learners}
    if len(roles) < len(learners):
        raise InputError("two subjects of the plan have one name: give each its own")
    check_subjects(roles, {learner.name: learner.subject.content_hash for learner in learners})
    return learners


def _own(base: Base, plan: CorpusPlan) -> list[Learner]:
    learners = []
    for entry in plan.subjects:
        source = Path(entry.source)
        subject = replace(read_subject(base, source, entry.class_word), placeholder="[V]")
        known = adapter_file(source) is not None
        adapter = named_v(load_adapter(base, source)) if known else None
        learners.append(Learner(entry.name, entry.role, subject, adapter))
    return learners


def _characters(base: Base, plan: CorpusPlan) -> list[Learner]:
    """Characters of the picture world: those for reports are held out."""
    from palp.base.icons.grammar import training_subjects
    from palp.base.icons.places import SIZE
    from palp.evaluate.protocol import file_name, learnable, report_subjects

    if base.resolution != SIZE:
        raise InputError(
            f"the plan has no subjects, and the picture world's own are {SIZE} pixels a side, "
            f"where the base draws {base.resolution}: give subjects"
        )
    names = [name for name, entry in training_subjects().items() if entry["split"] == "train"]
    wanted = plan.train_subjects + plan.probe_subjects
    if wanted > len(names):
        raise InputError(f"{wanted} characters were asked for, and the picture world has {len(names)}: ask for fewer")
    roles = {name: "train" if i < plan.train_subjects else "probe" for i, name in enumerate(names[:wanted])}
    strangers = report_subjects()
    if plan.held_out_subjects > len(strangers):
        raise InputError(f"{plan.held_out_subjects} held-out characters were asked for: there are {len(strangers)}")
    roles |= dict.fromkeys(strangers[: plan.held_out_subjects], "held_out")
    return [Learner(file_name(name), role, learnable(name)) for name, role in roles.items()]


def learn_subjects(base: Base, plan: CorpusPlan, folder: CorpusFolder, slots: int, report: Report) -> None:
    """Learn what is missing and write all; processes that build one corpus take turns, and the first one learns.

    Raises:
        InputError: as `find_learners`; NonFiniteLossError: a subject could not be learned.
    """
    with only_one(folder.work / "subjects.lock", wait=True):
        if folder.subjects.is_file():
            return
        learners = find_learners(base, plan)
        for learner in learners:
            if learner.adapter is not None:
                learner.adapter.save(folder.subject(learner.name))
        _train(base, plan, folder, [learner for learner in learners if learner.adapter is None], slots, report)
        for learner in learners:
            content = serialize({"latents": encode_pictures(base, learner.subject).float().cpu().contiguous()})
            with atomic_write(folder.latents(learner.name)) as temporary:
                temporary.write_bytes(content)
        write_json(folder.subjects, {learner.name: _entry(folder, learner) for learner in learners})


def _train(
    base: Base, plan: CorpusPlan, folder: CorpusFolder, learners: list[Learner], slots: int, report: Report
) -> None:
    if not learners:
        return
    settings = recipe(base.name, "subject", plan.subject_recipe)
    queue = [joint_job(base, [learner.subject], seed=plan.seed, name=learner.name) for learner in learners]
    relay = Relay(base, queue, settings, slots, settings.steps)
    saved = Saved(folder.work / "subjects.checkpoint.safetensors", {"slots": str(slots)})
    for lap in run_saved(relay, saved):
        for done in lap.finished:
            if done.failed_at >= 0:
                raise InputError(
                    f"the loss of subject {learners[done.number].name} was not finite in step {done.failed_at}: "
                    "lower lr in subject_recipe"
                )
            done.adapter.save(folder.subject(learners[done.number].name))
        report("subjects", lap.done, len(queue))


def _entry(folder: CorpusFolder, learner: Learner) -> dict[str, str]:
    return {
        "class_word": learner.subject.class_word,
        "role": learner.role,
        "adapter": sha256(folder.subject(learner.name)),
        "latents": sha256(folder.latents(learner.name)),
    }


def read_subjects(folder: CorpusFolder, role: str) -> Mapping[str, Teacher]:
    """Class word, latents and adapter of the subjects of a role, by name."""
    return {
        name: Teacher(
            entry["class_word"], load_file(folder.latents(name))["latents"], Adapter.load(folder.subject(name))
        )
        for name, entry in read_json(folder.subjects).items()
        if entry["role"] == role
    }
