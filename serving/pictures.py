"""Every combination of prompts and seeds, in one batch, written as pictures that say how they were made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from palp.adapter import Adapter
from palp.compose import compose
from palp.draw import Picture, Sampling
from palp.errors import InputError
from palp.words import check_words

__all__ = ["Request", "notes", "output_paths", "plan"]


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Args:
        prompts: one or more; [V] where the subject is to appear.
        seeds: one or more; every prompt is drawn with every seed.
        subject: the subject's adapter, None for the bare base.
        adapters: prompt adapters: none, one for all prompts, or one a prompt.
        subject_scale, adapter_scale: strengths; 1 as trained.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    subject: Adapter | None = None
    adapters: Sequence[Adapter] = ()
    subject_scale: float = 1.0
    adapter_scale: float = 1.0


def plan(request: Request) -> list[Picture]:
    """The pictures to draw, prompt by prompt, seed by seed; the same combination of adapters is composed once.

    Raises:
        InputError: a prompt that does not name the subject, an unknown word, or a scale, or a wrong number of adapters.
        AdapterMismatchError: subject and adapter are of two bases.
    """
    if not math.isfinite(request.subject_scale * request.adapter_scale):
        raise InputError(
            f"the scales are {request.subject_scale} and {request.adapter_scale}, and must be finite; 1 is as trained"
        )
    counts = (0, 1, len(request.prompts))
    if len(request.adapters) not in counts:
        raise InputError(
            f"{len(request.adapters)} adapters were given for {len(request.prompts)} prompts: "
            "give one for all, or one a prompt"
        )
    adapters: Sequence[Adapter | None] = request.adapters or [None]
    composed = [_composed(request, adapter) for adapter in adapters]
    per_prompt = composed * len(request.prompts) if len(composed) == 1 else composed
    for prompt, adapter in zip(request.prompts, per_prompt, strict=True):
        check_words(prompt, adapter.placeholders if adapter is not None else {})
    return [
        Picture(prompt, seed, adapter)
        for prompt, adapter in zip(request.prompts, per_prompt, strict=True)
        for seed in request.seeds
    ]


def _composed(request: Request, adapter: Adapter | None) -> Adapter | None:
    """Subject and prompt adapter in one, by rank concatenation."""
    parts = [
        (part, scale)
        for part, scale in ((request.subject, request.subject_scale), (adapter, request.adapter_scale))
        if part is not None
    ]
    return compose(parts) if parts else None


def output_paths(out: Path, count: int) -> list[Path]:
    """`out` for one picture; picture-1.png, picture-2.png, … for several.

    Raises:
        InputError: `out` is not the name of a PNG file.
    """
    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(f"--out is {out}, and pictures are written as PNG: give a name such as picture.png")
    if count == 1:
        return [out]
    width = len(str(count))
    return [out.with_name(f"{out.stem}-{index:0{width}d}{out.suffix}") for index in range(1, count + 1)]


def notes(picture: Picture, sampling: Sampling, base: str, adapters: Sequence[str]) -> dict[str, str]:
    """Text chunks of the PNG: how to draw the picture again."""
    how = {key: str(value) for key, value in asdict(sampling).items()}
    return {
        "prompt": picture.prompt,
        "seed": str(picture.seed),
        "base": base,
        "adapters": "\n".join(adapters),
        **how,
        "software": "palp-hyper",
    }
