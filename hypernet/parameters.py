"""A hypernetwork's parameters: how each learns, which term pulls on what it predicts, and others for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hypernet.model import Hypernetwork, Prediction
from hypernet.settings import HyperSettings

__all__ = ["gradient_norms", "parameter_groups", "swapped"]


def parameter_groups(hypernet: Hypernetwork, settings: HyperSettings) -> list[dict[str, Any]]:
    """Matrices with weight decay, the rest without, and the sites' scales with a rate of their own."""
    gain = [hypernet.gain]
    matrices = [p for name, p in hypernet.named_parameters() if p.ndim > 1 and not name.startswith("basis")]
    rest = [p for p in hypernet.parameters() if not any(p is other for other in (*gain, *matrices))]
    kinds = ((matrices, settings.lr, settings.weight_decay), (rest, settings.lr, 0.0), (gain, settings.lr_gain, 0.0))
    return [{"params": p, "lr": lr, "peak": lr, "weight_decay": decay} for p, lr, decay in kinds]


def gradient_norms(weighted: Mapping[str, Tensor], prediction: Prediction) -> dict[str, float]:
    """Norm of each term's gradient in what is predicted: which term pulls how hard."""
    outputs = [*prediction.factors.tensors(), prediction.log_odds]
    norms = {}
    for name, term in weighted.items():
        gradients = torch.autograd.grad(term, outputs, retain_graph=True, allow_unused=True)
        squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
        norms[name] = float(torch.stack(squares).sum().sqrt())
    return norms


class swapped:
    """Within, a network has other parameters; afterwards its own again, bit for bit."""

    def __init__(self, hypernet: Hypernetwork, parameters: Mapping[str, Tensor]) -> None:
        self._hypernet, self._others = hypernet, parameters

    def __enter__(self) -> None:
        self._own = {name: p.detach().clone() for name, p in self._hypernet.named_parameters()}
        self._put(self._others)

    def __exit__(self, *exception: object) -> None:
        self._put(self._own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._hypernet.named_parameters():
            parameter.copy_(values[name])
