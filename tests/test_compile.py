"""torch.compile with a bank attached: right, in one graph, and compiled once, whatever adapters and prompts come."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import palp.bank
import palp.base.attention
import palp.branch
from palp.adapter import AdapterSpec, Site
from tests.adapters import Tolerance, random_adapter, spec_of
from tests.tiny import Kind, tiny_base

FORWARD: Tolerance = {"rtol": 1e-4, "atol": 2e-5}  # float32, other order of sums, through 20 layers


def without_checks(module: ModuleType) -> Any:
    """The module as users have it: Dynamo cannot trace through the type checks of the tests."""
    found = importlib.util.spec_from_file_location(f"{module.__name__}_without_checks", module.__file__)
    assert found is not None
    assert found.loader is not None
    plain = importlib.util.module_from_spec(found)
    sys.modules[found.name] = plain  # where dataclasses look for their annotations
    found.loader.exec_module(plain)
    return plain


def bank_without_checks() -> Any:
    """The class `AdapterBank`, on branches without checks."""
    bank, branch = without_checks(palp.bank), without_checks(palp.branch)
    bank.Branch, bank.Routing = branch.Branch, branch.Routing
    return bank.AdapterBank


def test_a_compiled_denoiser_follows_the_routes() -> None:
    layer = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3))
    spec = AdapterSpec("tiny:0", (Site("0", 5, 6), Site("2", 6, 3)), rank=4, alpha=6.0)
    bank = bank_without_checks()(layer, spec, slots=2).attach()
    for slot in range(2):
        bank.write(slot, random_adapter(spec, slot))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(2, 4, 5)
    for slots in ([0, 1], [1, 0], [1, 1], None):
        with bank.route(None if slots is None else torch.tensor(slots)):
            torch.testing.assert_close(compiled(x), layer(x), **FORWARD)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@torch.no_grad()
def test_new_adapters_and_prompts_do_not_compile_the_denoiser_again(kind: Kind) -> None:
    base = tiny_base(kind)
    attention = without_checks(palp.base.attention)
    attention.use_block_attention(base.unet, attention.fused)
    bank = bank_without_checks()(base.unet, spec_of(base.unet), slots=5).attach()
    compiled = replace(base, unet=torch.compile(base.unet, backend="eager", fullgraph=True))
    x_t = torch.randn(4, *base.latent_shape)

    def check(slots: list[int], prompt: str, seed: int) -> None:
        bank.write(slots[0], random_adapter(bank.spec, seed))
        with bank.route(torch.tensor(slots)):
            text = base.project(base.encode_prompts(["", prompt, "", "cat"]))
            t = torch.full((4,), 100 + seed)
            torch.testing.assert_close(compiled.predict(x_t, t, text), base.predict(x_t, t, text), **FORWARD)

    check([1, 1, 2, 2], "a photo of a cat", 0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed, slots in enumerate(([1, 1, 2, 2], [3, 3, 1, 1], [0, 0, 4, 4], [2, 2, 3, 3])):
            check(slots, f"cat {seed}", seed)
        with pytest.raises(torch._dynamo.exc.RecompileError):  # another number of runs of equal slots is another shape
            check([1, 2, 3, 4], "cat", 0)
    bank.detach()
