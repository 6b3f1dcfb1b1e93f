"""One subject learned, as the child process of a server does it, or a command in its own process."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palp.adapter import Adapter
from palp.atomic import write_json
from palp.base import Base
from palp.cli.base import open_base
from palp.errors import PalpError
from palp.learn import Watch, learn
from palp.recipes import recipe
from palp.subjects import Subject, read_pictures
from palp.train import joint_job
from serving.errors import UnknownSubjectError
from serving.subjects.records import LOCK, Record, Shelf, read_record

__all__ = ["Teaching", "kept", "learn_subject", "learning_lock", "teach"]

NICENESS = 10  # of the child: pictures come first
PROGRESS_S = 0.5  # between two notes of progress


@dataclass(frozen=True)
class Teaching:
    """How a child process comes to its base, and what of the recipe is changed.

    Args:
        source, device, dtype, config: as `load_base` takes them.
        changes: settings that differ from the base's recipe for subjects.
    """

    source: str = "icons"
    device: str | None = None
    dtype: str = "auto"
    config: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def teach(root: Path, folder: Path, teaching: Teaching) -> None:
    """What the child process does: wait for its turn, and learn the subject in a folder."""
    os.nice(NICENESS)
    with learning_lock(root):
        base = open_base(teaching.source, teaching.device, teaching.dtype, teaching.config)
        learn_subject(Shelf(folder), base, teaching.changes)


@contextmanager
def learning_lock(root: Path) -> Iterator[None]:
    """Within, no other process learns a subject under this root; the system drops the lock with the process."""
    import fcntl  # not everywhere

    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def learn_subject(
    shelf: Shelf,
    base: Base,
    changes: Mapping[str, Any] | None = None,
    report: Callable[[int, int, float], None] | None = None,
) -> None:
    """Learn a waiting subject to its end, from its last checkpoint; one that is not waiting is left as it is.

    What a user can mend is kept in the record, and not raised.

    Args:
        changes: settings that differ from the recipe.
        report: called after every step, beside the note of progress.

    Raises:
        UnknownSubjectError: it was removed meanwhile; a child process ends without a word.
    """
    record = read_record(shelf)
    if record is None or record.adapter is not None or record.error is not None:
        return
    try:
        subject = Subject(record.class_word, read_pictures(shelf.uploads, base.resolution))
        job = joint_job(base, [subject], name=record.class_word)
        note = _Noting(shelf, record.name, report)
        run = learn(base, job, recipe(base.name, "subject", changes), shelf.run, [subject], Watch(note))
        if not shelf.record.is_file():
            return  # it was removed a moment ago
        shelf.write(kept(record, run.adapter))
    except UnknownSubjectError:
        raise
    except PalpError as error:
        if shelf.record.is_file():
            shelf.write(replace(record, error=str(error).replace(f"{shelf.folder}{os.sep}", "")))
        return
    finally:
        shelf.progress.unlink(missing_ok=True)
    for folder in (shelf.uploads, shelf.run / "samples"):
        shutil.rmtree(folder, ignore_errors=True)


def kept(record: Record, file: Path) -> Record:
    """The record of a subject whose adapter is in a file.

    Raises:
        AdapterFileError: no adapter, or a damaged one.
    """
    content = file.read_bytes()
    adapter = Adapter.from_bytes(content, file.name)
    return replace(
        record,
        adapter=hashlib.sha256(content).hexdigest(),
        base=adapter.spec.base,
        rank=adapter.spec.rank,
        words=tuple(sorted(adapter.placeholders)),
    )


class _Noting:
    """Notes the progress beside the record; ends the learning when the subject is gone, and a child with its server."""

    def __init__(self, shelf: Shelf, name: str, report: Callable[[int, int, float], None] | None) -> None:
        self._shelf, self._name, self._report = shelf, name, report
        self._noted_at = -PROGRESS_S

    def __call__(self, done: int, total: int, loss: float) -> None:
        if self._report is not None:
            self._report(done, total, loss)
        if time.monotonic() - self._noted_at < PROGRESS_S:
            return
        self._noted_at = time.monotonic()
        parent, gone = multiprocessing.parent_process(), not self._shelf.record.is_file()
        if gone and parent is None:
            raise UnknownSubjectError(self._name)
        if parent is not None and (gone or not parent.is_alive()):
            raise SystemExit(0)
        write_json(self._shelf.progress, {"pid": os.getpid(), "share": done / total})
