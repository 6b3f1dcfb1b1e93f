"""The queue of subjects that wait to be learned: one child process at a time."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from serving.subjects.learning import Teaching, teach
from serving.subjects.records import Shelf, read_record, waiting

__all__ = ["Learner"]

logger = logging.getLogger(__name__)

ATTEMPTS = 2  # a process that dies twice over a subject would die again
STOP_S = 5.0  # patience with a process that was asked to end
PAUSE_S = 10.0  # before another try, where no process could be started


class Learner:
    """Learns what waits under a root on a thread that starts child processes: owners in turn, of each the oldest first.

    The queue is the disk's: what a server left when it was killed goes on when the next one starts.

    Args:
        root: of the library.
        teaching: how a child comes to its base.
    """

    def __init__(self, root: Path, teaching: Teaching) -> None:
        self._root, self._teaching = root, teaching
        self._context = multiprocessing.get_context("spawn")
        self._changed = threading.Condition()
        self._asked, self._closing = True, False
        self._current: tuple[Path, BaseProcess] | None = None
        self._deaths: Counter[Path] = Counter()
        self._turns: dict[Path, int] = {}  # when each owner was last served
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look for waiting subjects again."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def stop(self, shelf: Shelf) -> None:
        """End the process that learns this subject, if one does; returns when it has ended."""
        with self._changed:
            if self._current is not None and self._current[0] == shelf.folder:
                self._end(self._current[1])

    def close(self) -> None:
        """End what is going on; it goes on from its checkpoint another time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._current is not None:
                self._end(self._current[1])
        self._thread.join(2 * STOP_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._asked and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                self._asked = False
            try:
                if found := waiting(self._root):
                    self._learn(self._next(found))
                    self.wake()
            except Exception:
                logger.exception("the queue of subjects stumbled")
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, PAUSE_S)
                    self._asked = True

    def _next(self, found: Sequence[Shelf]) -> Shelf:
        """Of the owner who was served longest ago, or never."""
        shelf = min(found, key=lambda one: self._turns.get(one.folder.parent, 0))
        self._turns[shelf.folder.parent] = max(self._turns.values(), default=0) + 1
        return shelf

    def _learn(self, shelf: Shelf) -> None:
        arguments = (self._root, shelf.folder, self._teaching)
        process = self._context.Process(target=_teach, args=arguments, name="learn-subject", daemon=True)
        with self._changed:
            if self._closing:
                return
            process.start()
            self._current = (shelf.folder, process)
        process.join()
        with self._changed:
            self._current = None
            self._changed.notify_all()
            closing = self._closing
        if process.exitcode != 0 and not closing:
            self._count_death(shelf, process.exitcode)

    def _count_death(self, shelf: Shelf, exit_code: int | None) -> None:
        """Try a subject again whose process died, but not for ever."""
        record = read_record(shelf)
        if record is None:  # it was removed, and may be added again
            self._deaths.pop(shelf.folder, None)
            return
        shelf.progress.unlink(missing_ok=True)
        self._deaths[shelf.folder] += 1
        if record.adapter is None and self._deaths[shelf.folder] >= ATTEMPTS:
            shelf.write(replace(record, error=f"its learning broke off twice (exit code {exit_code}): add it again"))

    def _end(self, process: BaseProcess) -> None:
        """End a process, and wait until the queue's thread has seen it; the caller holds the lock."""
        for stop in (process.terminate, process.kill):
            stop()
            if self._changed.wait_for(lambda: self._current is None or self._current[1] is not process, STOP_S):
                return


def _teach(root: Path, folder: Path, teaching: Teaching) -> None:
    """As `teach`, deaf to Ctrl-C, which a terminal sends to all its processes: the parent ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    teach(root, folder, teaching)
