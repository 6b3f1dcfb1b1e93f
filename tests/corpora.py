"""A corpus in memory, and small hypernetworks on tiny bases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hypernet.config import HyperConfig
from hypernet.factors import Factors
from hypernet.model import Hypernetwork
from hypernet.start import start_from
from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.corpus import Corpus, CorpusPrompt, CorpusSubject, Split
from tests.adapters import random_adapter
from tests.training import subject_adapter

CONFIG = HyperConfig(width=16, layers=1, heads=2, basis=3)
STYLES, PLACES = ("sketch", "watercolor", "comic"), ("beach", "city", "forest")
SPLITS: dict[tuple[str, str], Split] = {("comic", "forest"): "combination", ("watercolor", "city"): "word"}
RECIPE = {"rule": "composed", "rank": 2, "steps": 3, "batch": 2, "lr": 1e-2, "gamma": 1.5, "seed": 0}


@dataclass(frozen=True, eq=False)
class TinyCorpus:
    """Adapters that share their first A and are sums of what their words do; a `Corpus`."""

    base: str
    spec: AdapterSpec
    recipe: Mapping[str, object]
    prompts: Sequence[CorpusPrompt]
    subjects: Sequence[CorpusSubject]
    adapters: Mapping[str, Adapter]
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    fresh_prompts: Sequence[CorpusPrompt] = ()

    @property
    def content(self) -> str:
        return str([float(up.sum()) for adapter in self.adapters.values() for up in adapter.up.values()])

    def pictures(self, key: str) -> Tensor | None:
        return self.latents.get(key)

    def adapter(self, key: str) -> Adapter:
        return self.adapters[key]

    def metrics(self, key: str) -> Mapping[str, float]:
        return {"gain": 0.1}


def tiny_corpus(base: Base, size: float = 0.3) -> TinyCorpus:
    """Nine prompts, two of them held out, and three subjects, one of them held out."""
    spec = AdapterSpec(base.fingerprint, base.sites(), 2, 3.0)
    prompts, adapters = [], {}
    for style in STYLES:
        for place in PLACES:
            key = f"{style}-{place}"
            text, split = f"a {style} of [V] on a {place}", SPLITS.get((style, place), "train")
            prompts.append(CorpusPrompt(key, text, {"style": style, "place": place}, key, split))
            adapters[key] = _adapter(spec, style, place, size)
    subjects = [
        CorpusSubject(f"s{i}", word, _latents(base, i), subject_adapter(base, i).scaled(0.3), i == 2)
        for i, word in enumerate(("cat", "photo", "cap"))
    ]
    return TinyCorpus(base.fingerprint, spec, RECIPE, tuple(prompts), tuple(subjects), adapters)


def _latents(base: Base, seed: int) -> Tensor:
    return torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(seed))


def _adapter(spec: AdapterSpec, style: str, place: str, size: float) -> Adapter:
    shared = random_adapter(spec, 7)
    parts = [random_adapter(spec, 100 + STYLES.index(style)), random_adapter(spec, 200 + PLACES.index(place))]
    down = {site: a + 0.1 * sum(part.down[site] for part in parts) for site, a in shared.down.items()}
    up = {site: size * sum((part.up[site] for part in parts), b) for site, b in shared.up.items()}
    return Adapter(spec, down, up, {}, {"prompt": f"a {style} of [V] on a {place}"})


def is_a_corpus(corpus: TinyCorpus) -> Corpus:
    """For mypy."""
    return corpus


def tiny_hypernet(base: Base, corpus: TinyCorpus, seed: int = 0, gain: float = 0.0) -> Hypernetwork:
    """A started hypernetwork; a gain other than 0 lets the prompt matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hypernet = Hypernetwork(corpus.spec, base.text_shape, CONFIG)
    start_from(hypernet, list(corpus.adapters.values()))
    with torch.no_grad():
        hypernet.gain.fill_(gain)
    return hypernet


def regauged(adapter: Adapter, seed: int) -> Adapter:
    """The same ΔW by other factors: A → G A, B → B G⁻¹ with a random invertible G a site."""
    rng = torch.Generator().manual_seed(seed)
    down, up = {}, {}
    for site in adapter.down:
        left, _, right = torch.linalg.svd(torch.randn(2, 2, generator=rng, dtype=torch.float64))
        g = left @ torch.diag(0.3 + 3 * torch.rand(2, generator=rng, dtype=torch.float64)) @ right
        down[site] = (g @ adapter.down[site].double()).to(adapter.down[site])
        up[site] = (adapter.up[site].double() @ torch.linalg.inv(g)).to(adapter.up[site])
    return replace(adapter, down=down, up=up)


def deltas(factors: Factors) -> Tensor:
    """Every ΔW materialised and flattened: [batch values]."""
    rows = [factors.adapter(i) for i in range(len(factors))]
    return torch.stack([torch.cat([a.delta_weight(s.name).flatten() for s in a.spec.sites]) for a in rows])
