"""Random adapters for tiny denoisers, and slow twins to hold the fast paths against."""

from __future__ import annotations

import copy
from typing import TypedDict

import torch
from torch import Tensor, nn

from palp.adapter import Adapter, AdapterSpec, Site


class Tolerance(TypedDict):
    """Of `torch.testing.assert_close`."""

    rtol: float
    atol: float


PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2")


def all_sites(unet: nn.Module) -> tuple[Site, ...]:
    """Every layer of a denoiser that may have an adapter."""
    return tuple(
        Site(name, layer.in_features, layer.out_features)
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(PROJECTIONS)
    )


def spec_of(unet: nn.Module, rank: int = 4, alpha: float = 6.0) -> AdapterSpec:
    """alpha differs from rank, so that a forgotten scale shows."""
    return AdapterSpec("tiny:0", all_sites(unet), rank, alpha)


def random_adapter(spec: AdapterSpec, seed: int, words: dict[str, dict[str, int]] | None = None) -> Adapter:
    """Every value random and large enough to change the output, in wide layers as in others; `words` gives widths."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(spec.torch_dtype) * 0.3

    down = {site.name: draw(spec.rank, site.in_features) * min(1, 32 / site.in_features) for site in spec.sites}
    up = {site.name: draw(site.out_features, spec.rank) for site in spec.sites}
    placeholders = {
        word: {encoder: draw(2, width) for encoder, width in widths.items()} for word, widths in (words or {}).items()
    }
    return Adapter(spec, down, up, placeholders, {"class_word": "cat", "prompt": "a sketch of [V]"})


def merged(unet: nn.Module, adapter: Adapter, scale: float = 1.0) -> nn.Module:
    """The slow twin: a copy of the denoiser with every ΔW added to its weight."""
    twin = copy.deepcopy(unet)
    for site in adapter.spec.sites:
        layer = twin.get_submodule(site.name)
        assert isinstance(layer, nn.Linear)
        layer.weight.data += scale * adapter.delta_weight(site.name)
    return twin
