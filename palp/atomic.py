"""Files that are either the old one or the whole new one, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, Union

from palp.errors import OutputError

__all__ = ["Json", "atomic_write", "write_json"]

Json: TypeAlias = Union[None, bool, int, float, str, Sequence["Json"], Mapping[str, "Json"]]


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """A path to write to, beside `path`; when the block ends it is flushed to disk and takes the place of `path`.

    The path given ends like `path`, since some writers choose the format by the suffix. If the block fails, `path`
    stays as it was and nothing is left over. Missing folders on the way to `path` are made.

    Raises: OutputError when the disk is full, or when the folder may not be written to.
    """
    target = Path(path)
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    try:
        with _one_sentence(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode  # the user's umask; safetensors would leave 0600
        try:
            yield temporary
        except Exception as error:
            if disk_is_full(error):
                raise OutputError(full_disk_sentence(target)) from error
            raise
        with _one_sentence(target):
            temporary.chmod(mode)
            _flush(temporary)
            os.replace(temporary, target)
            _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: Json) -> None:
    """Write `value` to `path` as indented JSON, atomically. Raises ValueError for nan and infinity: JSON has none."""
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
        raise OutputError(f"cannot write {target} ({error.strerror}): choose a place you may write to") from error


def _flush(path: Path) -> None:
    """Have the file, or the folder's list of names, on the disk and not only in memory."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
