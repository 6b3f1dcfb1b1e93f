"""The optimiser of the embedded base: Muon for matrices and convolutions, AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MuonAdamW:
    """Two of torch's optimisers as one: orthogonalised momentum for weights that mix channels, AdamW for the others.

    A convolution counts as the matrix `[out, height * width * in]` (Jordan et al. 2024, "Muon"). First and last
    convolutions, embeddings, biases and norms are AdamW's, as there. Muon's update is scaled to AdamW's size (Liu et
    al. 2025, "Muon is scalable for LLM training"), so one learning rate serves both.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float = 0.01) -> None:
        matrices, others = split_parameters(model)
        self._views = [(parameter, nn.Parameter(as_matrix(parameter.detach()))) for parameter in matrices]
        self.muon = torch.optim.Muon(
            [view for _, view in self._views],
            lr=learning_rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = torch.optim.AdamW(
            others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, whose `lr` may be set."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """Moments by parameter (for Muon by its matrix view)."""
        return {**self.muon.state, **self.adamw.state}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter, view in self._views:
            parameter.grad = view.grad = None
        self.adamw.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One update from the parameters' gradients, in place."""
        for parameter, view in self._views:
            view.grad = None if parameter.grad is None else as_matrix(parameter.grad)
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states under running numbers, as of one optimiser."""
        shift = len(self._views)
        moments = {shift + index: value for index, value in self.adamw.state_dict()["state"].items()}
        return {"state": self.muon.state_dict()["state"] | moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        shift, state = len(self._views), state_dict["state"]
        of_muon = {index: value for index, value in state.items() if index < shift}
        of_adamw = {index - shift: value for index, value in state.items() if index >= shift}
        self.muon.load_state_dict({**self.muon.state_dict(), "state": of_muon})
        self.adamw.load_state_dict({**self.adamw.state_dict(), "state": of_adamw})


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights that mix channels inside the network, and all others."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        edge = "conv_in." in name or "conv_out." in name
        mixing = parameter.ndim >= 2 and not edge and id(parameter) not in tables
        (matrices if mixing else others).append(parameter)
    return matrices, others


def as_matrix(weight: Float[Tensor, "out *rest"]) -> Float[Tensor, "out fan_in"]:
    """A weight as a matrix that shares its memory if that lies channels last (gradients may be copied)."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight
