"""One slot of a bank added into the denoiser's weights, for a run of calls that all go through it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from palp.bank import AdapterBank, key

__all__ = ["Merge"]


class Merge:
    """W + scale · alpha / rank · B[slot] A[slot] in the place of W, in parameters of its own, until `restore`.

    The denoiser's own parameters are set aside and never written: restoring puts the same objects back. The sum is
    rounded to the weights' type. Where the slot has nothing, W stays.

    Args:
        unet: the bank's denoiser.
        bank: whose slots; call the denoiser outside its `route` while a slot is merged.
        leave_out: sites that stay as they are, such as those whose outputs are made beforehand.
    """

    def __init__(self, unet: nn.Module, bank: AdapterBank, leave_out: Collection[str] = ()) -> None:
        self._bank = bank
        sites = [site.name for site in bank.spec.sites if site.name not in leave_out]
        self._layers = {site: unet.get_submodule(site) for site in sites}
        self._own: dict[str, nn.Parameter] = {}
        self.slot: int | None = None

    @torch.no_grad()
    def merge(self, slot: int) -> None:
        """Put a slot as it is now in the weights; if that fails the base is as it was."""
        self.restore()
        try:
            for site, layer in self._layers.items():
                own = layer.get_parameter("weight")
                down, up = self._bank.down[key(site)][slot], self._bank.up[key(site)][slot]
                if not bool(up.any()):
                    continue
                whole = torch.addmm(own, up.to(own.dtype), down.to(own.dtype), alpha=self._bank.spec.scale)
                self._own[site] = own
                layer.weight = nn.Parameter(whole, requires_grad=False)
        except BaseException:
            self.restore()
            raise
        self.slot = slot

    def restore(self) -> None:
        """The base's own weights again."""
        for site, own in self._own.items():
            self._layers[site].weight = own
        self._own, self.slot = {}, None
