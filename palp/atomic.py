"""Files that are either the old one or the whole new one, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palp.errors import OutputError

__all__ = ["atomic_write", "disk_is_full", "full_disk_sentence", "write_json"]


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A path to write to, beside `path`; when the block ends it is flushed to disk and replaces `path`.

    The path given ends like `path`, since some writers choose the format by the suffix. If the block fails,
    `path` stays as it was and nothing is left over. Missing folders on the way to `path` are made.

    Raises: OutputError when the disk is full, when the folder may not be written to, or when `path` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"cannot write {target}, for a folder is there: give the path of a file")
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    with _one_sentence(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # by the user's umask; safetensors would leave 0600
    try:
        yield temporary
        with _one_sentence(target):
            temporary.chmod(mode)
            _flush(temporary)
            os.replace(temporary, target)
            _flush(target.parent)
    except Exception as error:
        if disk_is_full(error):
            raise OutputError(full_disk_sentence(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: object) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    Raises: OutputError as `atomic_write` does; ValueError for nan and infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that no space is left; safetensors says so in words, with no errno of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and f"(os error {errno.ENOSPC})" in str(error)


def full_disk_sentence(target: Path | str) -> str:
    """What to tell a user whose disk is full."""
    return f"no space is left on the disk for {target}: free some space, or choose another folder"


@contextmanager
def _one_sentence(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise OutputError(full_disk_sentence(target)) from error
        sentence = f"cannot write {target} ({error.strerror}): choose a place that you may write to"
        raise OutputError(sentence) from error


def _flush(path: Path) -> None:
    """Have the file, or the folder's list of names, on the disk and not only in memory."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
