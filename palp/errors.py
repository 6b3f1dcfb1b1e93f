"""What can go wrong.

PalpError
├── InputError
│   └── UnknownPlaceholderError
├── BaseLoadError
├── AdapterMismatchError
└── NonFiniteLossError
"""


class PalpError(Exception):
    """Anything a user can cause."""


class InputError(PalpError):
    """A value from the user that cannot be used."""


class UnknownPlaceholderError(InputError):
    """A prompt uses a placeholder nobody gave vectors for."""


class BaseLoadError(PalpError):
    """A base model that cannot be loaded."""


class AdapterMismatchError(PalpError):
    """An adapter made for another base."""


class NonFiniteLossError(PalpError):
    """A loss that is not a number."""
