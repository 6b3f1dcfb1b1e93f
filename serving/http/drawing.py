"""The pictures of one HTTP request on their way: events of the engine's thread, read in the server's loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

from palp.errors import InputError
from serving.contract import Cancelled, Done, Engine, Event, Failed, PictureRequest, Queued, Step, Ticket
from serving.errors import DrainingError

__all__ = ["Drawing"]

LAST = (Done, Failed, Cancelled)


class Drawing:
    """Submitted at once, all or none; `close` takes back what is not done, and must be called in the end.

    Args:
        engine: who draws.
        requests: one for each picture.
        on_close: called once, by the first `close`.

    Raises: as `Engine.submit`; nothing is left in the engine then.
    """

    def __init__(self, engine: Engine, requests: Sequence[PictureRequest], on_close: Callable[[], None]) -> None:
        if not requests:
            raise InputError("no picture was asked for: ask for one or more")
        self.requests = tuple(requests)
        self.preview: bytes | None = None
        self.started = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._on_close = on_close
        self._open = True
        self._interrupted = False
        self._steps = [0] * len(requests)
        try:
            for index, request in enumerate(requests):
                self._tickets.append(engine.submit(request, partial(self._hear, index)))
        except BaseException:
            self.close()
            raise

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        return sum(self._steps) / sum(request.steps for request in self.requests)

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupted

    def interrupt(self) -> None:
        """Take back what is not done; the events go on to their end."""
        self._interrupted = True
        for ticket in self._tickets:
            ticket.cancel()

    def close(self) -> None:
        """Take back what is not done, and give the caller's places back."""
        if self._open:
            self._open = False
            for ticket in self._tickets:
                ticket.cancel()
            self._on_close()

    async def events(self, pause_s: float | None = None) -> AsyncIterator[tuple[int, Event] | None]:
        """Index of the picture and event, until each picture had its last; None after each pause without any."""
        left = len(self.requests)
        while left:
            try:
                async with asyncio.timeout(pause_s):
                    index, event = await self._heard.get()
            except TimeoutError:
                yield None
                continue
            left -= isinstance(event, LAST)
            yield index, event

    async def finished(self) -> list[Done]:
        """All pictures, in order; those interrupted are left out.

        Raises: what the first failed for; DrainingError when the engine was closed.
        """
        done: dict[int, Done] = {}
        async for heard in self.events():
            if heard is None:
                continue
            index, event = heard
            if isinstance(event, Done):
                done[index] = event
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Cancelled) and not self._interrupted:
                raise DrainingError
        return [done[index] for index in sorted(done)]

    def _hear(self, index: int, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._note, index, event)

    def _note(self, index: int, event: Event) -> None:
        if isinstance(event, Step):
            self._steps[index] = event.step
            self.preview = event.preview or self.preview
        elif not isinstance(event, Queued):
            self._steps[index] = self.requests[index].steps
        self._heard.put_nowait((index, event))
