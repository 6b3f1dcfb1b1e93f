"""The adapter of each prompt that `palp-serve generate` draws: predicted, from a file, refined, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from palp.adapter import Adapter
from palp.base import Base
from palp.errors import InputError
from palp.prompts import placeholders_in
from palp.sources import adapter_file, load_adapter
from serving.engine.predictions import Forecast, Predictions, is_aligned
from serving.engine.refinement import Lesson, refine
from serving.subjects.named import NamedSubject

__all__ = ["AUTO", "OFF", "PromptAdapter", "check_refine", "open_predictions", "prompt_adapters", "refined"]

AUTO, OFF = "auto", "off"
NO_NETWORK = "there is no hypernetwork for this base"
Bar: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""A progress bar with a title and so many steps; the function it gives advances it by one."""


@dataclass(frozen=True, eq=False)
class PromptAdapter:
    """What a prompt is drawn with, beside the subject.

    Args:
        said: where it comes from, or why there is none.
        adapter: on the CPU, or None.
        forecast: where a hypernetwork was asked.
    """

    said: str
    adapter: Adapter | None = None
    forecast: Forecast | None = None

    @property
    def missed(self) -> bool:
        """Whether a prediction was asked for and there is none."""
        return self.adapter is None and self.said != OFF


def check_refine(wanted: Sequence[str], subject: str | None) -> None:
    """Raise InputError unless all prompts ask for a prediction, and there is a subject to refine it with."""
    if subject is None or set(wanted) != {AUTO}:
        raise InputError(
            "--refine trains a predicted adapter on the subject's pictures: "
            "give --subject and --prompt-adapter auto, or leave --refine out"
        )


def open_predictions(base: Base, hypernet: Path | None, needed: bool = False) -> Predictions | None:
    """A hypernetwork's predictions: of the one given, or of the one shipped for the base, or None without one.

    Raises:
        InputError: there is none, and it is needed; and as `Predictions.open`.
    """
    found = Predictions.find(base, hypernet)
    if found is None and needed:
        raise InputError(f"{NO_NETWORK}, and --refine starts from what it predicts: give --hypernet, or leave it out")
    return found


def prompt_adapters(
    base: Base,
    subject: NamedSubject | None,
    prompts: Sequence[str],
    wanted: Sequence[str],
    predictions: Predictions | None,
) -> list[PromptAdapter]:
    """The adapter of each prompt, a file that several share read once.

    Args:
        wanted: for each prompt "auto", "off", or the path of an adapter.

    Raises:
        InputError, AdapterFileError, AdapterMismatchError: as `load_adapter`.
    """
    files = {name: _from_file(base, name) for name in dict.fromkeys(wanted) if name not in (AUTO, OFF)}
    return [
        files[name]
        if name in files
        else PromptAdapter(OFF)
        if name == OFF
        else _predicted(subject, prompt, predictions)
        for prompt, name in zip(prompts, wanted, strict=True)
    ]


def refined(
    base: Base,
    subject: NamedSubject,
    prompt: str,
    start: PromptAdapter,
    predictions: Predictions,
    steps: int,
    bar: Bar,
) -> PromptAdapter:
    """The adapter after so many steps of training from the prediction, or from zero where the hypernetwork abstained.

    Raises:
        InputError: there was no prediction, or the subject's pictures are not there.
        NonFiniteLossError: the loss became nan or infinite.
    """
    if start.forecast is None:
        raise InputError(f"--refine needs a predicted adapter, and here it is {start.said}: leave --refine out")
    if subject.pictures is None or subject.class_word is None:
        raise InputError(f"the pictures of {subject.name} are not beside its adapter: give its run folder, or pictures")
    network = predictions.network
    lesson = Lesson(
        prompt=prompt,
        class_word=subject.class_word,
        pictures=subject.pictures,
        subject=subject.adapter,
        spec=network.spec,
        start=start.forecast.adapter,
        steps=steps,
        recipe=network.recipe,
    )
    with bar(f"refining {prompt}", steps) as advance:
        adapter = _last(refine(base, lesson), advance)
    return replace(start, said=f"{start.said}, refined by {steps} steps", adapter=_on_cpu(adapter))


def _from_file(base: Base, name: str) -> PromptAdapter:
    adapter = load_adapter(base, Path(name))
    file = adapter_file(Path(name))
    assert file is not None
    return PromptAdapter(f"{name} ({hashlib.sha256(file.read_bytes()).hexdigest()[:12]})", adapter)


def _predicted(subject: NamedSubject | None, prompt: str, predictions: Predictions | None) -> PromptAdapter:
    """The prediction, or none and why; a subject that is aligned with a prompt already needs no second alignment."""
    if subject is None:
        return PromptAdapter("none: there is no subject")
    if is_aligned(subject.adapter):
        return PromptAdapter("none: the subject's adapter is aligned with a prompt already")
    if predictions is None:
        return PromptAdapter(f"none: {NO_NETWORK}")
    if subject.class_word is None:
        return PromptAdapter("none: the subject's class word is not known, give it with --class")
    if len(placeholders_in(prompt)) != 1:
        return PromptAdapter("none: the prompt does not name one [V]")
    forecast = predictions.forecast(prompt, subject.class_word)
    adapter = None if forecast.adapter is None else _on_cpu(forecast.adapter)
    return PromptAdapter(predictions.describe(forecast), adapter, forecast)


def _on_cpu(adapter: Adapter) -> Adapter:
    """Where adapters from files are, with which it is to be composed."""
    down, up = ({site: rows.cpu() for site, rows in side.items()} for side in (adapter.down, adapter.up))
    return replace(adapter, down=down, up=up)


def _last(training: Generator[None, None, Adapter], advance: Callable[[], None]) -> Adapter:
    """Run a refinement to its end; its first stop is before the first step."""
    next(training)
    while True:
        try:
            next(training)
        except StopIteration as done:
            adapter: Adapter = done.value
            return adapter
        advance()
