"""Who is next: the line of accepted requests."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from serving.engine.entry import Entry

__all__ = ["Line"]


class Line:
    """Higher priorities first; of one priority the owners in turn, and each owner's requests in their order.

    An owner with a hundred requests thus delays another by one picture a turn. Not for several threads.
    """

    def __init__(self) -> None:
        self._turns: dict[int, OrderedDict[str, deque[Entry]]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for turns in self._turns.values() for queue in turns.values())

    def push(self, entry: Entry) -> int:
        """Put a request at the end of its owner's; returns how many would be taken before it."""
        turns = self._turns.setdefault(entry.request.priority, OrderedDict())
        queue = turns.setdefault(entry.request.owner, deque())
        queue.append(entry)
        return self._ahead(entry.request.priority, entry.request.owner)

    def pop(self, fits: Callable[[Entry], bool] = lambda entry: True) -> Entry | None:
        """Take the next request that fits, or None; the others keep their places."""
        for priority in sorted(self._turns, reverse=True):
            turns = self._turns[priority]
            for owner, queue in turns.items():
                entry = next(filter(fits, queue), None)
                if entry is None:
                    continue
                queue.remove(entry)
                if queue:
                    turns.move_to_end(owner)
                else:
                    self._forget(priority, owner)
                return entry
        return None

    def take(self, unwanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take out all requests for which this is true."""
        taken: list[Entry] = []
        for priority, turns in list(self._turns.items()):
            for owner, queue in list(turns.items()):
                out = [entry for entry in queue if unwanted(entry)]
                for entry in out:
                    queue.remove(entry)
                if not queue:
                    self._forget(priority, owner)
                taken += out
        return taken

    def _ahead(self, priority: int, owner: str) -> int:
        """How many go before the last request of an owner."""
        higher = sum(len(q) for p, turns in self._turns.items() if p > priority for q in turns.values())
        turns = self._turns[priority]
        owners = list(turns)
        place, rounds = owners.index(owner), len(turns[owner])
        others = [min(len(turns[o]), rounds if i < place else rounds - 1) for i, o in enumerate(owners) if o != owner]
        return higher + sum(others) + rounds - 1

    def _forget(self, priority: int, owner: str) -> None:
        del self._turns[priority][owner]
        if not self._turns[priority]:
            del self._turns[priority]
