"""How quickly pictures are being drawn, for those who must wait."""

from __future__ import annotations

__all__ = ["Rate"]

MEMORY = 0.05  # share of the newest step in the mean
FIRST_GUESS_S = 1.0  # until the first step


class Rate:
    """A moving mean of pictures per second, from the first step on: a step is its share of every picture in it."""

    def __init__(self) -> None:
        self.pictures_per_s = 0.0

    def step(self, pictures: float, seconds: float) -> None:
        """Count a step.

        Args:
            pictures: Σ 1 / steps over the pictures in it.
            seconds: that it took, with what came before it.
        """
        now = pictures / max(seconds, 1e-6)
        self.pictures_per_s += (MEMORY if self.pictures_per_s else 1.0) * (now - self.pictures_per_s)

    def seconds_for(self, pictures: float) -> float:
        """The time in which so many are drawn."""
        return pictures / self.pictures_per_s if self.pictures_per_s else FIRST_GUESS_S
