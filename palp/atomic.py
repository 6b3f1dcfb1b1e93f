"""Files that are either the old one or the whole new one, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palp.errors import OutputError

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes the place of `path` if the block ends well.

    Raises:
        OutputError: the file could not be written; `path` is as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"{target} could not be written ({error.strerror}): free some space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)
