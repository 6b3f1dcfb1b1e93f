"""Logs for tensorboard, for those who want them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from palp.errors import InputError, OutputError

__all__ = ["open_logs"]


def open_logs(folder: Path | None) -> AbstractContextManager[Any]:
    """A writer with `add_scalar(name, value, step)`, or None where no folder is given.

    Raises:
        InputError: tensorboard is not installed.
        OutputError: no folder, or one that may not be written to.
    """
    if folder is None:
        return nullcontext()
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("logs for tensorboard need its package: pip install tensorboard") from error
    try:
        writer: AbstractContextManager[Any] = SummaryWriter(str(folder))
    except OSError as error:
        raise OutputError(f"logs cannot go to {folder} ({error.strerror}): give another folder") from error
    return writer
