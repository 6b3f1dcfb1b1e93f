"""The pictures of an evaluation, kept on disk by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from palp.adapter import Adapter
from palp.atomic import atomic_write
from palp.base.fingerprint import weights_fingerprint
from palp.compose import compose
from palp.draw import Picture, Sampling, batch_size, draw
from palp.evaluate.composition import Composed, draw_composed
from palp.evaluate.methods import OPENING, Need, Plan
from palp.evaluate.shelf import Bar, Shelf
from palp.guidance import Prompt

__all__ = ["Gallery", "Shot"]

Parts: TypeAlias = tuple[tuple[Need, float], ...]


@dataclass(frozen=True)
class Shot:
    """One prompt drawn by one plan, once a seed.

    Args:
        plan: with what.
        prompt: y or y_P; class words where the plan is the bare base.
        seeds: one a picture.
        asked: the prompts of the base and the subject by what they are to a rule, for plans that compose predictions.
    """

    plan: Plan
    prompt: str
    seeds: tuple[int, ...]
    asked: tuple[tuple[Prompt, str], ...] | None = None


class Gallery:
    """Drawn pictures by shot, in `folder/ID.safetensors`, as bytes; another decoder draws them anew."""

    def __init__(self, shelf: Shelf, folder: Path, sampling: Sampling, bar: Bar) -> None:
        self._shelf, self._folder, self._sampling, self._bar = shelf, folder, sampling, bar
        self._base = [shelf.base.fingerprint, shelf.base.arithmetic, weights_fingerprint(shelf.base.vae)]

    def fill(self, shots: Sequence[Shot], title: str) -> None:
        """Draw what is missing; its adapters must be trained."""
        missing = [shot for shot in dict.fromkeys(shots) if not _is_whole(self.path(shot))]
        if not missing:
            return
        with self._bar(f"drawing {title}") as report:
            for batch in _batches(missing, batch_size(self._shelf.base)):
                pictures = self._draw(batch).split([len(shot.seeds) for shot in batch])
                for shot, rows in zip(batch, pictures, strict=True):
                    content = save({"pictures": _to_bytes(rows).contiguous()})
                    with atomic_write(self.path(shot)) as temporary:
                        temporary.write_bytes(content)
                report(missing.index(batch[-1]) + 1, len(missing), 0.0)

    def pictures(self, shot: Shot) -> Float[Tensor, "seeds 3 H W"]:
        """The pictures of a shot, in [-1, 1]."""
        return load_file(self.path(shot))["pictures"].float() / 127.5 - 1

    def path(self, shot: Shot) -> Path:
        """Where they are, or will be."""
        parts = [(self._shelf.identity(need), scale) for need, scale in shot.plan.parts]
        opening = [(self._shelf.identity(need), scale) for need, scale in shot.plan.opening]
        how = [shot.plan.composition, shot.prompt, shot.asked, shot.seeds, asdict(_sampling(self._sampling, shot.plan))]
        content = json.dumps([*self._base, parts, opening, how])
        return self._folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"

    def _draw(self, shots: Sequence[Shot]) -> Float[Tensor, "pictures 3 H W"]:
        if shots[0].asked is not None:
            return self._draw_composed(shots)
        adapters = _adapters(self._shelf, [shot.plan.parts for shot in shots] + [shot.plan.opening for shot in shots])
        rows = [
            Picture(shot.prompt, seed, adapters[shot.plan.parts], adapters[shot.plan.opening])
            for shot in shots
            for seed in shot.seeds
        ]
        return draw(self._shelf.base, rows, _sampling(self._sampling, shots[0].plan))

    def _draw_composed(self, shots: Sequence[Shot]) -> Float[Tensor, "pictures 3 H W"]:
        composition, adapters = shots[0].plan.composition, _adapters(self._shelf, [shot.plan.parts for shot in shots])
        assert composition is not None
        rows = []
        for shot in shots:
            adapter = adapters[shot.plan.parts]
            assert adapter is not None
            rows += [Composed(dict(shot.asked or ()), seed, adapter) for seed in shot.seeds]
        return draw_composed(self._shelf.base, rows, *composition, self._sampling)


def _adapters(shelf: Shelf, sums: Sequence[Parts]) -> dict[Parts, Adapter | None]:
    """What the parts add up to, files read once."""
    read = lru_cache(maxsize=None)(shelf.adapter)
    return {parts: compose([(read(need), scale) for need, scale in parts]) if parts else None for parts in sums}


def _sampling(sampling: Sampling, plan: Plan) -> Sampling:
    return replace(sampling, opening=OPENING) if plan.opening else sampling


def _batches(shots: Sequence[Shot], size: int) -> list[list[Shot]]:
    """Shots for one call of the sampler, of one kind; pictures of a batch need not have one adapter."""
    batches: list[list[Shot]] = []
    for shot in shots:
        last = batches[-1] if batches else None
        fits = (
            last is not None
            and last[0].plan.composition == shot.plan.composition
            and bool(last[0].plan.opening) == bool(shot.plan.opening)
            and sum(len(other.seeds) for other in last) + len(shot.seeds) <= size
        )
        if fits:
            batches[-1].append(shot)
        else:
            batches.append([shot])
    return batches


def _to_bytes(pictures: Float[Tensor, "n 3 H W"]) -> UInt8[Tensor, "n 3 H W"]:
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte()


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        load_file(path)
    except (SafetensorError, OSError):
        return False
    return True
