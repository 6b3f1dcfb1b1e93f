"""The adapter: what training makes, the hypernetwork predicts and serving composes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One linear layer of the denoiser that LoRA changes.

    Arguments:
        name: dotted name as in `unet.named_modules()`.
        in_features, out_features: widths of the layer.
    """

    name: str
    in_features: int
    out_features: int
