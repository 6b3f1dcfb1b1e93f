"""What the engine and those who call it agree on: requests, events, subjects. It knows neither tensors nor HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from palp.errors import InputError
from palp.opening import check_opening
from palp.settings import MOST_SEED

__all__ = [
    "Cancelled",
    "Details",
    "Done",
    "Engine",
    "Event",
    "Failed",
    "Listener",
    "PictureRequest",
    "Queued",
    "Step",
    "SubjectInfo",
    "SubjectLibrary",
    "Ticket",
]

SubjectState = Literal["waiting", "learning", "ready", "failed"]


@dataclass(frozen=True)
class PictureRequest:
    """One picture to draw.

    Args:
        prompt: with [V] where the subject is to appear; without a subject, plain words.
        negative_prompt: what guidance leads away from.
        subject: name of one of the owner's subjects, None for the bare base.
        owner: who asks; nobody sees another's subjects.
        prompt_adapter: "auto" predicts one from the prompt (and abstains far from what it learned), "off" uses none;
            else the name of one that the engine keeps.
        subject_scale, prompt_adapter_scale: strengths of the two adapters; 1 as trained.
        refine: steps of training on from the predicted adapter before drawing.
        seed: of the noise.
        steps: denoising steps.
        guidance: classifier-free guidance scale; None is the base's own.
        opening: share of the schedule, from noise, in which a subject is drawn as a photo; None is the base's own.
        scheduler: "ddim" | "dpm++2m" | "euler".
        previews: pictures to send on the way, evenly spread over the steps.
        priority: higher goes first.
        deadline_s: seconds from now after which the picture is no longer wanted, None for no end.

    Raises:
        InputError: a number out of its range.
    """

    prompt: str
    negative_prompt: str = ""
    subject: str | None = None
    owner: str = ""
    prompt_adapter: str = "auto"
    subject_scale: float = 1.0
    prompt_adapter_scale: float = 1.0
    refine: int = 0
    seed: int = 0
    steps: int = 20
    guidance: float | None = None
    opening: float | None = None
    scheduler: Literal["ddim", "dpm++2m", "euler"] = "ddim"
    previews: int = 0
    priority: int = 0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("subject_scale", "prompt_adapter_scale"):
            if not math.isfinite(value := getattr(self, name)):
                raise InputError(f"{name} is {value}, and must be finite: 1 is as trained")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise InputError(f"guidance is {self.guidance}, and must be finite: 1 is none")
        check_opening(self.opening or 0.0)
        for name, least, most in (
            ("steps", 1, 1000),
            ("seed", 0, MOST_SEED),
            ("refine", 0, 1000),
            ("previews", 0, 100),
        ):
            if not least <= (number := getattr(self, name)) <= most:
                raise InputError(f"{name} is {number}, and must be {least} to {most}")


@dataclass(frozen=True)
class Details:
    """How a picture came about.

    Args:
        seconds: wall time by stage: queue, predict, compose, denoise, decode.
        batch_size: mean number of pictures in the denoiser's calls.
        abstained: the prediction was refused as unreliable, and the subject's adapter alone was used.
        reliability: what the prediction thinks of itself, 0 to 1; None when there was none.
        notes: how to draw the picture again; also written into the PNG.
    """

    seconds: Mapping[str, float]
    batch_size: float
    abstained: bool = False
    reliability: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Queued:
    """Accepted; so many requests are before it."""

    ahead: int


@dataclass(frozen=True)
class Step:
    """Denoising step `step` of `steps` is done; `preview` is a PNG where one is due."""

    step: int
    steps: int
    preview: bytes | None = None


@dataclass(frozen=True)
class Done:
    """The picture, a PNG. The last event."""

    picture: bytes
    details: Details


@dataclass(frozen=True)
class Failed:
    """No picture, and why. The last event."""

    error: Exception


@dataclass(frozen=True)
class Cancelled:
    """The caller no longer wanted it. The last event."""


Event = Queued | Step | Done | Failed | Cancelled
Listener = Callable[[Event], None]
"""Called from the engine's thread with every event, in order; must return at once and never raise."""


@runtime_checkable
class Ticket(Protocol):
    """An accepted request."""

    @property
    def id(self) -> str: ...

    def cancel(self) -> None:
        """Take the request back: it leaves at the next step, and its last event is `Cancelled`. Never waits."""
        ...


@dataclass(frozen=True)
class SubjectInfo:
    """A subject of one owner: how it is called, and how far its learning is (0 to 1)."""

    name: str
    class_word: str
    state: SubjectState
    progress: float
    pictures: int
    created: float  # seconds since 1970
    error: str | None = None


@runtime_checkable
class SubjectLibrary(Protocol):
    """The subjects of all owners, on disk; learned one at a time, in a process beside the engine."""

    def add(self, owner: str, name: str, class_word: str, pictures: Sequence[bytes]) -> SubjectInfo:
        """Check and store the pictures (files as uploaded), and queue the learning. Raises InputError."""
        ...

    def list(self, owner: str) -> list[SubjectInfo]:
        """All of an owner's, oldest first."""
        ...

    def show(self, owner: str, name: str) -> SubjectInfo:
        """One. Raises UnknownSubjectError."""
        ...

    def remove(self, owner: str, name: str) -> None:
        """Forget one, and stop its learning. Raises UnknownSubjectError."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Draws pictures of many callers in shared batches, on a thread of its own."""

    @property
    def subjects(self) -> SubjectLibrary: ...

    def submit(self, request: PictureRequest, listener: Listener) -> Ticket:
        """Queue a picture; never waits.

        Raises:
            InputError: a prompt without [V] for a subject, an unknown word, an adapter of another base.
            UnknownSubjectError: the owner has no such subject.
            UnknownPromptAdapterError: the engine keeps no prompt adapter of that name.
            SubjectNotReadyError: it is still being learned.
            QueueFullError: with the seconds after which to try again.
            DrainingError: the engine is stopping.
        """
        ...

    def stats(self) -> Mapping[str, float]:
        """Gauges by name: queue, active, slots, cached_predictions, resident_subjects, …"""
        ...

    def observe(self, observer: Callable[[str, float], None]) -> None:
        """Call `observer(name, value)` for every measurement: batch_size, step_s, predict_s, decode_s, …"""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more, finish what was accepted; whether all was done in time."""
        ...

    def close(self) -> None:
        """Stop at the next step; what is left ends as `Cancelled`."""
        ...
