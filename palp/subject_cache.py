"""A subject by whatever a user points at; pictures are learned once and kept by their content.

The cache is `$XDG_CACHE_HOME/palp-hyper/subjects`, or `~/.cache/palp-hyper/subjects`: one run folder a subject,
named by the hash of the pictures, the settings and the base.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from palp.errors import InputError

if TYPE_CHECKING:
    from palp.adapter import Adapter
    from palp.base import Base
    from palp.learn import Report

__all__ = ["adapter_file", "cache_folder", "learned_subject"]


def adapter_file(source: Path) -> Path | None:
    """The adapter that `source` is or, being a run folder, holds; None for pictures, which are yet to be learned.

    Raises:
        InputError: nothing is there, or a run that is not finished.
    """
    from palp.subjects import is_picture

    if not source.exists():
        raise InputError(f"there is no subject {source}: give an adapter file, a run folder or a folder of pictures")
    if source.is_file():
        return None if is_picture(source) else source
    if (source / "adapter.safetensors").is_file():
        return source / "adapter.safetensors"
    if (source / "settings.json").is_file():
        raise InputError(f"the run in {source} is not finished: run its command again, and it goes on where it was")
    return None


def learned_subject(base: Base, source: Path, class_word: str | None, report: Report | None = None) -> Adapter:
    """The adapter of the pictures at `source`, learned now unless the cache has it.

    Args:
        class_word: what the base calls such a thing; needed to learn.
        report: called after every training step.

    Raises:
        InputError: no class word, or no pictures.
        PictureError: a picture that cannot be read.
        OutputError: the cache cannot be written.
    """
    from palp.adapter import Adapter
    from palp.learn import SubjectPlan, learn_subject
    from palp.subjects import find_pictures

    if class_word is None:
        raise InputError(f"{source} holds pictures: say what they show with --class, such as --class cat")
    plan = SubjectPlan(find_pictures([source]), class_word)
    key = hashlib.sha256(json.dumps([plan.settings(), base.fingerprint], sort_keys=True).encode()).hexdigest()
    run = learn_subject(base, plan, cache_folder() / "subjects" / key[:32], report)
    return Adapter.load(run.adapter)


def cache_folder() -> Path:
    """Where what can be made again is kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "palp-hyper"
