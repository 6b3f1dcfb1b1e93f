"""What can go wrong in serving beyond bad input."""

from __future__ import annotations

from collections.abc import Iterable

from palp.errors import InputError, PalpError

__all__ = [
    "DeadlineError",
    "DrainingError",
    "QueueFullError",
    "SubjectExistsError",
    "SubjectNotReadyError",
    "UnknownPromptAdapterError",
    "UnknownSubjectError",
]

MOST_NAMES = 20  # in a sentence


class QueueFullError(PalpError):
    """All places are taken; `retry_after_s` says when to try again."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} requests are waiting, which is all there is room for: try again in a moment")
        self.retry_after_s = retry_after_s


class DrainingError(PalpError):
    """The engine is stopping."""

    def __init__(self) -> None:
        super().__init__("the server is stopping, and takes no more requests: try another, or later")


class DeadlineError(PalpError):
    """A request's time was over before its picture was."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the picture was not done within {seconds:g} s: allow more, or try when less is asked")


class UnknownSubjectError(InputError):
    """The owner has no subject of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no subject {name!r}: add it first, or list those there are")


class UnknownPromptAdapterError(InputError):
    """The server keeps no prompt adapter of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = ", ".join(["auto", "off", *sorted(known)[:MOST_NAMES]])
        super().__init__(f"there is no prompt adapter {name[:80]!r}: use one of {names}")


class SubjectNotReadyError(InputError):
    """The subject is still being learned, or could not be."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"subject {name!r} is {state}, and must be ready: wait until it is learned")


class SubjectExistsError(InputError):
    """The owner has a subject of that name already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a subject {name!r} already: choose another name, or remove it first")
