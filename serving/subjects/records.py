"""What is on disk of a subject, without its tensors.

    ROOT/<hash of the owner>/<hash of owner and name>/
        record.json             name, class word, and what came of the learning
        uploads/001.png         pictures as they came, until they are learned
        progress.json           while it is being learned: how far, and by which process, which holds the root's lock
        run/                    the run folder of the learning: checkpoint, cut pictures, adapter.safetensors

Names and owners never become paths. A folder without a record is no subject: it is being made, or being removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palp.atomic import write_json
from palp.errors import InputError, OutputError
from serving.contract import SubjectInfo, SubjectState
from serving.errors import SubjectExistsError, UnknownSubjectError

__all__ = [
    "Record",
    "Shelf",
    "check_class_word",
    "check_name",
    "data_folder",
    "find",
    "info",
    "list_subjects",
    "passing_folder",
    "place",
    "read_record",
    "remove",
    "shelf_of",
    "waiting",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CLASS_WORD = re.compile(r"[^\W_][\w '-]{0,63}")
PASSING = ".tmp-"  # how a folder begins that is being made or removed
LOCK = "learning.lock"  # held by whoever learns, see `learning_lock`


def data_folder() -> Path:
    """Where subjects are kept unless asked otherwise: `$XDG_DATA_HOME/palp-hyper`, or `~/.local/share/palp-hyper`."""
    root = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(root) / "palp-hyper" / "library"


@dataclass(frozen=True)
class Record:
    """What is known of a subject; with an `adapter` it is ready, with an `error` it has failed.

    Args:
        name, class_word: as given.
        created: seconds since 1970.
        pictures: how many; 0 where an adapter was brought along.
        adapter: sha256 of the adapter's file.
        base: fingerprint of the adapter's base.
        rank: of the adapter.
        words: that the adapter has learned.
        error: why it could not be learned.
    """

    name: str
    class_word: str
    created: float
    pictures: int
    adapter: str | None = None
    base: str = ""
    rank: int = 0
    words: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Shelf:
    """The files of one subject."""

    folder: Path

    @property
    def record(self) -> Path:
        """What is known of it."""
        return self.folder / "record.json"

    @property
    def uploads(self) -> Path:
        """Pictures as they came."""
        return self.folder / "uploads"

    @property
    def run(self) -> Path:
        """The run folder of its learning."""
        return self.folder / "run"

    @property
    def adapter(self) -> Path:
        """What was learned."""
        return self.run / "adapter.safetensors"

    @property
    def progress(self) -> Path:
        """How far its learning is."""
        return self.folder / "progress.json"

    def write(self, record: Record) -> None:
        """Keep a record. Raises OutputError when it cannot be written."""
        write_json(self.record, asdict(record))


def check_name(name: str) -> str:
    """Return the name if a subject can have it.

    Raises:
        InputError: it is not up to 64 letters, digits, "-", "_" and ".", beginning with a letter or digit.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name[:80]!r} cannot be the name of a subject: use up to 64 letters, digits, '-', '_' and '.', "
            "with a letter or digit first"
        )
    return name


def check_class_word(class_word: str) -> str:
    """Return the class word, without spaces around it, if it can stand in a prompt.

    Raises:
        InputError: it is not a word or a few.
    """
    if not CLASS_WORD.fullmatch(class_word.strip()):
        raise InputError(
            f"{class_word[:80]!r} cannot be a class word: say what the pictures show, such as 'cat' or 'toy robot'"
        )
    return class_word.strip()


def shelf_of(root: Path, owner: str, name: str) -> Shelf:
    """Where a subject is, or would be."""
    return Shelf(root / _hash(owner) / _hash(owner, check_name(name)))


def find(root: Path, owner: str, name: str) -> tuple[Shelf, Record]:
    """One subject of an owner.

    Raises:
        UnknownSubjectError: there is none of that name.
    """
    if NAME.fullmatch(name):
        shelf = shelf_of(root, owner, name)
        if (record := read_record(shelf)) is not None:
            return shelf, record
    raise UnknownSubjectError(name[:80])


def read_record(shelf: Shelf) -> Record | None:
    """The record, or None where there is none that can be read."""
    values = _json(shelf.record)
    try:
        return Record(**{**values, "words": tuple(values["words"])})
    except (KeyError, TypeError):
        return None


def info(shelf: Shelf, record: Record) -> SubjectInfo:
    """What a caller is told."""
    common = (record.pictures, record.created)
    if record.adapter is not None:
        return SubjectInfo(record.name, record.class_word, "ready", 1.0, *common)
    if record.error is not None:
        return SubjectInfo(record.name, record.class_word, "failed", 0.0, *common, record.error)
    progress = _json(shelf.progress)
    share = float(progress.get("share", 0.0))
    state: SubjectState = "learning" if _alive(progress.get("pid")) and _locked(shelf) else "waiting"
    return SubjectInfo(record.name, record.class_word, state, share, *common)


def list_subjects(root: Path, owner: str) -> list[SubjectInfo]:
    """All of an owner's, oldest first."""
    shelves = _shelves(root / _hash(owner))
    found = [info(shelf, record) for shelf in shelves if (record := read_record(shelf)) is not None]
    return sorted(found, key=lambda one: (one.created, one.name))


def waiting(root: Path) -> list[Shelf]:
    """The subjects of all owners that nobody is learning and that are not learned, oldest first."""
    owners = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    found = [
        (record.created, shelf)
        for owner in owners
        for shelf in _shelves(owner)
        if (record := read_record(shelf)) is not None and info(shelf, record).state == "waiting"
    ]
    return [shelf for _, shelf in sorted(found, key=lambda pair: pair[0])]


def place(root: Path, owner: str, name: str, made: Path) -> Shelf:
    """Move a folder that holds a record to where the subject belongs, at once.

    Raises:
        SubjectExistsError: there is a subject of that name.
    """
    shelf = shelf_of(root, owner, name)
    for last in (False, True):
        try:
            os.rename(made, shelf.folder)
            break
        except OSError as error:
            if read_record(shelf) is not None:
                raise SubjectExistsError(name) from error
            if last:
                raise OutputError(f"cannot write {shelf.folder} ({error.strerror}): choose another folder") from error
        shutil.rmtree(shelf.folder, ignore_errors=True)  # what a learning wrote that was removed meanwhile
    return shelf


def passing_folder(root: Path, owner: str) -> Path:
    """A new folder to make a subject in, on the disk where it will be.

    Raises:
        OutputError: it cannot be made.
    """
    folder = root / _hash(owner) / f"{PASSING}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder} ({error.strerror}): choose a place that you may write to") from error
    return folder


def remove(root: Path, owner: str, name: str) -> None:
    """Forget a subject: first it is no longer found, then its files go.

    Raises:
        UnknownSubjectError: there is none of that name.
    """
    shelf, _ = find(root, owner, name)
    gone = shelf.folder.with_name(f"{PASSING}{secrets.token_hex(8)}")
    try:
        os.rename(shelf.folder, gone)
    except FileNotFoundError as error:  # another process was quicker
        raise UnknownSubjectError(name) from error
    shutil.rmtree(gone, ignore_errors=True)


def _shelves(owner: Path) -> list[Shelf]:
    if not owner.is_dir():
        return []
    return [Shelf(folder) for folder in owner.iterdir() if not folder.name.startswith(PASSING)]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _locked(shelf: Shelf) -> bool:
    """Whether a process learns under this root: after a restart, the number of one that did may be another's."""
    import fcntl  # not everywhere

    try:
        with (shelf.folder.parents[1] / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _alive(pid: object) -> bool:
    """Whether a process of this number runs."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
