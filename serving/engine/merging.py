"""Whether the one slot of a batch belongs in the base's weights, by what merging and steps have cost so far."""

from __future__ import annotations

from collections import defaultdict, deque

__all__ = ["MERGE_FOR", "MergeCosts"]

MERGE_FOR = 4
"""Steps that must be left for a merge to be tried while its cost is not known."""
KNOWN = 3  # steps of a kind: the first after an installing is slower, so one alone says little
KEPT = 16  # measurements of a kind, so that what was true long ago is forgotten


class MergeCosts:
    """The times of merges and of steps in either form, and what follows from them.

    The least of the kept times counts: other work on the machine only ever adds to it.
    """

    def __init__(self) -> None:
        self._merges: deque[float] = deque(maxlen=KEPT)
        self._steps: dict[tuple[int, bool], deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    def merged(self, seconds: float) -> None:
        """A merge took so long."""
        self._merges.append(seconds)

    def stepped(self, rows: int, merged: bool, seconds: float) -> None:
        """A step of so many rows of the denoiser took so long, with the slot in the weights or beside them."""
        self._steps[rows, merged].append(seconds)

    def pays(self, rows: int, left: int) -> bool:
        """Whether a merge saves more than it costs in the steps that are left.

        First some steps are measured in the slot, then some in the weights.
        """
        beside, inside = self._steps[rows, False], self._steps[rows, True]
        if len(beside) < KNOWN:
            return False
        if len(inside) < KNOWN or not self._merges:
            return left >= MERGE_FOR
        return left * (min(beside) - min(inside)) > min(self._merges)
