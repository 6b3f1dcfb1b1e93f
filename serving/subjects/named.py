"""A subject by what a user of the command line names: a path, or a name in the library."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from palp.adapter import Adapter
from palp.base import Base
from palp.errors import InputError
from palp.learn import Watch
from palp.runs import RunFolder
from palp.sources import adapter_file, learned_file, load_adapter
from palp.words import check_words
from serving.errors import UnknownSubjectError
from serving.subjects.library import Library
from serving.subjects.records import data_folder, shelf_of

__all__ = ["NamedSubject", "find_subject"]


@dataclass(frozen=True, eq=False)
class NamedSubject:
    """A subject that can be drawn.

    Args:
        name: as the user gave it.
        adapter: of the base at hand.
        sha256: of the adapter's file.
        class_word: what the base calls it, None where nobody said.
        pictures: folder of what it was learned from, None where only the adapter is there.
    """

    name: str
    adapter: Adapter
    sha256: str
    class_word: str | None
    pictures: Path | None


def find_subject(
    base: Base, name: str, class_word: str | None, prompts: Sequence[str], watch: Watch | None = None
) -> NamedSubject:
    """The subject of that name: an adapter file, a run folder, pictures, or else one in the user's library.

    Args:
        class_word: for pictures, and for an adapter that does not know its own.
        prompts: checked before pictures are learned, for that takes minutes.
        watch: of the learning.

    Raises:
        InputError: nothing of that name, no class word for pictures, or a prompt that does not name the subject.
        SubjectNotReadyError: the library's subject is still being learned, or could not be.
        PictureError, AdapterFileError, AdapterMismatchError, OutputError: as `learned_file` and `load_adapter`.
    """
    source = Path(name)
    if os.path.exists(source):  # Path.exists raises at a name too long for a file
        if adapter_file(source) is None:
            for prompt in prompts:
                check_words(prompt, {"[V]"})
        return _read(base, name, learned_file(base, source, class_word, watch), class_word)
    try:
        record = Library(data_folder()).ready("", name)
    except UnknownSubjectError:
        raise InputError(
            f"there is no {name}: give an adapter file, a run folder, a folder of pictures, "
            "or a name that palp-serve subjects list shows"
        ) from None
    return _read(base, name, shelf_of(data_folder(), "", name).adapter, class_word or record.class_word)


def _read(base: Base, name: str, file: Path, class_word: str | None) -> NamedSubject:
    adapter = load_adapter(base, file)
    word = class_word or adapter.metadata.get("class_word")
    pictures = None
    if len(adapter.placeholders) == 1:
        folder = RunFolder(file.parent).pictures(next(iter(adapter.placeholders)))
        pictures = folder if folder.is_dir() else None
    return NamedSubject(name, adapter, hashlib.sha256(file.read_bytes()).hexdigest(), word, pictures)
