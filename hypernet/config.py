"""How large a hypernetwork is; saved with it."""

from __future__ import annotations

from dataclasses import dataclass

from palp.errors import InputError
from palp.settings import from_mapping

__all__ = ["HyperConfig"]


@dataclass(frozen=True)
class HyperConfig:
    """Sizes of a hypernetwork; with the embedded base about 6 million parameters.

    Raises:
        InputError: a size below 1, or heads that do not divide the width.
    """

    width: int = 256  # of the states, one a site
    layers: int = 2  # cross-attention blocks
    heads: int = 4  # of the attention
    basis: int = 24  # learned directions of each site

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"the setting {name} is {value}, and must be at least 1")
        if self.width % self.heads:
            raise InputError(f"the setting heads is {self.heads}, and must divide width {self.width}")

    @classmethod
    def from_mapping(cls, values: dict[str, object]) -> HyperConfig:
        """The sizes in a file; what is left out has its default.

        Raises:
            InputError: a name that is no size, or a value that cannot be one.
        """
        return from_mapping(cls, values)
