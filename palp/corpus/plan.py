"""The plan of a corpus, from its YAML file: prompts, subjects, recipe, exams, gate, shards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from palp.corpus.contract import CorpusPrompt
from palp.corpus.grammar import read_grammar
from palp.corpus.leakage import check_prompts
from palp.corpus.prompts import PromptCounts, draw_prompts, fresh_prompts, read_prompts
from palp.errors import InputError
from palp.settings import CheckedSettings

__all__ = ["CorpusPlan", "ExamPlan", "Gate", "PromptPlan", "SubjectPlan", "read_plan"]

PICTURES = ("subject", "prompt")
ROLES = ("train", "probe", "held_out")
FRESH_SEED = 1_000_003  # beside that of the corpus' own prompts
T = TypeVar("T", bound=CheckedSettings)


@dataclass(frozen=True)
class PromptPlan(CheckedSettings):
    """Prompts of a grammar, so many of each split; or those in a file."""

    grammar: str = "icons"  # "icons", "real" or a YAML file
    file: str | None = None  # text or JSON lines, in place of a grammar
    train: int = 400
    paraphrase: int = 24
    combination: int = 32
    word: int = 32
    longer: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        self.require("train", self.train >= 1, "at least 1")
        for name in ("paraphrase", "combination", "word", "longer"):
            self.require(name, getattr(self, name) >= 0, "0 or above")
        self.require_seeds("seed")

    def prompts(self) -> list[CorpusPrompt]:
        """The prompts, in the order of their keys.

        Raises:
            InputError, LeakageError: as `draw_prompts`, `read_prompts` and `check_prompts`.
        """
        counts = PromptCounts(self.train, self.paraphrase, self.combination, self.word, self.longer)
        if self.file is None:
            prompts = draw_prompts(read_grammar(self.grammar), counts, self.seed)
        else:
            prompts = read_prompts(Path(self.file))
        check_prompts(prompts)
        return prompts

    def fresh(self, known: Sequence[CorpusPrompt], count: int) -> list[CorpusPrompt]:
        """Up to so many more training prompts of the grammar, of other meanings than those known; none of a file's.

        Raises:
            InputError: the grammar is no longer there.
            LeakageError: it has changed, and one of them has what is held out.
        """
        if self.file is not None:
            return []
        clusters = {prompt.cluster for prompt in known}
        seed = self.seed + FRESH_SEED
        fresh = fresh_prompts(read_grammar(self.grammar), clusters, self.longer > 0, count, seed)
        check_prompts([*known, *fresh])  # the grammar may be another by now
        return fresh


@dataclass(frozen=True)
class SubjectPlan(CheckedSettings):
    """A user's subject: pictures, or a run or adapter that has learned them."""

    name: str
    source: str
    class_word: str | None = None
    role: str = "train"  # or "probe", to examine adapters with; or "held_out", for the hypernetwork's evaluation

    def __post_init__(self) -> None:
        if self.role not in ROLES or not self.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(
                f"the subject {self.name!r} has role {self.role!r}: use letters, digits, - and _ for names, "
                f"and one of {', '.join(ROLES)}"
            )


@dataclass(frozen=True)
class ExamPlan(CheckedSettings):
    """When adapters are examined, and when one is done."""

    every: int = 20  # steps
    batch: int = 16  # samples
    patience: int = 2  # exams without progress
    min_delta: float = 0.01  # share of the loss that counts as progress
    seed: int = 1_000_003  # of pictures, timesteps and noise

    def __post_init__(self) -> None:
        for name in ("every", "batch", "patience"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        self.require("min_delta", 0 <= self.min_delta < 1, "from 0 to below 1")
        self.require_seeds("seed")


@dataclass(frozen=True)
class Gate(CheckedSettings):
    """What an adapter must reach to be accepted."""

    min_gain: float = 0.02  # share of the exam's loss without it that it takes away
    max_norm: float = 1.0  # ‖ΔW‖ / ‖W‖ over all sites

    def __post_init__(self) -> None:
        self.require("min_gain", math.isfinite(self.min_gain), "finite")
        self.require("max_norm", 0 < self.max_norm < math.inf, "above 0, and finite")


@dataclass(frozen=True)
class CorpusPlan(CheckedSettings):
    """Everything that a corpus depends on, but for the base and the code."""

    prompts: PromptPlan = PromptPlan()
    subjects: tuple[SubjectPlan, ...] = ()  # none: characters of the picture world
    train_subjects: int = 8  # of the picture world
    probe_subjects: int = 3  # of the picture world
    held_out_subjects: int = 12  # of the picture world, for the hypernetwork's evaluation
    recipe: Mapping[str, Any] = field(default_factory=dict)  # over the residual recipe of the base
    pictures: str = "subject"  # "subject": the subjects' own; "prompt": the base's, of each prompt
    subject_recipe: Mapping[str, Any] = field(default_factory=dict)  # over the subject recipe of the base
    seed: int = 0  # of A, data order, timesteps and noise: one for all
    twins: int = 32  # adapters trained again with another seed
    twin_seed: int = 1
    slots: int = 16  # adapters at once
    exams: ExamPlan = ExamPlan()
    gate: Gate = Gate()
    shard_size: int = 64  # adapters
    preview_steps: int = 10  # sampling steps of the previews

    def __post_init__(self) -> None:
        for name in ("train_subjects", "held_out_subjects", "slots", "shard_size", "preview_steps"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("probe_subjects", "twins"):
            self.require(name, getattr(self, name) >= 0, "0 or above")
        self.require_seeds("seed", "twin_seed")
        self.require("pictures", self.pictures in PICTURES, f"one of {', '.join(PICTURES)}")
        if self.seed == self.twin_seed:
            raise InputError(f"seed and twin_seed are both {self.seed}: twins need another seed")

    def to_mapping(self) -> dict[str, Any]:
        """The values by name, for JSON; the number of slots is no part of what a corpus is."""
        return {name: value for name, value in super().to_mapping().items() if name != "slots"}


def read_plan(path: Path) -> CorpusPlan:
    """The plan in a YAML file; what is left out has its default.

    Raises:
        InputError: no such file, a name that is no setting, or a value that cannot be.
    """
    import yaml

    if not path.is_file():
        raise InputError(f"there is no plan {path}: give a YAML file, such as configs/corpus-icons.yaml")
    try:
        values = dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a plan: {error}") from error
    parts: dict[str, type[CheckedSettings]] = {"prompts": PromptPlan, "exams": ExamPlan, "gate": Gate}
    values |= {name: _part(kind, values[name], path) for name, kind in parts.items() if name in values}
    if "subjects" in values:
        if not isinstance(values["subjects"], list):
            raise InputError(f"{path} has subjects {values['subjects']!r}: give a list of them, or leave it out")
        values["subjects"] = tuple(_part(SubjectPlan, entry, path) for entry in values["subjects"])
    return _part(CorpusPlan, values, path)


def _part(kind: type[T], values: Any, path: Path) -> T:
    if not isinstance(values, dict):
        raise InputError(f"{path} has {values!r} where names and values of {kind.__name__} are needed")
    try:
        return kind.from_mapping(values)
    except (InputError, TypeError) as error:  # a TypeError is of a value without a default that is not given
        raise InputError(f"{path}: {error}") from error
