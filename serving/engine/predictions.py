"""From a request's prompt to its predicted adapter: a trained hypernetwork with a memory of what it was asked."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hypernet.export import OnnxHypernet
from hypernet.factors import Factors
from hypernet.file import check_base, load_hypernet
from hypernet.model import ABSTAIN, Hypernetwork
from hypernet.prompts import encode_clean, prompts_of
from hypernet.shipped import shipped_hypernet
from palp.adapter import Adapter, AdapterSpec
from palp.base import Base, TextState
from palp.compose import strength_note
from palp.errors import InputError

__all__ = ["Forecast", "Network", "Predictions", "is_aligned"]

Read: TypeAlias = Callable[[TextState], tuple[Factors, Tensor]]
"""Factors and reliabilities of encoded prompts."""


@dataclass(frozen=True, eq=False)
class Network:
    """A hypernetwork by whatever runs it.

    Args:
        read: one pass.
        spec: of what it predicts.
        fingerprint: sha256 of its file.
        runner: what really runs it, such as "torch cpu" or "CUDAExecutionProvider".
        recipe: settings of the corpus it learned from; empty where the file does not say.
        subject_scale: strength that a subject's adapter should have beside a prediction.
    """

    read: Read
    spec: AdapterSpec
    fingerprint: str
    runner: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    subject_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Forecast:
    """What was predicted for a prompt.

    Args:
        key: of the hypernetwork and the prompt.
        adapter: on the base's device; None where the network abstains.
        reliability: 0 to 1.
        seconds: that it took; told for it ever after, so that nobody learns by the time what others have asked.
    """

    key: str
    adapter: Adapter | None
    reliability: float
    seconds: float


class Predictions:
    """Predicted adapters, the last ones kept. For one thread.

    Args:
        base: whose text encoder reads the prompts.
        network: of this base.
        size: predictions that are kept.
    """

    def __init__(self, base: Base, network: Network, size: int = 256) -> None:
        self.network = network
        self._base, self._size = base, size
        self._kept: OrderedDict[str, Forecast] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @classmethod
    def open(cls, base: Base, path: Path, provider: str | None = None, size: int = 256) -> Predictions:
        """The hypernetwork at a path: a run folder, whose hypernet.onnx is preferred where there is one, or a file.

        Args:
            provider: of ONNX Runtime; None is CUDA where there is one, then the CPU.

        Raises:
            AdapterFileError: missing or damaged.
            AdapterMismatchError: it predicts for another base.
            InputError: no hypernetwork in the folder, or a provider that ONNX Runtime falls back from.
        """
        return cls(base, _open(base, path, provider), size)

    @classmethod
    def find(cls, base: Base, path: Path | None) -> Predictions | None:
        """Of the hypernetwork at a path, else of the one shipped for the base; None where there is neither.

        Raises: as `open`.
        """
        found = path or shipped_hypernet(base)
        return None if found is None else cls.open(base, found)

    def forecast(self, prompt: str, class_word: str) -> Forecast:
        """The adapter of a prompt, from memory where the same was asked before with the same class word.

        Raises:
            InputError: the prompt names no subject, or several.
        """
        clean = prompts_of(prompt, class_word).clean
        key = f"{self.network.fingerprint}:{clean}"
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        forecast = self._predict(key, prompt, class_word)
        self._kept[key] = forecast
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return forecast

    def describe(self, forecast: Forecast) -> str:
        """In a few words for a picture's notes: who predicted it, or that it abstained."""
        network = self.network
        if forecast.adapter is None:
            return f"abstained: reliability {forecast.reliability:.3f} of {network.fingerprint[:12]}"
        return f"predicted by {network.fingerprint[:12]} on {network.runner}"

    @torch.no_grad()
    def _predict(self, key: str, prompt: str, class_word: str) -> Forecast:
        started = time.monotonic()
        factors, reliabilities = self.network.read(encode_clean(self._base, [prompt], [class_word]))
        reliability = float(reliabilities[0])
        if not reliability >= ABSTAIN:  # also where it is not a number
            known = reliability if math.isfinite(reliability) else 0.0
            return Forecast(key, None, known, time.monotonic() - started)
        down, up = (
            {site: rows[0].to(self._base.device, copy=True) for site, rows in side.items()}
            for side in (factors.down, factors.up)
        )
        adapter = Adapter(factors.spec, down, up, metadata=strength_note(self.network.subject_scale))
        return Forecast(key, adapter, reliability, time.monotonic() - started)


def is_aligned(subject: Adapter) -> bool:
    """Whether a subject's adapter was trained with a prompt of its own (the joint form), beyond "a photo of [V]"."""
    known = subject.metadata
    return known.get("form") == "joint" and known.get("prompt") != known.get("personal_prompt")


def _open(base: Base, path: Path, provider: str | None) -> Network:
    exported = path / "hypernet.onnx" if path.is_dir() else path
    weights = path / "hypernet.safetensors" if path.is_dir() else path
    if exported.suffix == ".onnx" and exported.is_file():
        recipe = load_hypernet(weights)[1].recipe if weights != path and weights.is_file() else {}
        return _onnx(base, exported, provider, recipe)
    if not weights.is_file():
        raise InputError(f"there is no hypernetwork in {path}: train one with palp-hyper train, or leave it out")
    hypernet, origin = load_hypernet(weights)
    check_base(hypernet, base)
    return _torch(base, hypernet, _sha256(weights), origin.recipe)


def _torch(base: Base, hypernet: Hypernetwork, fingerprint: str, recipe: Mapping[str, Any]) -> Network:
    hypernet = hypernet.to(base.device).eval()

    def read(text: TextState) -> tuple[Factors, Tensor]:
        prediction = hypernet(text)
        return prediction.factors, prediction.reliability

    return Network(read, hypernet.spec, fingerprint, f"torch {base.device.type}", recipe, hypernet.subject_scale)


def _onnx(base: Base, path: Path, provider: str | None, recipe: Mapping[str, Any]) -> Network:
    session = OnnxHypernet(path, None if provider is None else [provider])
    session.check_base(base)
    if provider is not None and session.providers[0] != provider:
        raise InputError(f"{provider} was asked for, and ONNX Runtime runs {path.name} on {session.providers[0]}")
    sha256, runner = _sha256(path), session.providers[0]
    return Network(session.predict, session.spec, sha256, runner, recipe, session.subject_scale)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
