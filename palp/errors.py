"""Everything a user can cause.

    PalpError
    ├── InputError                     a prompt, a picture or a setting that cannot be used
    │   ├── UnknownPlaceholderError    a prompt names a [V] that nobody has learned
    │   ├── PictureError               a picture that cannot be read or is too small
    │   └── LeakageError               held-out prompts or subjects that are in the training part too
    ├── BaseLoadError                  a checkpoint that is missing, incomplete or of no known family
    ├── AdapterFileError               a file that is not an adapter, or a damaged one
    ├── AdapterMismatchError           an adapter made for another base, rank or set of sites
    ├── CorpusError                    a corpus that is unfinished, damaged or of another plan
    ├── NonFiniteLossError             a loss became nan or infinite
    └── OutputError                    a result could not be written: no space, no permission

The message of each is one sentence: what was got, what was expected, what to do.
"""

from __future__ import annotations

import copyreg

__all__ = [
    "AdapterFileError",
    "AdapterMismatchError",
    "BaseLoadError",
    "CorpusError",
    "InputError",
    "LeakageError",
    "NonFiniteLossError",
    "OutputError",
    "PalpError",
    "PictureError",
    "UnknownPlaceholderError",
]


class PalpError(Exception):
    """An error that the user can mend; the command line prints its sentence, not a traceback."""

    def __reduce__(self) -> tuple[object, ...]:
        """As it is: other processes get the sentence and the attributes, whatever `__init__` takes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputError(PalpError):
    """A prompt, a picture or a setting that cannot be used."""


class UnknownPlaceholderError(InputError):
    """A prompt names a placeholder such as [V] for which there is no learned word."""


class PictureError(InputError):
    """A picture that cannot be read, or that is too small to learn from."""


class LeakageError(InputError):
    """Prompts or subjects that are to be held out are in the training part too."""


class BaseLoadError(PalpError):
    """A checkpoint that is missing, incomplete or of no known family."""


class AdapterFileError(PalpError):
    """A file that is not an adapter, or a damaged one."""


class AdapterMismatchError(PalpError):
    """An adapter made for another base, another rank or other sites than the ones at hand."""


class CorpusError(PalpError):
    """A corpus that is unfinished, damaged, or made by another plan than the one at hand."""


class NonFiniteLossError(PalpError):
    """A loss became nan or infinite: in which training step (from 0), in which slot of the bank."""

    def __init__(self, step: int, slot: int) -> None:
        super().__init__(step, slot)
        self.step = step
        self.slot = slot

    def __str__(self) -> str:
        return (
            f"the loss of slot {self.slot} was not finite in step {self.step}: "
            "lower the learning rate or the guidance weight, or resume from the checkpoint before that step"
        )


class OutputError(PalpError):
    """A result could not be written: the disk is full, or the folder may not be written to."""
