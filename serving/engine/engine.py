"""The engine's thread: requests join and leave the batch at every step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from palp.base import Base
from serving.contract import Cancelled, Event, Failed, Listener, PictureRequest, Queued
from serving.engine.easel import Easel
from serving.engine.entry import Entry
from serving.engine.line import Line
from serving.engine.predictions import Predictions
from serving.engine.settings import EngineSettings
from serving.engine.stored import Stored
from serving.errors import DeadlineError, DrainingError, QueueFullError
from serving.subjects.library import Library

__all__ = ["BatchEngine"]

logger = logging.getLogger(__name__)

JOIN_S = 60.0  # a step of a large model on a small machine
PLACES_FREED = 10  # a caller who is turned away comes back when one in so many of the places is free


class BatchEngine:
    """A `serving.contract.Engine` on one base, which nobody else may use meanwhile.

    One thread makes step after step; between two of them pictures join, leave, are cancelled or run out of time.

    Args:
        base: frozen; it is as before after `close`.
        library: of subjects; closed by whoever opened it.
        predictions: of prompt adapters; None for none.
        settings: sizes.
        stored: prompt adapters that can be asked for by name; None for none.
    """

    def __init__(
        self,
        base: Base,
        library: Library,
        predictions: Predictions | None = None,
        settings: EngineSettings | None = None,
        stored: Stored | None = None,
    ) -> None:
        self.base, self.settings = base, settings or EngineSettings()
        self._library = library
        self._predictions = predictions
        self._changed = threading.Condition()
        self._line = Line()
        self._new: list[Entry] = []
        self._accepted: dict[str, Entry] = {}  # and without a last event
        self._draining = self._closing = False
        self._observers: list[Callable[[str, float], None]] = []
        self._easel = Easel(base, library, predictions, self.settings, self._end, self._measure, stored)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def subjects(self) -> Library:
        """Whose adapters are drawn."""
        return self._library

    def submit(self, request: PictureRequest, listener: Listener) -> Entry:
        """Queue a picture; never waits. Raises as `serving.contract.Engine.submit` says."""
        self._refuse_when_stopping()
        record = self._easel.check(request)
        with self._changed:
            self._refuse_when_stopping()
            waiting = len(self._line)
            if waiting >= self.settings.max_waiting:
                places = max(self.settings.max_waiting / PLACES_FREED, 1.0)
                raise QueueFullError(waiting, self._easel.rate.seconds_for(places))
            entry = Entry(request, listener, record, self._wake)
            entry.ahead = self._line.push(entry)
            self._new.append(entry)
            self._accepted[entry.id] = entry
            self._changed.notify_all()
        return entry

    def stats(self) -> Mapping[str, float]:
        """Gauges by name; may be called from any thread."""
        with self._changed:
            queue, accepted = len(self._line), len(self._accepted)
        cache = self._library.cache
        gauges = {
            "queue": queue,
            "active": accepted - queue,
            "slots": self.settings.slots,
            "resident_slots": self._easel.resident,
            "cached_predictions": 0 if self._predictions is None else len(self._predictions),
            "resident_subjects": len(cache),
            "resident_bytes": cache.bytes,
            "pictures_per_s": self._easel.rate.pictures_per_s,
        }
        return {name: float(value) for name, value in gauges.items()}

    def observe(self, observer: Callable[[str, float], None]) -> None:
        """Call `observer(name, value)` from the engine's thread for every measurement.

        batch_size and step_s a step; queue_s, predict_s, compose_s, decode_s and picture_s a picture.
        """
        self._observers.append(observer)

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more, finish what was accepted; whether all was done in time."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._accepted, timeout_s)

    def close(self) -> None:
        """Stop at the next step; what is left ends as `Cancelled`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(JOIN_S)

    def _refuse_when_stopping(self) -> None:
        if self._draining or self._closing:
            raise DrainingError

    def _wake(self) -> None:
        """Called by tickets, which never wait: the lock is held for moments only."""
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        while self._await_work():
            try:
                self._round()
            except Exception as error:  # a defect of ours: nobody may wait for ever
                logger.exception("the engine stumbled; its requests are ended")
                self._end_all(Failed(error))
        self._end_all(Cancelled())
        self._easel.close()

    def _await_work(self) -> bool:
        """Sleep while there is nothing to do; False when it is time to stop."""
        with self._changed:
            while not self._closing and not self._line and not self._easel.busy:
                self._changed.wait()
            return not self._closing

    def _round(self) -> None:
        """What happens between two steps, and one step."""
        started = time.monotonic()
        with self._changed:
            new, self._new = self._new, []
        for entry in new:
            entry.tell(Queued(entry.ahead))
        self._sweep()
        while self._easel.places:
            with self._changed:
                first = self._line.pop(self._easel.fits)
            if first is None:
                break
            self._easel.take(first)
        self._easel.step(started)

    def _sweep(self) -> None:
        """End the requests that nobody wants any more."""
        with self._changed:
            left = self._line.take(lambda entry: entry.cancelled or entry.expired)
        for entry in left:
            self._end(entry, parting(entry))
        self._easel.drop(lambda entry: parting(entry) if entry.cancelled or entry.expired else None)

    def _end(self, entry: Entry, event: Event) -> None:
        """The last event of a request."""
        entry.tell(event)
        with self._changed:
            self._accepted.pop(entry.id, None)
            self._changed.notify_all()

    def _end_all(self, event: Event) -> None:
        """Nobody who was accepted may wait for ever, whatever state the rest is in."""
        with self._changed:
            self._line, left = Line(), list(self._accepted.values())
        try:
            self._easel.clear()
        except Exception:
            logger.exception("the pictures under way did not end cleanly")
        for entry in left:
            self._end(entry, event)

    def _measure(self, name: str, value: float) -> None:
        for observer in list(self._observers):
            try:
                observer(name, value)
            except Exception:
                logger.exception("an observer of %s raised", name)


def parting(entry: Entry) -> Event:
    """The last event of a request that nobody wants any more."""
    if entry.cancelled:
        return Cancelled()
    assert entry.request.deadline_s is not None
    return Failed(DeadlineError(entry.request.deadline_s))
