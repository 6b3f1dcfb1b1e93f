"""Adapters in memory, as many as fit."""

from __future__ import annotations

import threading
from collections import OrderedDict

from palp.adapter import Adapter

__all__ = ["AdapterCache"]


class AdapterCache:
    """The adapters asked for last, by key, up to a number of bytes; one may be called from several threads.

    Args:
        limit: bytes; an adapter larger than that is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Adapter, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Adapter | None:
        """The adapter, or None where it is not kept."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: str, adapter: Adapter) -> None:
        """Keep an adapter, and let go of those that were asked for longest ago."""
        size = _size(adapter)
        if size > self._limit:
            return
        with self._lock:
            if key in self._kept:
                self.bytes -= self._kept.pop(key)[1]
            self._kept[key] = (adapter, size)
            self.bytes += size
            while self.bytes > self._limit:
                self.bytes -= self._kept.popitem(last=False)[1][1]


def _size(adapter: Adapter) -> int:
    words = [vectors for encoders in adapter.placeholders.values() for vectors in encoders.values()]
    return sum(tensor.nbytes for tensor in (*adapter.down.values(), *adapter.up.values(), *words))
