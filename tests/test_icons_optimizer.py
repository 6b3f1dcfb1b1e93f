"""Muon for what mixes channels, AdamW for the rest: against torch's own on plain matrices, and resumed exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from palp.base.icons.checkpoint import channels_last
from palp.base.icons.optimizer import MuonAdamW, as_matrix, split_parameters


class Net(nn.Module):
    """A convolution at each edge and one inside, a table, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.conv_in = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 8, 3, padding=1)
        self.mix = nn.Linear(6, 8)
        self.conv_out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(self.conv_in(x)) + self.mix(self.table.weight.mean(dim=0))[:, None, None]
        loss: Tensor = self.conv_out(torch.tanh(inner)).square().mean()
        return loss


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return channels_last(Net())


def train(model: Net, optimizer: MuonAdamW, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))).backward()
        optimizer.step()


def test_only_what_mixes_channels_inside_goes_to_muon() -> None:
    model = net()
    matrices, others = split_parameters(model)
    assert {id(p) for p in matrices} == {id(model.inner.weight), id(model.mix.weight)}
    assert len(matrices) + len(others) == len(list(model.parameters()))


def test_a_convolution_moves_as_the_matrix_of_its_taps_does() -> None:
    model = net()
    optimizer = MuonAdamW(model, 0.1)
    matrix = nn.Parameter(as_matrix(model.inner.weight.detach()).clone())
    peer = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))).backward()
        gradient = model.inner.weight.grad
        assert gradient is not None
        matrix.grad = as_matrix(gradient).clone()
        optimizer.step()
        peer.step()
    assert torch.equal(as_matrix(model.inner.weight.detach()), matrix.detach())


def test_every_parameter_learns_and_one_rate_serves_both() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = MuonAdamW(model, 0.1)
    train(model, optimizer, 1)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    frozen = copy.deepcopy(model.state_dict())
    train(model, optimizer, 1)
    assert all(torch.equal(value, frozen[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_from_its_state_it_ends_at_the_same_weights(stop: int) -> None:
    whole, halves = net(), net()
    train(whole, MuonAdamW(whole, 0.05), 5)
    first = MuonAdamW(halves, 0.05)
    train(halves, first, stop)
    second = MuonAdamW(halves, 0.05)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(halves, second, 5 - stop, first=stop)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[name]), name
