"""Sizes of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from palp.errors import InputError

__all__ = ["EngineSettings"]


@dataclass(frozen=True)
class EngineSettings:
    """What is allotted once, when the engine starts.

    Raises:
        InputError: a size below one, or not two slots for each picture of a batch.
    """

    max_batch: int = 8  # pictures in one call of the denoiser
    max_waiting: int = 256  # accepted requests that are not yet being drawn
    slots: int = 32  # combinations of subject and prompt adapter that are resident, beside the bare base
    subject_rank: int | None = None  # largest rank of a subject adapter; None is that of the base's recipe
    negatives: int = 64  # text states of negative prompts that are kept

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_waiting", "slots", "negatives"):
            if getattr(self, name) < 1:
                raise InputError(f"the engine's {name} is {getattr(self, name)}, and must be at least 1")
        if self.subject_rank is not None and self.subject_rank < 1:
            raise InputError(f"the engine's subject_rank is {self.subject_rank}, and must be at least 1")
        if self.slots < 2 * self.max_batch:
            raise InputError(
                f"the engine has {self.slots} slots for batches of {self.max_batch}: give each picture two, "
                "for its opening and the rest"
            )
