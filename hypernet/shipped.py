"""The hypernetwork that comes with the package."""

from __future__ import annotations

from pathlib import Path

from hypernet.file import base_of, load_hypernet
from hypernet.predict import Predictor
from palp.base import Base

__all__ = ["SHIPPED", "shipped_hypernet", "shipped_predictor"]

SHIPPED = Path(__file__).parent / "icons"
"""hypernet.safetensors, and hypernet.onnx where it is exported."""


def shipped_hypernet(base: Base) -> Path | None:
    """Folder of the hypernetwork that is shipped for a base with exactly these weights, or None.

    Raises:
        AdapterFileError: it is damaged.
    """
    file = SHIPPED / "hypernet.safetensors"
    return SHIPPED if file.is_file() and base_of(file) == base.fingerprint else None


def shipped_predictor(base: Base) -> Predictor | None:
    """The same, ready to predict, or None.

    Raises:
        AdapterFileError: it is damaged.
    """
    folder = shipped_hypernet(base)
    return None if folder is None else Predictor(base, load_hypernet(folder / "hypernet.safetensors")[0])
