"""K adapters on one frozen denoiser: each sample of a batch goes through the adapter of its own slot."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palp.adapter import Adapter, AdapterSpec, widest
from palp.branch import Branch, Routing, common_run
from palp.errors import AdapterMismatchError, InputError

__all__ = ["AdapterBank"]


class AdapterBank(nn.Module):
    """K adapters of one spec on one frozen denoiser, for training and for serving.

    y = W x + scale · alpha / rank · B[slot] A[slot] x

    Products are in the type of the site's output (that of autocast, or of a half-precision base); the
    parameters and their gradients stay in the spec's type, so that small updates are not lost. Neighbours
    in a batch and other slots never enter a sample's arithmetic, not even as 0 · nan. A new bank holds
    zeros: the bare base.

    Calls are routed by state on the bank, so one bank serves one thread at a time. With gradient
    checkpointing the backward pass runs the sites again: call it inside `route`, or torch raises a
    CheckpointError.

    Args:
        unet: the denoiser; it is neither changed (until `attach`) nor registered as a submodule.
        spec: sites, rank, alpha.
        slots: K.

    Raises:
        AdapterMismatchError: the denoiser lacks a site, or has it with other sizes.
    """

    def __init__(self, unet: nn.Module, spec: AdapterSpec, slots: int) -> None:
        super().__init__()
        if slots < 1:
            raise InputError(f"a bank needs at least one slot, not {slots}")
        self.spec = spec
        self.slots = slots
        self._layers = {site.name: _layer(unet, site.name) for site in spec.sites}  # a plain dict: no submodules
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._routing: Routing | None = None
        self._lent: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for site in spec.sites:
            layer = self._layers[site.name]
            if (layer.in_features, layer.out_features) != (site.in_features, site.out_features):
                raise AdapterMismatchError(f"the adapter changes {site}, and the base at hand has {layer} there")
            zeros = partial(torch.zeros, dtype=spec.torch_dtype, device=layer.weight.device)
            self.down[key(site.name)] = nn.Parameter(zeros(slots, spec.rank, site.in_features))
            self.up[key(site.name)] = nn.Parameter(zeros(slots, site.out_features, spec.rank))

    @classmethod
    def holding(cls, unet: nn.Module, adapters: Sequence[Adapter], spare: int = 0) -> AdapterBank:
        """A bank of these adapters, in their order, in the widest of their types, and so many empty slots after them.

        Raises:
            AdapterMismatchError: their specs differ, or the denoiser lacks one of their sites.
        """
        bank = cls(unet, replace(adapters[0].spec, dtype=widest(adapters)), len(adapters) + spare)
        for slot, adapter in enumerate(adapters):
            bank.write(slot, adapter)
        return bank

    def attach(self) -> AdapterBank:
        """Hook the bank into the denoiser's sites, where several banks add up; returns the bank.

        Attach before `torch.compile`: a compiled denoiser does not notice hooks that come later.
        """
        if not self._handles:
            for site, layer in self._layers.items():
                branch = Branch(self.down[key(site)], self.up[key(site)])
                self._handles.append(layer.register_forward_hook(partial(self._add_branch, site, branch)))
        return self

    def detach(self) -> None:
        """Take the bank off the denoiser, which is then as it was."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def route(self, slots: Int[Tensor, "batch"] | None, scale: Float[Tensor, "scales"] | float = 1.0) -> Iterator[None]:
        """Inside the block, sample i of every batch goes through slot `slots[i]`, `scale[i]` times as strong.

        Args:
            slots: one a sample. Best on the CPU, for reading them waits for an accelerator, and with the
                samples of a slot side by side: equal runs become one product. None is the bare base, at no
                cost.
            scale: one for all, or one a sample.

        Raises:
            InputError: the bank has no such slot, there is not one scale a sample, or, inside the block, a
                batch has another size.
        """
        before = self._routing
        self._routing = None if slots is None else self._plan(slots, scale)
        try:
            yield
        finally:
            self._routing = before

    @contextmanager
    def lend(
        self, down: Mapping[str, Float[Tensor, "slots rank in"]], up: Mapping[str, Float[Tensor, "slots out rank"]]
    ) -> Iterator[None]:
        """Inside the block the slots hold these tensors, by site, and not the bank's own.

        They may have a history: what a network predicts then gets its gradients through the denoiser.
        """
        before = self._lent
        self._lent = (down, up)
        try:
            yield
        finally:
            self._lent = before

    def _plan(self, slots: Tensor, scale: Tensor | float) -> Routing:
        wanted = slots.tolist()
        if not wanted or not all(0 <= slot < self.slots for slot in wanted):
            raise InputError(f"a batch is routed to slots {wanted}, and the bank has 0 to {self.slots - 1}")
        if isinstance(scale, Tensor):
            if scale.shape != slots.shape:
                raise InputError(f"{len(scale)} scales were given for {len(wanted)} samples: give one a sample")
            scale = scale.to(self.device)[:, None, None]
        rows = wanted[:: common_run(wanted)]
        index = None if rows == list(range(self.slots)) else torch.tensor(rows, device=self.device)
        return Routing(len(wanted), tuple(rows), index, self.spec.scale * scale)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def _add_branch(
        self, site: str, branch: Branch, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        """The forward hook of a site."""
        routing, lent = self._routing, self._lent
        if routing is None:
            return None
        x: Tensor = inputs[0]
        if len(x) != routing.batch:
            raise InputError(f"{routing.batch} samples are routed, and the batch has {len(x)}: route one slot a sample")
        return branch.add(output, x, routing, None if lent is None else (lent[0][site], lent[1][site]))

    def write(self, slot: int, adapter: Adapter) -> None:
        """Copy an adapter into a slot, in place.

        Raises:
            AdapterMismatchError: its spec is not the bank's, dtype aside.
        """
        self.spec.check(adapter.spec)
        with torch.no_grad():
            for site in self.spec.sites:
                self.down[key(site.name)][self._checked(slot)] = adapter.down[site.name].to(self.device)
                self.up[key(site.name)][slot] = adapter.up[site.name].to(self.device)

    def read(self, slot: int) -> Adapter:
        """A copy of a slot, on the CPU; the learned words are the caller's, so it has none."""
        self._checked(slot)
        down, up = (
            {site.name: rows[key(site.name)][slot].detach().clone().cpu() for site in self.spec.sites}
            for rows in (self.down, self.up)
        )
        return Adapter(self.spec, down, up)

    def clear(self, slot: int) -> None:
        """Make a slot the bare base: A = B = 0."""
        self._checked(slot)
        with torch.no_grad():
            for rows in self.parameters():
                rows[slot] = 0

    def init_(self, slot: int, seed: int) -> None:
        """Start a slot as PEFT does: A uniform in ±1/√in (Kaiming, a = √5), B = 0; a seed gives one start."""
        self.clear(slot)
        generator = torch.Generator().manual_seed(seed)
        for site in self.spec.sites:
            start = torch.empty(self.spec.rank, site.in_features)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            with torch.no_grad():
                self.down[key(site.name)][slot] = start.to(self.device)

    def _checked(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise InputError(f"there is no slot {slot}: the bank has 0 to {self.slots - 1}")
        return slot

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterBank:
        """Own parameters on the same denoiser, not attached."""
        twin = AdapterBank.__new__(AdapterBank)
        memo[id(self)] = twin
        nn.Module.__init__(twin)
        twin.spec, twin.slots, twin._layers = self.spec, self.slots, self._layers
        twin._handles, twin._routing, twin._lent = [], None, None
        twin.down, twin.up = copy.deepcopy(self.down, memo), copy.deepcopy(self.up, memo)
        return twin


def key(site: str) -> str:
    """A site's key in `down` and `up`, where a dot cannot be."""
    return site.replace(".", "/")


def _layer(unet: nn.Module, name: str) -> nn.Linear:
    try:
        layer = unet.get_submodule(name)
    except AttributeError as error:
        raise AdapterMismatchError(f"the adapter changes {name}, and the base at hand has no such layer") from error
    if not isinstance(layer, nn.Linear):
        kind = type(layer).__name__
        raise AdapterMismatchError(f"the adapter changes {name}, and the base has a {kind} there, not a Linear")
    return layer
