"""How large a hypernetwork is; saved with it."""

from __future__ import annotations

from dataclasses import dataclass

from palp.settings import CheckedSettings

__all__ = ["HyperConfig"]


@dataclass(frozen=True)
class HyperConfig(CheckedSettings):
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
            self.require(name, value >= 1, "at least 1")
        self.require("heads", self.width % self.heads == 0, f"a divisor of width {self.width}")
