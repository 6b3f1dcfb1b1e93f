"""K slots in one optimiser against K optimisers of torch and prodigyopt."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from prodigyopt import Prodigy
from torch import Tensor, nn

from palp.errors import InputError
from palp.optim import SlotOptimizer, SlotParameters
from tests.adapters import Tolerance

SLOTS = 3
SAME: Tolerance = {"rtol": 1e-5, "atol": 1e-6}  # float32, the same rule in another order of operations
PRODIGY: Tolerance = {"rtol": 1e-6, "atol": 1e-9}  # float64
SHAPES = {"down.x": (4, 6), "up.x": (5, 4), "placeholder.[V].text_encoder": (2, 7)}


def _tensors(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    rng = torch.Generator().manual_seed(1)
    return {name: nn.Parameter(torch.randn(SLOTS, *shape, generator=rng).to(dtype)) for name, shape in SHAPES.items()}


def _groups(tensors: dict[str, nn.Parameter], lrs: tuple[float, float], decay: float = 0.0) -> list[SlotParameters]:
    words = {name: tensor for name, tensor in tensors.items() if name.startswith("placeholder")}
    lora = {name: tensor for name, tensor in tensors.items() if name not in words}
    return [SlotParameters(lora, lrs[0], decay), SlotParameters(words, lrs[1])]


def _set_gradients(tensors: dict[str, nn.Parameter], step: int, sizes: Tensor) -> None:
    """Toward -1, with noise; of other sizes in each slot, so that some are clipped and some are not."""
    rng = torch.Generator().manual_seed(100 + step)
    for tensor in tensors.values():
        noise = 0.3 * torch.randn(tensor.shape, generator=rng)
        tensor.grad = (tensor.detach() + 1 + noise) * sizes.view(-1, 1, 1)


SIZES = torch.tensor([0.01, 1.0, 30.0])
EVERYONE = torch.ones(SLOTS, dtype=torch.bool)
Make = Callable[[list[dict[str, object]]], torch.optim.Optimizer]


def _separately(
    make: Make, lrs: tuple[float, float], decay: float, active: list[Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The oracle: slot by slot, with `clip_grad_norm_`; a slot that is not active takes no step."""
    start = _tensors(dtype)
    result = {name: torch.empty_like(tensor) for name, tensor in start.items()}
    for slot in range(SLOTS):
        own = {name: nn.Parameter(tensor[slot].detach().clone()) for name, tensor in start.items()}
        whole = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in start.items()}
        lora = [own["down.x"], own["up.x"]]
        words = {"params": [own["placeholder.[V].text_encoder"]], "lr": lrs[1], "weight_decay": 0.0}
        optimiser = make([{"params": lora, "lr": lrs[0], "weight_decay": decay}, words])
        for step, mask in enumerate(active):
            for name, tensor in whole.items():
                tensor.data[slot] = own[name].data
            _set_gradients(whole, step, SIZES)
            for name, tensor in own.items():
                gradient = whole[name].grad
                assert gradient is not None
                tensor.grad = gradient[slot].clone()
            if mask[slot]:
                torch.nn.utils.clip_grad_norm_(list(own.values()), 1.0)
                optimiser.step()
        for name, tensor in own.items():
            result[name][slot] = tensor.detach()
    return result


def _together(optimiser: SlotOptimizer, tensors: dict[str, nn.Parameter], active: list[Tensor]) -> None:
    for step, mask in enumerate(active):
        _set_gradients(tensors, step, SIZES)
        optimiser.step(mask)


ALWAYS = [EVERYONE] * 12
SOMETIMES = [torch.tensor([step != 2, step % 2 == 0, step < 8]) for step in range(12)]


