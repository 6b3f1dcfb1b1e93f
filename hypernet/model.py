"""The hypernetwork: from the states of a prompt's tokens to the factors of its adapter, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hypernet.attention import ReadingBlock
from hypernet.config import HyperConfig
from hypernet.factors import Factors, product
from hypernet.layout import alike, layer_and_kind, numbered
from palp.adapter import Adapter, AdapterSpec
from palp.base import TextShape, TextState
from palp.compose import strength_note

__all__ = ["ABSTAIN", "Hypernetwork", "Prediction"]

ABSTAIN = 0.5  # a prompt less reliable than this gets no adapter
SMALLEST_NORM2 = 1e-20
START = 0.02  # deviation of the embeddings' first values

_Stack = tuple[Float[Tensor, "batch _group rank _in"], Float[Tensor, "batch _group _out rank"]]
"""A and B of sites of one shape."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Adapters for some prompts.

    Args:
        factors: of each prompt, no stronger than the corpus' adapters; abstention is not applied.
        reliability: from 0, nothing like the corpus' prompts, to 1.
        log_odds: of the learned part of the reliability, for its loss.
    """

    factors: Factors
    reliability: Float[Tensor, "batch"]
    log_odds: Float[Tensor, "batch"]

    @property
    def strength(self) -> Float[Tensor, "batch"]:
        """What to multiply each adapter by when serving: 1, or 0 to abstain."""
        return (self.reliability >= ABSTAIN).float()


class Hypernetwork(nn.Module):
    """One query a site reads the prompt; its state gives coefficients over the site's learned directions.

        [A; B] = mean + g Σₖ cₖ basisₖ,    c = head(h / rms(h)),    g = 0 at the start, one a site

    so that an untrained network predicts the corpus' mean adapter. Then B is scaled down where ‖ΔW‖ exceeds
    the site's limit, the corpus' 99th percentile. The mean, limits and first basis come from `hypernet.start`.

    Reliability is a learned probability that the prompt is one of the corpus' kind, times a gate that closes
    where the mean of its token states is far from the corpus' prompts (Mahalanobis, `hypernet.trust`).

    Args:
        spec: of the adapters.
        text: sizes of the base's text states; the number of tokens may be another for every prompt.
        config: sizes.
        subject_scale: strength of the subjects' adapters that its corpus was trained over, and of others beside what
            it predicts.
    """

    layers: Tensor
    kinds: Tensor

    def __init__(self, spec: AdapterSpec, text: TextShape, config: HyperConfig, subject_scale: float = 1.0) -> None:
        super().__init__()
        self.spec, self.text, self.config, self.subject_scale = spec, text, config, subject_scale
        width, sites = config.width, len(spec.sites)
        parts = [layer_and_kind(site.name) for site in spec.sites]
        layers, kinds = numbered([layer for layer, _ in parts]), numbered([kind for _, kind in parts])
        self.register_buffer("layers", torch.tensor(layers), persistent=False)
        self.register_buffer("kinds", torch.tensor(kinds), persistent=False)
        self.queries = nn.Parameter(START * torch.randn(sites, width))
        self.layer_embedding = nn.Parameter(START * torch.randn(max(layers) + 1, width))
        self.kind_embedding = nn.Parameter(START * torch.randn(max(kinds) + 1, width))
        self.read = nn.Sequential(nn.LayerNorm(text.hidden), nn.Linear(text.hidden, width))
        self.read_pooled = None if text.pooled is None else nn.Linear(text.pooled, width)
        self.blocks = nn.ModuleList(ReadingBlock(width, config.heads) for _ in range(config.layers))
        self.gain = nn.Parameter(torch.zeros(sites))
        self.head = nn.Parameter(torch.randn(sites, width, config.basis) / width**0.5)
        self.trust = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self._groups = alike(spec.sites)
        self._add_factors(spec, config.basis)
        self.register_buffer("limit", torch.full((sites,), torch.inf))
        self.register_buffer("text_mean", torch.zeros(text.hidden))
        self.register_buffer("text_whitening", torch.zeros(text.hidden, text.hidden))
        self.register_buffer("text_far", torch.tensor(torch.inf))

    def _add_factors(self, spec: AdapterSpec, basis: int) -> None:
        """Means (fixed) and bases (learned), a stack for each group of sites."""
        self.basis_down, self.basis_up = nn.ParameterList(), nn.ParameterList()
        for number, group in enumerate(self._groups):
            site, n = spec.sites[group[0]], len(group)
            self.basis_down.append(nn.Parameter(torch.zeros(n, basis, spec.rank, site.in_features)))
            self.basis_up.append(nn.Parameter(torch.zeros(n, basis, site.out_features, spec.rank)))
            self.register_buffer(f"mean_down_{number}", torch.zeros(n, spec.rank, site.in_features))
            self.register_buffer(f"mean_up_{number}", torch.zeros(n, site.out_features, spec.rank))

    def forward(self, text: TextState) -> Prediction:
        """The adapters of encoded prompts, [V] filled with a class word."""
        states = self.states(text)
        coefficients = self.gain[:, None] * torch.einsum("bsw,swk->bsk", states, self.head)
        factors = self._named([self._bounded(number, stack) for number, stack in enumerate(self._stacks(coefficients))])
        log_odds = self.trust(states.mean(1)).squeeze(1)
        return Prediction(factors, log_odds.sigmoid() * self._gate(text.hidden), log_odds)

    def states(self, text: TextState) -> Float[Tensor, "batch sites width"]:
        """The normalised latent of each site."""
        tokens = self.read(text.hidden.float())
        if self.read_pooled is not None:
            assert text.pooled is not None
            tokens = torch.cat([tokens, self.read_pooled(text.pooled.float())[:, None]], dim=1)
        queries = self.queries + self.layer_embedding[self.layers] + self.kind_embedding[self.kinds]
        states = queries[None] + tokens.mean(1, keepdim=True)
        for block in self.blocks:
            states = block(states, tokens)
        return functional.rms_norm(states, (self.config.width,))

    def expand(self, coefficients: Float[Tensor, "batch sites basis"]) -> Factors:
        """mean + Σₖ cₖ basisₖ of each site, without a bound."""
        return self._named(self._stacks(coefficients))

    def mean(self) -> Adapter:
        """The mean of the corpus' factors: what is predicted without looking at the prompt."""
        zeros = torch.zeros(1, len(self.spec.sites), self.config.basis, device=self.gain.device)
        return self.expand(zeros).adapter(0, {"name": "mean", **strength_note(self.subject_scale)})

    @torch.no_grad()
    def set_site(self, site: int, mean: Mapping[str, Tensor], basis: Mapping[str, Tensor], limit: float) -> None:
        """Put the start of one site in place: "down" [rank in] and "up" [out rank] of the mean, and of each direction.

        Args:
            site: its position in the spec.
            limit: largest ‖ΔW‖.
        """
        number = next(number for number, group in enumerate(self._groups) if site in group)
        row = self._groups[number].index(site)
        for side, directions in (("down", self.basis_down[number]), ("up", self.basis_up[number])):
            self._mean(side, number)[row] = mean[side]
            directions[row] = basis[side]
        limits = self.limit
        assert isinstance(limits, Tensor)
        limits[site] = limit

    def _mean(self, side: str, number: int) -> Float[Tensor, "sites i j"]:
        return self.get_buffer(f"mean_{side}_{number}")

    def _stacks(self, coefficients: Float[Tensor, "batch sites basis"]) -> list[_Stack]:
        """The same, a stack for each group of sites."""
        bases = zip(self.basis_down, self.basis_up, strict=True)
        return [
            (
                self._mean("down", number) + torch.einsum("bsk,skri->bsri", coefficients[:, group], down),
                self._mean("up", number) + torch.einsum("bsk,skor->bsor", coefficients[:, group], up),
            )
            for number, (group, (down, up)) in enumerate(zip(self._groups, bases, strict=True))
        ]

    def _bounded(self, number: int, stack: _Stack) -> _Stack:
        """B scaled so that no ‖ΔW‖ exceeds its site's limit."""
        down, up = stack
        norms = self.spec.scale * product(stack, stack).clamp(min=SMALLEST_NORM2).sqrt()
        shrink = (self.get_buffer("limit")[self._groups[number]] / norms).clamp(max=1)
        return down, up * shrink[..., None, None]

    def _named(self, stacks: Sequence[_Stack]) -> Factors:
        """The stacks taken apart, in the order of the sites."""
        down: dict[str, Tensor] = {}
        up: dict[str, Tensor] = {}
        for group, stack in zip(self._groups, stacks, strict=True):
            for out, side in zip((down, up), stack, strict=True):
                out.update(zip((self.spec.sites[i].name for i in group), side.unbind(1), strict=True))
        order = [site.name for site in self.spec.sites]
        return Factors(self.spec, {name: down[name] for name in order}, {name: up[name] for name in order})

    def _gate(self, hidden: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch"]:
        """1 near the corpus' prompts, ½ at the distance `text_far`, 0 far beyond it."""
        distance = text_distance(hidden, self.get_buffer("text_mean"), self.get_buffer("text_whitening"))
        return torch.sigmoid(8 * (1 - distance / self.get_buffer("text_far")))


def text_distance(
    hidden: Float[Tensor, "batch tokens dim"], mean: Float[Tensor, "dim"], whitening: Float[Tensor, "dim dim"]
) -> Float[Tensor, "batch"]:
    """Mahalanobis distance of each prompt's mean token state; about 1 for a prompt like those whitened with."""
    offset = (hidden.float().mean(1) - mean) @ whitening
    return offset.square().mean(1).clamp(min=SMALLEST_NORM2).sqrt()
