"""Prompt adapters that are kept on the server: the files of one folder, known by name and never by path."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from palp.adapter import Adapter
from palp.base import Base
from palp.errors import InputError

__all__ = ["Stored", "read_stored"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = ("auto", "off")
Stored: TypeAlias = Mapping[str, tuple[str, Adapter]]
"""By name: sha256 of the file, and the adapter."""


def read_stored(base: Base, folder: Path) -> Stored:
    """Every `NAME.safetensors` of a folder, read and checked once; the adapters stay in memory.

    Raises:
        InputError: no folder, a name that cannot be asked for, or an adapter that has learned words.
        AdapterFileError, AdapterMismatchError: no adapter, or one of another base.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: make it, with prompt adapters as NAME.safetensors")
    return {file.stem: _read(base, file) for file in sorted(folder.glob("*.safetensors"))}


def _read(base: Base, file: Path) -> tuple[str, Adapter]:
    if not NAME.fullmatch(file.stem) or file.stem in RESERVED:
        raise InputError(
            f"{file.stem!r} cannot be the name of a prompt adapter: use up to 64 letters, digits, '-', '_' and '.', "
            "with a letter or digit first, and neither auto nor off"
        )
    content = file.read_bytes()
    adapter = Adapter.from_bytes(content, file.name)
    adapter.check(base.fingerprint, base.sites("all"))
    if adapter.placeholders:
        words = ", ".join(sorted(adapter.placeholders))
        raise InputError(f"{file.name} has learned {words}, and is a subject's: give prompt adapters (--mode residual)")
    return hashlib.sha256(content).hexdigest(), adapter
