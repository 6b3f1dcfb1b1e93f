"""An engine with all that it needs, from what a command line knows."""

from __future__ import annotations

from pathlib import Path

from palp.base import Base
from serving.engine.engine import BatchEngine
from serving.engine.predictions import Predictions
from serving.engine.settings import EngineSettings
from serving.engine.stored import read_stored
from serving.subjects.learning import Teaching
from serving.subjects.library import Library
from serving.subjects.records import data_folder

__all__ = ["build_engine"]

RESIDENT = 4  # times as many combinations of adapters stay resident as pictures are drawn at once


def build_engine(
    base: Base,
    teaching: Teaching | None,
    *,
    hypernet: Path | None = None,
    prompt_adapters: Path | None = None,
    subjects: Path | None = None,
    batch: int = 8,
    waiting: int = 64,
) -> BatchEngine:
    """An engine on a base, with the library of subjects in a folder and a hypernetwork if there is one.

    Args:
        base: frozen; nobody else may use it while the engine runs.
        teaching: how a child process, which learns subjects, comes to the same base; None where others learn them.
        hypernet: file or run folder; None is the one shipped for the base, if there is one.
        prompt_adapters: folder of those that can be asked for by name; None for none.
        subjects: folder of the library; None is the one in the user's data folder.
        batch: pictures drawn at once.
        waiting: pictures that may wait.

    Raises:
        AdapterFileError, AdapterMismatchError, InputError: the hypernetwork or a prompt adapter cannot be used here.
    """
    predictions = Predictions.find(base, hypernet)
    stored = None if prompt_adapters is None else read_stored(base, prompt_adapters)
    library = Library(subjects or data_folder(), base.resolution, teaching)
    settings = EngineSettings(max_batch=batch, max_waiting=waiting, slots=RESIDENT * batch)
    return BatchEngine(base, library, predictions, settings, stored)
