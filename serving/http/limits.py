"""How much one owner may have going on at once."""

from __future__ import annotations

from collections import Counter

from palp.errors import InputError, PalpError

__all__ = ["LimitError", "Places"]


class LimitError(PalpError):
    """An owner has as much going on as one may; `retry_after_s` says when to try again."""

    def __init__(self, what: str, most: int, retry_after_s: float) -> None:
        super().__init__(f"you may have {most} {what} at once: wait until one is done, then try again")
        self.retry_after_s = retry_after_s


class Places:
    """So many places for each owner. For one thread."""

    def __init__(self, what: str, most: int, retry_after_s: float) -> None:
        self._what, self._most, self._retry_after_s = what, most, retry_after_s
        self._taken: Counter[str] = Counter()

    def take(self, owner: str, count: int = 1) -> None:
        """Take places, or none.

        Raises:
            InputError: there never are so many.
            LimitError: there are not so many left.
        """
        if count > self._most:
            raise InputError(
                f"{count} {self._what} are asked for, and you may have {self._most} at once: ask for fewer"
            )
        if self._taken[owner] + count > self._most:
            raise LimitError(self._what, self._most, self._retry_after_s)
        self._taken[owner] += count

    def give(self, owner: str, count: int = 1) -> None:
        """Back what was taken."""
        self._taken[owner] -= count
        if not self._taken[owner]:
            del self._taken[owner]
