"""The base of a command, loaded without the libraries' own bars and notes: one bar is ours."""

from __future__ import annotations

from pathlib import Path

from palp.base import Base, load_base

__all__ = ["open_base"]


def open_base(source: str, device: str | None = None, dtype: str = "auto", config: Path | None = None) -> Base:
    """`load_base`, quietly; errors are as loud as ever.

    Raises: as `load_base`.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return load_base(source, device, dtype, config)
