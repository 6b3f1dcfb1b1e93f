"""Every prompt with every seed, in one batch, written as pictures that say how they were made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from palp.adapter import Adapter
from palp.compose import compose, strengths
from palp.draw import Picture, Sampling
from palp.errors import InputError
from palp.settings import MOST_SEED
from palp.sheets import contact_sheet, save_png
from palp.words import check_words
from serving.prompt_adapters import PromptAdapter
from serving.subjects.named import NamedSubject

__all__ = [
    "Request",
    "Scales",
    "check_grid",
    "notes_of",
    "one_each",
    "output_paths",
    "save_grid",
    "seeds_from",
]


@dataclass(frozen=True)
class Scales:
    """Strengths of subject and prompt adapter; 1 as trained.

    Raises:
        InputError: one is not finite.
    """

    subject: float = 1.0
    prompt_adapter: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.subject * self.prompt_adapter):
            raise InputError(
                f"the scales are {self.subject} and {self.prompt_adapter}, and must be finite; 1 is as trained"
            )


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be drawn.

    Args:
        prompts: one or more; [V] where the subject is to appear.
        seeds: one or more; every prompt is drawn with every seed.
        adapters: one a prompt.
        subject: None for the bare base.
        scales: of both.
        sampling: steps, guidance, scheduler, and opening.
        base: fingerprint.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    adapters: Sequence[PromptAdapter]
    subject: NamedSubject | None
    scales: Scales
    sampling: Sampling
    base: str

    def plan(self) -> list[Picture]:
        """The pictures, prompt by prompt, seed by seed; what several prompts share is composed once.

        Raises:
            InputError: a prompt that does not name the subject, or an unknown word.
            AdapterMismatchError: subject and adapter are of two bases.
        """
        composed = cache(self._composed)
        opens, opening = self.sampling.opening, self._composed(None, 1.0)
        pictures = []
        for prompt, choice in zip(self.prompts, self.adapters, strict=True):
            adapter = composed(choice.adapter, opens.strength(prompt))
            check_words(prompt, adapter.placeholders if adapter is not None else {})
            first = opening if opens.opens(prompt) else None
            pictures += [Picture(prompt, seed, adapter, first) for seed in self.seeds]
        return pictures

    def facts(self) -> list[dict[str, Any]]:
        """How to draw each picture of the plan again, ready for JSON."""
        return [
            {"prompt": prompt, "negative_prompt": "", "seed": seed, **self._shared(), **self._facts(choice)}
            for prompt, choice in zip(self.prompts, self.adapters, strict=True)
            for seed in self.seeds
        ]

    def _composed(self, adapter: Adapter | None, rest: float) -> Adapter | None:
        """Subject and prompt adapter in one, by rank concatenation, with what an opening leaves of them."""
        subject = None if self.subject is None else self.subject.adapter
        own, prompts = strengths(adapter, self.scales.prompt_adapter, rest)
        pairs = ((subject, self.scales.subject * own), (adapter, prompts))
        parts = [(part, scale) for part, scale in pairs if part is not None]
        return compose(parts) if parts else None

    def _shared(self) -> dict[str, Any]:
        opening = self.sampling.opening
        facts = {"base": self.base, **vars(self.sampling), "opening": opening.share, "software": "palp-hyper"}
        if self.subject is not None:
            facts |= {"subject": self.subject.name, "subject_adapter": self.subject.sha256}
            facts |= {"class_word": self.subject.class_word, "subject_scale": self.scales.subject}
        return facts

    def _facts(self, choice: PromptAdapter) -> dict[str, Any]:
        facts: dict[str, Any] = {"prompt_adapter": choice.said}
        if choice.adapter is not None:
            facts["prompt_adapter_scale"] = self.scales.prompt_adapter
        if choice.forecast is not None:
            facts |= {"reliability": choice.forecast.reliability, "abstained": choice.forecast.adapter is None}
        return facts


def seeds_from(seeds: Sequence[int], count: int) -> list[int]:
    """The seeds as given, or so many from the one given on; 0 where none is.

    Raises:
        InputError: several seeds and a count, or not so many seeds after the one given.
    """
    if count == 1:
        return list(seeds) or [0]
    if len(seeds) > 1:
        raise InputError(f"{len(seeds)} seeds and --count {count} were given: give one seed to count from")
    first = seeds[0] if seeds else 0
    if first + count - 1 > MOST_SEED:
        raise InputError(f"--seed {first} leaves no room for {count} pictures: choose a smaller one")
    return list(range(first, first + count))


def one_each(wanted: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """One prompt adapter a prompt, from one for all or one for each.

    Raises:
        InputError: another number of them.
    """
    if len(wanted) not in (1, len(prompts)):
        raise InputError(
            f"{len(wanted)} prompt adapters were given for {len(prompts)} prompts: give one for all, or one a prompt"
        )
    return list(wanted) * len(prompts) if len(wanted) == 1 else list(wanted)


def check_grid(grid: Path, paths: Sequence[Path]) -> None:
    """Raise InputError unless the sheet is a PNG file of its own beside those of the pictures."""
    _check_png("--grid", grid)
    if grid.resolve() in (path.resolve() for path in paths):
        raise InputError(f"--grid is {grid}, where a picture is to be written: give another name")


def output_paths(out: Path, count: int) -> list[Path]:
    """`out` for one picture; picture-1.png, picture-2.png, … for several.

    Raises:
        InputError: `out` is not the name of a PNG file.
    """
    _check_png("--out", out)
    if count == 1:
        return [out]
    width = len(str(count))
    return [out.with_name(f"{out.stem}-{index:0{width}d}{out.suffix}") for index in range(1, count + 1)]


def notes_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Text chunks of a PNG; what is not known is left out."""
    return {name: str(value) for name, value in facts.items() if value is not None}


def save_grid(images: Sequence[Image.Image], request: Request, path: Path) -> None:
    """One sheet: a row for each prompt, a column for each seed; its notes have what differs a line each.

    Raises:
        OutputError: it cannot be written.
    """
    width = len(request.seeds)
    rows = [images[start : start + width] for start in range(0, len(images), width)]
    columns = [f"seed {seed}" for seed in request.seeds]
    every = [notes_of(facts) for facts in request.facts()]
    names = dict.fromkeys(name for notes in every for name in notes)
    notes = {name: "\n".join(dict.fromkeys(one[name] for one in every if name in one)) for name in names}
    save_png(contact_sheet(rows, request.prompts, columns), path, notes)


def _check_png(option: str, path: Path) -> None:
    if path.suffix.lower() != ".png" or path.is_dir():
        raise InputError(f"{option} is {path}, and pictures are written as PNG: give a name such as picture.png")
