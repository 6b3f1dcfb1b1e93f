"""The library of subjects that the engine draws from; a `serving.contract.SubjectLibrary`."""

from __future__ import annotations

import builtins
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from palp.adapter import Adapter
from palp.errors import AdapterFileError, InputError, OutputError, PictureError
from palp.subjects import read_pictures
from serving.contract import SubjectInfo
from serving.errors import SubjectExistsError, SubjectNotReadyError, UnknownSubjectError
from serving.subjects import records
from serving.subjects.cache import AdapterCache
from serving.subjects.learner import Learner
from serving.subjects.learning import Teaching, kept
from serving.subjects.records import Record, Shelf

__all__ = ["Library"]

MOST_PICTURES = 50
CACHE_BYTES = 2**30
SUFFIX = {b"\xff\xd8": ".jpg", b"RI": ".webp"}  # by a file's first two bytes; else .png


class Library:
    """Subjects of all owners, on disk; may be used from several threads, and by several processes at once.

    Args:
        root: its folder, made when something is added.
        resolution: side in pixels that pictures are cut to; None where none are added.
        teaching: how added subjects are learned in a child process; None where the caller does it.
        cache_bytes: of adapters kept in memory.
    """

    def __init__(
        self,
        root: Path,
        resolution: int | None = None,
        teaching: Teaching | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.root, self._resolution = root, resolution
        self.cache = AdapterCache(cache_bytes)
        self._learner = None if teaching is None else Learner(root, teaching)

    def add(self, owner: str, name: str, class_word: str, pictures: Sequence[bytes]) -> SubjectInfo:
        """Check and store the pictures (files as uploaded), and queue the learning.

        Raises:
            SubjectExistsError: the owner has a subject of that name.
            InputError: a name or class word that cannot be one, or too many pictures.
            PictureError: none, or one that cannot be read or is too small.
            OutputError: they cannot be written.
        """
        word = self._check_new(owner, name, class_word)
        if not 0 < len(pictures) <= MOST_PICTURES:
            raise PictureError(f"{len(pictures)} pictures were given: give 1 to {MOST_PICTURES}, best 3 to 6")
        made = Shelf(records.passing_folder(self.root, owner))
        try:
            made.uploads.mkdir()
            for number, content in enumerate(pictures, start=1):
                suffix = SUFFIX.get(content[:2], ".png")
                (made.uploads / f"{number:03d}{suffix}").write_bytes(content)
            self._check_pictures(made.uploads)
            record = Record(name, word, time.time(), len(pictures))
            made.write(record)
            shelf = records.place(self.root, owner, name, made.folder)
        except OSError as error:
            raise OutputError(f"the pictures cannot be kept ({error.strerror}): free some space on the disk") from error
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)
        if self._learner is not None:
            self._learner.wake()
        return records.info(shelf, record)

    def adopt(self, owner: str, name: str, class_word: str, adapter: Adapter) -> SubjectInfo:
        """Add a subject that is learned already.

        Raises:
            SubjectExistsError, InputError, OutputError: as `add`.
        """
        word = self._check_new(owner, name, class_word)
        made = Shelf(records.passing_folder(self.root, owner))
        try:
            adapter.save(made.adapter)
            record = kept(Record(name, word, time.time(), 0), made.adapter)
            made.write(record)
            shelf = records.place(self.root, owner, name, made.folder)
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)
        return records.info(shelf, record)

    def list(self, owner: str) -> builtins.list[SubjectInfo]:
        """All of an owner's, oldest first; no tensor is read."""
        return records.list_subjects(self.root, owner)

    def show(self, owner: str, name: str) -> SubjectInfo:
        """One. Raises UnknownSubjectError."""
        return records.info(*records.find(self.root, owner, name))

    def remove(self, owner: str, name: str) -> None:
        """Forget one, and stop its learning. Raises UnknownSubjectError."""
        shelf, record = records.find(self.root, owner, name)
        records.remove(self.root, owner, name)
        if self._learner is None:
            return
        self._learner.stop(shelf)
        again = records.read_record(shelf)
        if again is None or again.created == record.created:  # what the process wrote before it ended
            shutil.rmtree(shelf.folder, ignore_errors=True)

    def ready(self, owner: str, name: str) -> Record:
        """The record of a subject that can be drawn; no tensor is read.

        Raises:
            UnknownSubjectError: the owner has none of that name.
            SubjectNotReadyError: it is still being learned, or could not be.
        """
        shelf, record = records.find(self.root, owner, name)
        if record.adapter is None:
            raise SubjectNotReadyError(name, records.info(shelf, record).state)
        return record

    def adapter(self, owner: str, name: str, record: Record) -> Adapter:
        """The adapter of a ready subject, from memory or disk.

        Raises:
            UnknownSubjectError: it has been removed since.
            AdapterFileError: the file is not the one that was learned.
        """
        assert record.adapter is not None
        if (known := self.cache.get(record.adapter)) is not None:
            return known
        file = records.shelf_of(self.root, owner, name).adapter
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UnknownSubjectError(name) from error
        if hashlib.sha256(content).hexdigest() != record.adapter:
            raise AdapterFileError(f"the adapter of subject {name!r} has changed since it was learned: add it again")
        adapter = Adapter.from_bytes(content, f"{name}.safetensors")
        self.cache.put(record.adapter, adapter)
        return adapter

    def pictures(self, owner: str, name: str, word: str) -> Path:
        """The folder of the pictures that a subject was learned from.

        Raises:
            InputError: it was added as an adapter.
        """
        folder = records.shelf_of(self.root, owner, name).run / "pictures" / word[1:-1]
        if not folder.is_dir():
            raise InputError(f"subject {name!r} was added without pictures, which refining needs: set refine to 0")
        return folder

    def close(self) -> None:
        """Stop learning; what is under way goes on from its checkpoint another time."""
        if self._learner is not None:
            self._learner.close()

    def _check_new(self, owner: str, name: str, class_word: str) -> str:
        """The class word, if a subject can be added."""
        shelf = records.shelf_of(self.root, owner, records.check_name(name))
        if records.read_record(shelf) is not None:
            raise SubjectExistsError(name)
        return records.check_class_word(class_word)

    def _check_pictures(self, folder: Path) -> None:
        """Raise PictureError unless all can be learned from; the sentence names a picture by its number alone."""
        assert self._resolution is not None
        try:
            read_pictures(folder, self._resolution)
        except PictureError as error:
            raise PictureError(str(error).replace(f"{folder}/", "picture ")) from error
