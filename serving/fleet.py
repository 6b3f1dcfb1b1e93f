"""An engine of many: pictures are drawn by replicas elsewhere, and drawn again by another when one is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

from palp.errors import PalpError
from serving.contract import Cancelled, Done, Event, Failed, Listener, PictureRequest, Queued, Step, SubjectLibrary
from serving.errors import DeadlineError, DrainingError, QueueFullError, SubjectNotReadyError

__all__ = ["Fleet", "Remote", "ReplicaLostError"]

logger = logging.getLogger(__name__)

ATTEMPTS = 4  # a picture that loses so many replicas is taken to be the reason
PAUSE_S = 0.2  # before another attempt
SLACK_S = 5.0  # that a replica gives a picture beyond its deadline, which is kept here
RETRY_AFTER_S = 2.0  # for who is turned away

Remote = Callable[[PictureRequest], AsyncGenerator[Event, None]]
"""Draws a picture elsewhere: its events up to the last. Raises ReplicaLostError; closed early, it gives up."""


class ReplicaLostError(PalpError):
    """Whoever drew a picture is gone, and it is not done."""

    def __init__(self) -> None:
        super().__init__("the picture's replica was lost again and again: try later, and look into the replicas' logs")


class Errand:
    """A `serving.contract.Ticket`: a picture and the task that has it drawn."""

    def __init__(self, request: PictureRequest, listener: Listener) -> None:
        self.request, self.listener, self.id = request, listener, uuid.uuid4().hex
        self.steps = -1  # that the listener has heard of; -1 before `Queued`
        self.task: asyncio.Task[Event] | None = None
        self._loop = asyncio.get_running_loop()

    def cancel(self) -> None:
        """Take the request back; its last event is `Cancelled`. Never waits; from any thread."""
        if self.task is not None:
            self._loop.call_soon_threadsafe(self.task.cancel)

    def tell(self, event: Queued | Step) -> None:
        """Pass on what the listener has not heard before from a replica that was lost."""
        step = event.step if isinstance(event, Step) else 0
        if step > self.steps:
            self.steps = step
            self.listener(event)


class Fleet:
    """A `serving.contract.Engine` whose pictures are drawn elsewhere; `submit` belongs to a running event loop.

    A picture depends on its request alone, so one that was lost with its replica is drawn again as it would have been.
    What only a replica can know of a request, such as a word without meaning, comes as its `Failed` event.

    Args:
        draw: by a replica.
        library: the subjects that the replicas draw from.
        most: pictures that may wait or be drawn.
    """

    def __init__(self, draw: Remote, library: SubjectLibrary, most: int) -> None:
        self._draw, self._library, self._most = draw, library, most
        self._changed = threading.Condition()
        self._errands: set[Errand] = set()
        self._observers: list[Callable[[str, float], None]] = []
        self._draining = False
        self._retries = 0

    @property
    def subjects(self) -> SubjectLibrary:
        """Whose adapters are drawn."""
        return self._library

    def submit(self, request: PictureRequest, listener: Listener) -> Errand:
        """Have a picture drawn.

        Raises:
            UnknownSubjectError, SubjectNotReadyError, QueueFullError, DrainingError: as `Engine.submit` says.
        """
        if request.subject is not None:
            state = self._library.show(request.owner, request.subject).state
            if state != "ready":
                raise SubjectNotReadyError(request.subject, state)
        errand = Errand(request, listener)
        with self._changed:
            if self._draining:
                raise DrainingError
            if len(self._errands) >= self._most:
                raise QueueFullError(len(self._errands), RETRY_AFTER_S)
            self._errands.add(errand)
        errand.task = asyncio.create_task(self._run(errand))
        errand.task.add_done_callback(lambda task: self._end(errand, task))
        return errand

    def stats(self) -> Mapping[str, float]:
        """Pictures that wait or are drawn, and how often one was brought to a replica again."""
        return {"active": float(len(self._errands)), "retries": float(self._retries)}

    def observe(self, observer: Callable[[str, float], None]) -> None:
        """Call `observer(name, value)` with batch_size and each stage's seconds, once a picture."""
        self._observers.append(observer)

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more, finish what was accepted; not for the loop's own thread."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._errands, timeout_s)

    def close(self) -> None:
        """Take back what is left; it ends as `Cancelled`."""
        with self._changed:
            self._draining, left = True, list(self._errands)
        for errand in left:
            errand.cancel()

    async def _run(self, errand: Errand) -> Event:
        """The last event of a picture."""
        limit = errand.request.deadline_s
        try:
            async with asyncio.timeout(limit) as timeout:
                losses = 0
                while losses < ATTEMPTS:
                    try:
                        return await self._attempt(errand, timeout.when())
                    except QueueFullError:  # for the moment; the picture was accepted here, and waits
                        logger.info("a replica was full; its picture is brought again")
                    except ReplicaLostError:
                        losses += 1
                        logger.warning("a replica was lost; its picture is drawn again")
                    self._retries += 1
                    await asyncio.sleep(PAUSE_S)
                return Failed(ReplicaLostError())
        except TimeoutError:
            assert limit is not None
            return Failed(DeadlineError(limit))

    async def _attempt(self, errand: Errand, end: float | None) -> Event:
        """The last event from one replica.

        Raises:
            ReplicaLostError: it was stopped, or ended without a word.
            QueueFullError: it has as much to do as it takes.
        """
        left = None if end is None else max(0.0, end - asyncio.get_running_loop().time()) + SLACK_S
        events = self._draw(replace(errand.request, deadline_s=left))
        try:
            async for event in events:
                if isinstance(event, Queued | Step):
                    errand.tell(event)
                elif isinstance(event, Cancelled) or (
                    isinstance(event, Failed) and isinstance(event.error, DrainingError)
                ):
                    break  # nobody here asked for that: the replica is stopping
                elif isinstance(event, Failed) and isinstance(event.error, QueueFullError):
                    raise event.error
                else:
                    return event
        finally:
            await events.aclose()
        raise ReplicaLostError

    def _end(self, errand: Errand, task: asyncio.Task[Event]) -> None:
        if task.cancelled():
            event: Event = Cancelled()
        elif (error := task.exception()) is not None:
            event = Failed(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            event = task.result()
        if isinstance(event, Done):
            self._measure(event)
        errand.listener(event)
        with self._changed:
            self._errands.discard(errand)
            self._changed.notify_all()

    def _measure(self, done: Done) -> None:
        for observer in self._observers:
            observer("batch_size", done.details.batch_size)
            for stage, seconds in done.details.seconds.items():
                observer(f"{stage}_s", seconds)