@pytest.mark.parametrize("active", [ALWAYS, SOMETIMES], ids=["always", "sometimes"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_one_torch_adamw_a_slot(active: list[Tensor], decay: float) -> None:
    tensors = _tensors()
    _together(SlotOptimizer(_groups(tensors, (0.02, 0.1), decay)), tensors, active)
    expected = _separately(torch.optim.AdamW, (0.02, 0.1), decay, active, torch.float32)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor.detach(), expected[name], **SAME)


@pytest.mark.parametrize("active", [ALWAYS, SOMETIMES], ids=["always", "sometimes"])
def test_prodigy_is_one_prodigyopt_a_slot(active: list[Tensor]) -> None:
    def make(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        optimiser: torch.optim.Optimizer = Prodigy(groups, use_bias_correction=True, safeguard_warmup=True)
        return optimiser

    tensors = _tensors(torch.float64)  # in float32 its growing step size magnifies every rounding
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimiser = SlotOptimizer(_groups(tensors, (1.0, 1.0), 0.1), "prodigy")
    active = active * 12  # its step size grows from 1e-6
    _together(optimiser, tensors, active)
    expected = _separately(make, (1.0, 1.0), 0.1, active, torch.float64)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor.detach(), expected[name], **PRODIGY)
        moved = (tensor - start[name]).detach().abs().amax(dim=(1, 2))
        assert (moved > 1e-3).all()
    sizes = optimiser.state_dict()["state"]["d"]
    assert len(set(sizes.tolist())) == SLOTS  # each slot has found its own
    assert (sizes > 1e-6).all()


def test_the_norms_are_those_before_clipping() -> None:
    tensors = _tensors()
    _set_gradients(tensors, 0, SIZES)
    norms = SlotOptimizer(_groups(tensors, (0.1, 0.1))).step(EVERYONE)
    for slot in range(SLOTS):
        rows = [tensor.grad[slot].flatten() for tensor in tensors.values() if tensor.grad is not None]
        torch.testing.assert_close(norms[slot], torch.cat(rows).norm(), **SAME)


@pytest.mark.parametrize("name", ["adamw", "prodigy"])
@pytest.mark.parametrize("stopped", ["finished", "nan", "inf"])
def test_a_stopped_slot_stays_bit_for_bit_and_the_others_do_not_notice(name: str, stopped: str) -> None:
    tensors, twins = _tensors(), _tensors()
    optimiser = SlotOptimizer(_groups(tensors, (0.1, 0.1), 0.1), name)
    twin = SlotOptimizer(_groups(twins, (0.1, 0.1), 0.1), name)
    _together(optimiser, tensors, ALWAYS)
    _together(twin, twins, ALWAYS)
    before = copy.deepcopy([{name: t.detach() for name, t in tensors.items()}, optimiser.state_dict()["state"]])
    _set_gradients(tensors, 7, SIZES)
    _set_gradients(twins, 7, SIZES)
    active = EVERYONE.clone()
    if stopped == "finished":
        active[1] = False
    else:
        assert tensors["up.x"].grad is not None
        tensors["up.x"].grad[1, 0, 0] = float(stopped)
    norms = optimiser.step(active)
    twin.step(EVERYONE)
    assert norms.isfinite().tolist() == [True, stopped == "finished", True]
    after = [{name: t.detach() for name, t in tensors.items()}, optimiser.state_dict()["state"]]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[key][1], new[key][1]) for key in old)
    others = torch.tensor([0, 2])
    for key in tensors:
        torch.testing.assert_close(tensors[key][others], twins[key][others], **SAME)
        assert not torch.equal(tensors[key][others], before[0][key][others])


def test_the_learning_rate_scale_is_per_slot() -> None:
    tensors, scale = _tensors(), torch.tensor([0.0, 0.5, 2.0])
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    _set_gradients(tensors, 0, SIZES)
    SlotOptimizer(_groups(tensors, (0.02, 0.1))).step(EVERYONE, scale)
    for slot, factor in enumerate(scale.tolist()):
        twins = _tensors()
        _set_gradients(twins, 0, SIZES)
        SlotOptimizer(_groups(twins, (0.02 * factor, 0.1 * factor))).step(EVERYONE)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor[slot], twins[name][slot], **SAME)
    assert all(torch.equal(tensor[0], start[name][0]) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["adamw", "prodigy"])
def test_a_resumed_run_is_the_same_to_the_bit(name: str) -> None:
    tensors = _tensors()
    optimiser = SlotOptimizer(_groups(tensors, (0.1, 0.1)), name)
    _together(optimiser, tensors, SOMETIMES)
    saved = optimiser.state_dict()
    resumed = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in tensors.items()}
    _together(optimiser, tensors, SOMETIMES)
    other = SlotOptimizer(_groups(resumed, (0.1, 0.1)), name)
    other.load_state_dict(saved)
    _together(other, resumed, SOMETIMES)
    for key in tensors:
        assert torch.equal(tensors[key], resumed[key])


def test_no_gradient_is_a_gradient_of_zero() -> None:
    tensors = _tensors()
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimiser = SlotOptimizer(_groups(tensors, (0.1, 0.1)))
    assert not optimiser.step(EVERYONE).any()
    assert all(torch.equal(tensor, start[name]) for name, tensor in tensors.items())
    _set_gradients(tensors, 0, SIZES)
    optimiser.zero_grad()
    assert all(tensor.grad is None for tensor in tensors.values())


def test_wrong_settings_and_states_are_refused() -> None:
    tensors = _tensors()
    with pytest.raises(InputError, match="choose one of adamw, prodigy"):
        SlotOptimizer(_groups(tensors, (0.1, 0.1)), "sgd")
    with pytest.raises(InputError, match="the same lr"):
        SlotOptimizer(_groups(tensors, (1.0, 0.1)), "prodigy")
    with pytest.raises(InputError, match="one row a slot"):
        SlotOptimizer([SlotParameters({"a": torch.ones(2, 3), "b": torch.ones(3, 3)}, 0.1)])
    saved = SlotOptimizer(_groups(tensors, (0.1, 0.1))).state_dict()
    with pytest.raises(InputError, match="the saved optimiser is adamw"):
        SlotOptimizer(_groups(tensors, (0.1, 0.1)), "prodigy").load_state_dict(saved)
    with pytest.raises(InputError, match="the saved optimiser is adamw"):
        SlotOptimizer(_groups(tensors, (0.1, 0.1))[:1]).load_state_dict(saved)
