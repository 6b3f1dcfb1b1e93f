"""An accepted request, as the engine carries it; a `serving.contract.Ticket`."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from serving.contract import Cancelled, Done, Event, Failed, Listener, PictureRequest, Queued
from serving.subjects.records import Record

__all__ = ["Entry"]

logger = logging.getLogger(__name__)


class Entry:
    """One request, from acceptance to its last event.

    Args:
        request: what was asked for.
        listener: told of every event; what it raises is logged, and the engine goes on.
        record: of the subject, None for the bare base.
        wake: tells the engine that something has changed.
    """

    def __init__(
        self, request: PictureRequest, listener: Listener, record: Record | None, wake: Callable[[], None]
    ) -> None:
        self.request, self.record = request, record
        self.accepted_at = time.monotonic()
        self.ahead = 0
        self.cancelled = False
        self.ended = False
        self._announced = False
        self._listener, self._wake = listener, wake
        self._id = uuid.uuid4().hex

    @property
    def id(self) -> str:
        """Unique."""
        return self._id

    def cancel(self) -> None:
        """Take the request back. Never waits; without effect after the last event."""
        self.cancelled = True
        self._wake()

    @property
    def expired(self) -> bool:
        """Whether its deadline is over."""
        limit = self.request.deadline_s
        return limit is not None and time.monotonic() - self.accepted_at > limit

    def tell(self, event: Event) -> None:
        """Send an event, `Queued` before any other, and nothing after the last one."""
        if self.ended:
            return
        if not self._announced:
            self._announced = True
            self._call(Queued(self.ahead))
        if isinstance(event, Queued):
            return
        self.ended = isinstance(event, Done | Failed | Cancelled)
        self._call(event)

    def _call(self, event: Event) -> None:
        try:
            self._listener(event)
        except Exception:
            logger.exception("the listener of request %s raised", self._id)
