"""What the tests of the engine share: a library with random subjects, and ears for its events."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from serving.contract import Cancelled, Details, Done, Event, Failed
from serving.subjects.library import Library
from tests.adapters import random_adapter

PATIENCE_S = 120.0  # of a test with the engine's thread; reached only where something hangs


class Ear:
    """A listener that remembers; with a gate it holds the engine's thread at the first step."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.events: list[Event] = []
        self.ended, self.stepped = threading.Event(), threading.Event()
        self._gate = gate

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Done | Failed | Cancelled):
            self.ended.set()
        elif self.names[-1] == "Step":
            self.stepped.set()
            if self._gate is not None:
                assert self._gate.wait(PATIENCE_S)

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def last(self) -> Event:
        """The last event, waited for."""
        assert self.ended.wait(PATIENCE_S), self.names
        return self.events[-1]

    def done(self) -> tuple[np.ndarray, Details]:
        """Pixels and details of a picture that went well."""
        last = self.last()
        assert isinstance(last, Done), last
        return pixels(last.picture), last.details

    def error(self) -> Exception:
        last = self.last()
        assert isinstance(last, Failed), last
        return last.error


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).astype(int)


def notes(png: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(png)) as image:
        return {str(key): str(value) for key, value in image.info.items()}


def subject(base: Base, seed: int, rank: int = 2) -> Adapter:
    """A random subject's adapter."""
    spec = AdapterSpec(base.fingerprint, base.sites("all"), rank, 3.0)
    return random_adapter(spec, seed, {"[V]": base.embedding_shapes()})


def library_of(base: Base, root: Path, owner: str = "", count: int = 2) -> Library:
    """A library with subjects s0, s1, …, cats all, whose adapters are `subject(base, number)`."""
    library = Library(root)
    for number in range(count):
        library.adopt(owner, f"s{number}", "cat", subject(base, number))
    return library


def png_of(seed: int = 0, side: int = 16) -> bytes:
    """A picture of noise, as a file."""
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()
