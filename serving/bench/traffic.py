"""Who asks for what, and when: callers who wait for their pictures, and callers who come at a rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from palp.errors import InputError
from serving.contract import Cancelled, Done, Engine, Event, Failed, Listener, PictureRequest, Queued
from serving.errors import QueueFullError

__all__ = ["POPULARITIES", "Figures", "Popularity", "Traffic", "closed_loop", "open_loop"]

Popularity = Literal["distinct", "zipf", "identical"]
POPULARITIES: tuple[Popularity, ...] = get_args(Popularity)
Figures: TypeAlias = Mapping[str, float]
"""Of one round: pictures_per_s, batch_size, p50_s, p95_s, p99_s (from asking to the picture), and others."""


@dataclass(frozen=True)
class Traffic:
    """Closed traffic: so many callers, each of whom asks for the next picture on getting the last.

    Args:
        popularity: "distinct" takes the subjects in turn, "zipf" the k-th 1/k as often as the first, "identical" the
            first alone.
        concurrency: callers.

    Raises:
        InputError: no callers.
    """

    popularity: Popularity = "distinct"
    concurrency: int = 8

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InputError(f"concurrency is {self.concurrency}, and must be at least 1")

    def subjects(self, pictures: int, among: int) -> list[int]:
        """The number of each picture's subject, the same each time."""
        if self.popularity == "distinct":
            return [picture % among for picture in range(pictures)]
        if self.popularity == "identical":
            return [0] * pictures
        weights = 1 / np.arange(1, among + 1)
        drawn: list[int] = np.random.default_rng(0).choice(among, pictures, p=weights / weights.sum()).tolist()
        return drawn


def closed_loop(engine: Engine, requests: Sequence[PictureRequest], concurrency: int) -> Figures:
    """Draw all, `concurrency` asked for at any time. The engine is held until as many are in the line.

    Raises:
        Exception: what the first picture that failed failed with.
    """
    answers, queue = _Answers(len(requests)), iter(requests)
    first = threading.Event()

    def ask() -> None:
        if (request := next(queue, None)) is not None:
            engine.submit(request, answers.listener(first.wait, ask))

    for _ in range(min(concurrency, len(requests))):
        ask()
    start = time.monotonic()
    answers.restart(start)
    first.set()
    return answers.figures(start)


def open_loop(engine: Engine, requests: Sequence[PictureRequest], per_s: float) -> Figures:
    """Ask for pictures at random moments (Poisson), whether or not earlier ones are done.

    Args:
        per_s: mean requests a second.

    Returns:
        Also `refused`, the share that a full line turned away; rates and times are of the others.
    """
    answers = _Answers(len(requests))
    moments = np.random.default_rng(0).exponential(1 / per_s, len(requests)).cumsum()
    start = time.monotonic()
    for request, moment in zip(requests, moments, strict=True):
        time.sleep(max(0.0, start + float(moment) - time.monotonic()))
        try:
            engine.submit(request, answers.listener(lambda: None, lambda: None))
        except QueueFullError:
            answers.refuse()
    return answers.figures(start)


class _Answers:
    """What became of a round's requests."""

    def __init__(self, requests: int) -> None:
        self._requests, self._left, self._refused = requests, requests, 0
        self._asked: dict[int, float] = {}
        self._seconds: list[float] = []
        self._batch_sizes: list[float] = []
        self._errors: list[Exception] = []
        self._changed = threading.Condition()

    def listener(self, on_queued: Callable[[], object], on_done: Callable[[], object]) -> Listener:
        """Of one request, from now on."""
        number = len(self._asked)
        self._asked[number] = time.monotonic()

        def listen(event: Event) -> None:
            if isinstance(event, Queued):
                on_queued()
            elif isinstance(event, Done | Failed | Cancelled):
                self._end(number, event)
                on_done()

        return listen

    def restart(self, now: float) -> None:
        """Count the seconds of all that were asked for from now on."""
        self._asked = dict.fromkeys(self._asked, now)

    def refuse(self) -> None:
        """One was turned away."""
        with self._changed:
            self._refused += 1
            self._left -= 1

    def figures(self, start: float) -> Figures:
        """Wait for the last picture."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == 0)
        if self._errors:
            raise self._errors[0]
        p50, p95, p99 = np.percentile(self._seconds or [0.0], [50, 95, 99])
        return {
            "pictures_per_s": len(self._seconds) / (time.monotonic() - start),
            "batch_size": float(np.mean(self._batch_sizes or [0.0])),
            "p50_s": float(p50),
            "p95_s": float(p95),
            "p99_s": float(p99),
            "refused": self._refused / self._requests,
        }

    def _end(self, number: int, event: Event) -> None:
        with self._changed:
            if isinstance(event, Done):
                self._seconds.append(time.monotonic() - self._asked[number])
                self._batch_sizes.append(event.details.batch_size)
            elif isinstance(event, Failed):
                self._errors.append(event.error)
            self._left -= 1
            self._changed.notify_all()
