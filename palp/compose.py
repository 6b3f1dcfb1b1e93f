"""Adapters added up, and adapters brought into one frame so that a bank can hold them side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from palp.adapter import Adapter, Site, widest
from palp.errors import AdapterFileError, AdapterMismatchError

__all__ = [
    "compose",
    "in_one_frame",
    "over_subject",
    "read_strength",
    "strength_note",
    "subject_strength",
    "widen",
]


STRENGTH = "subject_scale"  # in the metadata of a prompt adapter


def compose(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """The exact sum Σ scale · ΔW, by rank concatenation; a site that an adapter lacks gets nothing from it.

    Args:
        parts: adapters of one base, with their scales; at least one.

    Raises:
        AdapterMismatchError: adapters of several bases.
        InputError: two have learned the same placeholder, differently.
    """
    sites = _all_sites([adapter for adapter, _ in parts])
    total: Adapter | None = None
    for adapter, scale in parts:
        part = widen(adapter, sites, adapter.spec.rank).scaled(scale)
        total = part if total is None else total.concat(part)
    assert total is not None
    return total


def over_subject(subject: Adapter, prompt: Adapter) -> Adapter:
    """A prompt's adapter over a subject's, both as strong as the prompt's was trained for.

    Raises:
        AdapterMismatchError: adapters of two bases.
    """
    return compose([(subject, subject_strength(prompt)), (prompt, 1.0)])


def subject_strength(prompt: Adapter | None, scale: float = 1.0) -> float:
    """Factor on the scale of a subject's adapter beside a prompt's of this scale.

    A prompt's adapter may be trained over subjects that are weaker than they were learned
    (`TrainSettings.subject_scale`); what it takes off is as much its own as its weights, so it goes with its scale.

    Raises:
        AdapterFileError: the adapter's metadata has no such strength.
    """
    wanted = read_strength({} if prompt is None else prompt.metadata)
    return max(0.0, 1 + scale * (wanted - 1))


def strengths(prompt: Adapter | None, scale: float = 1.0, rest: float = 1.0) -> tuple[float, float]:
    """Factors on a subject's adapter and on a prompt's of this scale, where an opening leaves `rest` of both.

    The subject's is no stronger than the prompt's wants it.

    Raises:
        AdapterFileError: as `subject_strength`.
    """
    return min(rest, subject_strength(prompt, scale * rest)), scale * rest


def strength_note(scale: float) -> dict[str, str]:
    """What a prompt adapter's metadata says of the subjects that it was trained over."""
    return {STRENGTH: f"{scale:g}"}


def read_strength(metadata: Mapping[str, str]) -> float:
    """What `strength_note` wrote; 1 where nothing is said.

    Raises:
        AdapterFileError: it is no number above 0.
    """
    text = metadata.get(STRENGTH, "1")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise AdapterFileError(f"a file says {STRENGTH} {text!r}, and it must be a number above 0: train it again")
    return value


def in_one_frame(adapters: Sequence[Adapter]) -> list[Adapter]:
    """The same adapters, ΔW for ΔW, with one spec: all sites of all of them, the largest rank, the widest type.

    Raises:
        AdapterMismatchError: adapters of several bases.
    """
    sites = _all_sites(adapters)
    rank = max(adapter.spec.rank for adapter in adapters)
    dtype = widest(adapters)
    return [_cast(widen(adapter, sites, rank), dtype) for adapter in adapters]


def widen(adapter: Adapter, sites: Sequence[Site], rank: int) -> Adapter:
    """The same ΔW with more sites and a higher rank, filled with zeros; alpha becomes the rank, B takes the scale."""
    spec = replace(adapter.spec, sites=tuple(sites), rank=rank, alpha=float(rank))
    down, up = {}, {}
    for site in sites:
        here = site.name in adapter.down
        a = adapter.down[site.name] if here else torch.zeros(0, site.in_features, dtype=spec.torch_dtype)
        b = adapter.up[site.name] if here else torch.zeros(site.out_features, 0, dtype=spec.torch_dtype)
        down[site.name] = _padded(a, (rank, site.in_features))
        up[site.name] = _padded(adapter.spec.scale * b, (site.out_features, rank))
    return Adapter(spec, down, up, adapter.placeholders, adapter.metadata)


def _cast(adapter: Adapter, dtype: str) -> Adapter:
    spec = replace(adapter.spec, dtype=dtype)
    down, up = ({n: t.to(spec.torch_dtype) for n, t in part.items()} for part in (adapter.down, adapter.up))
    return replace(adapter, spec=spec, down=down, up=up)


def _padded(tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """`tensor` in the upper left corner of zeros."""
    out = tensor.new_zeros(shape)
    out[: tensor.shape[0], : tensor.shape[1]] = tensor
    return out


def _all_sites(adapters: Sequence[Adapter]) -> tuple[Site, ...]:
    """Sites of all adapters, each once; a base has one size for a name."""
    bases = {adapter.spec.base for adapter in adapters}
    if len(bases) > 1:
        raise AdapterMismatchError(
            f"adapters of several bases were given ({', '.join(sorted(bases))}): use adapters of one base"
        )
    return tuple(dict.fromkeys(site for adapter in adapters for site in adapter.spec.sites))
