"""A subject by whatever a user points at: an adapter file, a run folder, or pictures, which are learned and kept.

The cache is `$XDG_CACHE_HOME/palp-hyper/subjects`, or `~/.cache/palp-hyper/subjects`: one run folder a subject,
named by the hash of its pictures, the settings and the base.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from palp.adapter import Adapter
from palp.base import Base
from palp.errors import InputError
from palp.learn import Watch, learn
from palp.recipes import recipe
from palp.runs import RunFolder
from palp.subjects import SUFFIXES, Subject, latents_source, read_pictures, refuse_other_formats
from palp.train import TrainSettings, joint_job
from palp.train.jobs import ALONE

__all__ = ["adapter_file", "cache_folder", "learned_file", "learned_subject", "load_adapter", "named_v", "read_subject"]


def adapter_file(source: Path) -> Path | None:
    """The adapter that `source` is or, being a run folder, holds; None for pictures, which are yet to be learned.

    Raises:
        InputError: nothing is there, a run that is not finished, or a picture of a format that is not read.
    """
    if not os.path.exists(source):  # unlike Path.exists, False for a name that is too long
        raise InputError(f"there is no {source}: give an adapter file, a run folder or a folder of pictures")
    refuse_other_formats(source)
    if source.is_file():
        return None if source.suffix.lower() in SUFFIXES else source
    run = RunFolder(source)
    if run.settings.is_file() and not run.finished:
        raise InputError(f"the run in {source} is not finished: run its command again, and it goes on where it was")
    return run.adapter if run.finished else None


def load_adapter(base: Base, source: Path) -> Adapter:
    """The adapter in a file or a finished run folder.

    Raises:
        InputError: nothing is there, or pictures.
        AdapterFileError, AdapterMismatchError: no adapter, or one of another base.
    """
    file = adapter_file(source)
    if file is None:
        raise InputError(f"{source} holds pictures, and an adapter is needed: give a .safetensors file or a run folder")
    adapter = Adapter.load(file)
    adapter.check(base.fingerprint, base.sites("all"))
    return adapter


def named_v(adapter: Adapter) -> Adapter:
    """A subject's adapter whose one word is [V], whatever it was learned as."""
    return replace(adapter, placeholders=dict(zip(["[V]"], adapter.placeholders.values(), strict=True)))


def read_subject(base: Base, source: Path, class_word: str | None = None, artwork: bool = False) -> Subject:
    """The pictures at `source`: a picture, a folder of pictures, or the run that learned them (its own copy).

    Args:
        class_word: what the base calls such a thing; a run knows its own.

    Raises:
        InputError: no class word, or an adapter that is not in the folder of its run.
        PictureError: a picture that cannot be read, or none.
    """
    file = adapter_file(source)
    placeholder = "[V]"
    pictures = source
    if file is not None:
        adapter = Adapter.load(file)
        if len(adapter.placeholders) != 1:
            raise InputError(f"{file} has learned {len(adapter.placeholders)} words: give the run of one subject")
        placeholder = next(iter(adapter.placeholders))
        class_word = class_word or adapter.metadata.get("class_word")
        pictures = RunFolder(file.parent).pictures(placeholder)
        if not pictures.is_dir():
            raise InputError(
                f"the pictures that {file} was learned from are not beside it: give its run folder, or the pictures"
            )
    if not class_word:
        raise InputError(f"{source} holds pictures: say what they show with --class, such as --class cat")
    return Subject(class_word, read_pictures(pictures, base.resolution), placeholder, artwork)


def learned_subject(base: Base, source: Path, class_word: str | None, watch: Watch | None = None) -> Adapter:
    """The subject's adapter: loaded, or learned from pictures now unless the cache has them.

    Raises: as `learned_file` and `load_adapter`.
    """
    return load_adapter(base, learned_file(base, source, class_word, watch))


def learned_file(base: Base, source: Path, class_word: str | None, watch: Watch | None = None) -> Path:
    """The file of the subject's adapter; pictures are learned now unless the cache has them, and then lie beside it.

    Raises:
        As `read_subject`; OutputError: the cache cannot be written.
    """
    if (file := adapter_file(source)) is not None:
        return file
    subject = replace(read_subject(base, source, class_word), placeholder="[V]")
    settings = recipe(base.name, "subject")
    run = RunFolder(cache_folder() / "subjects" / _key(base, subject, settings))
    if run.finished:  # without its pictures made ready, which takes seconds
        return run.adapter
    return learn(base, joint_job(base, [subject]), settings, run.path, [subject], watch).adapter


def _key(base: Base, subject: Subject, settings: TrainSettings) -> str:
    """Of all that a learned subject depends on."""
    pictures = [latents_source(base, subject), repr(base.company), ALONE]
    identity = [base.fingerprint, base.arithmetic, subject.class_word, settings.to_mapping(), pictures]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Where what can be made again is kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "palp-hyper"
