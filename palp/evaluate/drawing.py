"""The pictures of an evaluation, kept on disk by content; and drawing by composing scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from palp.adapter import Adapter
from palp.atomic import atomic_write
from palp.bank import AdapterBank
from palp.base import Base, TextState, sample
from palp.base.sample import Guide
from palp.compose import compose
from palp.draw import BATCH, Picture, Sampling, draw
from palp.evaluate.methods import Plan
from palp.evaluate.shelf import Bar, Shelf

__all__ = ["Gallery", "Shot", "draw_composed"]


@dataclass(frozen=True)
class Shot:
    """One prompt drawn by one plan, once a seed.

    Args:
        plan: with what.
        prompt: y or y_P; class words where the plan is the bare base.
        seeds: one a picture.
        scores: y_P, y_c and the photo prompt with the class word, for plans that compose scores.
    """

    plan: Plan
    prompt: str
    seeds: tuple[int, ...]
    scores: tuple[str, str, str] | None = None


class Gallery:
    """Drawn pictures by shot, in `folder/ID.safetensors`, as bytes."""

    def __init__(self, shelf: Shelf, folder: Path, sampling: Sampling, bar: Bar) -> None:
        self._shelf, self._folder, self._sampling, self._bar = shelf, folder, sampling, bar

    def fill(self, shots: Sequence[Shot], title: str) -> None:
        """Draw what is missing; its adapters must be trained."""
        missing = [shot for shot in dict.fromkeys(shots) if not _is_whole(self.path(shot))]
        if not missing:
            return
        with self._bar(f"drawing {title}") as report:
            for batch in _batches(missing):
                pictures = self._draw(batch).split([len(shot.seeds) for shot in batch])
                for shot, rows in zip(batch, pictures, strict=True):
                    content = save({"pictures": _to_bytes(rows)})
                    with atomic_write(self.path(shot)) as temporary:
                        temporary.write_bytes(content)
                report(missing.index(batch[-1]) + 1, len(missing), 0.0)

    def pictures(self, shot: Shot) -> Float[Tensor, "seeds 3 H W"]:
        """The pictures of a shot, in [-1, 1]."""
        return load_file(self.path(shot))["pictures"].float() / 127.5 - 1

    def path(self, shot: Shot) -> Path:
        """Where they are, or will be."""
        parts = [(self._shelf.identity(need), scale) for need, scale in shot.plan.parts]
        how = [shot.plan.gamma, shot.prompt, shot.scores, shot.seeds, asdict(self._sampling)]
        content = json.dumps([self._shelf.base.fingerprint, parts, how])
        return self._folder / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"

    def _draw(self, shots: Sequence[Shot]) -> Float[Tensor, "pictures 3 H W"]:
        if shots[0].scores is not None:
            return torch.cat([self._draw_composed(shot) for shot in shots])
        adapters = _adapters(self._shelf, [shot.plan for shot in shots])
        rows = [Picture(shot.prompt, seed, adapters[shot.plan]) for shot in shots for seed in shot.seeds]
        return draw(self._shelf.base, rows, self._sampling)

    def _draw_composed(self, shot: Shot) -> Float[Tensor, "seeds 3 H W"]:
        assert shot.scores is not None
        assert shot.plan.gamma is not None
        adapter = _adapters(self._shelf, [shot.plan])[shot.plan]
        assert adapter is not None
        return draw_composed(self._shelf.base, adapter, shot.scores, shot.seeds, shot.plan.gamma, self._sampling)


def draw_composed(
    base: Base,
    adapter: Adapter,
    prompts: tuple[str, str, str],
    seeds: Sequence[int],
    gamma: float,
    sampling: Sampling,
) -> Float[Tensor, "seeds 3 H W"]:
    """Score composition while sampling: what the rule "composed" distils, done exactly, at twice the cost.

    v = n + w (v_S(y_P) + γ (v_base(y_c) − v_base(photo)) − n),    n = v_S(∅)

    in native form, with w the guidance scale: classifier-free guidance of the subject's model S, whose
    conditional half is "composed"'s target. At γ = 0 it draws y_P with S. The model never sees y.

    Args:
        adapter: S.
        prompts: y_P, y_c, and the photo prompt with the class word.
        seeds: one a picture.
        gamma: γ.
        sampling: steps, w, scheduler.
    """
    n = len(seeds)
    personal, clean, photo = prompts
    with torch.no_grad():
        text = base.encode_prompts(["", personal, clean, photo], adapter.placeholders)
    bank = AdapterBank(base.unet, adapter.spec, 2)  # S, and an empty slot: the bare base
    bank.write(0, adapter)
    bank.attach()
    try:
        with bank.route(torch.tensor([0, 0, 1, 1]).repeat_interleave(n)):
            guide = _composed_guide(base, text.repeat(n), gamma, sampling.guidance)
            return sample(
                base, text[:1], text[:1], seeds, steps=sampling.steps, scheduler=sampling.scheduler, guide=guide
            ).cpu()
    finally:
        bank.detach()


def _composed_guide(base: Base, text: TextState, gamma: float, guidance: float) -> Guide:
    def guide(x_t: Float[Tensor, "rows c h w"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows c h w"]:
        null, personal, clean, photo = base.predict(x_t.repeat(4, 1, 1, 1), t.repeat(4), text).chunk(4)
        return null + guidance * (personal + gamma * (clean - photo) - null)

    return guide


def _adapters(shelf: Shelf, plans: Sequence[Plan]) -> dict[Plan, Adapter | None]:
    """The sum that each plan names, files read once."""
    read = lru_cache(maxsize=None)(shelf.adapter)
    return {
        plan: compose([(read(need), scale) for need, scale in plan.parts]) if plan.parts else None for plan in plans
    }


def _batches(shots: Sequence[Shot]) -> list[list[Shot]]:
    """Shots for one call of the sampler, of one kind; pictures of a batch need not have one adapter."""
    batches: list[list[Shot]] = []
    for shot in shots:
        last = batches[-1] if batches else None
        fits = (
            last is not None
            and (last[0].scores is None) == (shot.scores is None)
            and sum(len(other.seeds) for other in last) + len(shot.seeds) <= BATCH
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
