"""Run folders: one training, its settings, and what came of it; killed and run again, it goes on where it was.

settings.json           what was asked for (compared when the run is resumed), versions, commit
checkpoint.safetensors  state of the training; gone when it is finished
samples/STEP.png        pictures on the way
pictures/V/001.png      what was learned from, cut square
adapter.safetensors     the result; when it is there the run is finished
V.safetensors           the learned word, for diffusers' `load_textual_inversion`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palp.adapter import check_placeholder
from palp.atomic import write_json
from palp.errors import InputError
from palp.provenance import provenance

__all__ = ["RunFolder", "open_run"]


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run's folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """What was asked for."""
        return self.path / "settings.json"

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self.path / "checkpoint.safetensors"

    @property
    def adapter(self) -> Path:
        """The result."""
        return self.path / "adapter.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return self.adapter.is_file()

    def pictures(self, placeholder: str) -> Path:
        """Folder of the pictures of one subject; [V] is in "V"."""
        return self.path / "pictures" / check_placeholder(placeholder)[1:-1]

    def sample(self, step: int) -> Path:
        """The picture drawn after so many steps."""
        return self.path / "samples" / f"{step:06d}.png"


def open_run(path: Path, settings: Mapping[str, Any]) -> RunFolder:
    """The folder of a run with these settings: a new one, or the same run begun before.

    Args:
        settings: JSON values that fix the result.

    Raises:
        InputError: the folder holds a run with other settings, or files of something else.
        OutputError: it cannot be written.
    """
    run = RunFolder(path)
    asked = json.loads(json.dumps(settings))
    if run.settings.is_file():
        _check_same(path, _read(run.settings), asked)
    elif path.exists() and not _is_empty_folder(path):
        raise InputError(f"{path} exists and holds no run of ours: give --out a new or an empty folder")
    else:
        write_json(run.settings, {"settings": asked, "made_with": provenance()})
    return run


def _is_empty_folder(path: Path) -> bool:
    """Whether nothing is there but what a killed `atomic_write` may have left."""
    return path.is_dir() and all(entry.name.startswith(".tmp-") for entry in path.iterdir())


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a run's settings: give --out a new folder") from error


def _check_same(path: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for key in dict.fromkeys([*asked, *before]):
        if before.get(key) != asked.get(key):
            raise InputError(
                f"{path} holds a run with {key} {before.get(key)!r}, and {asked.get(key)!r} was asked for: "
                "ask for the same to resume it, or give --out another folder"
            )
