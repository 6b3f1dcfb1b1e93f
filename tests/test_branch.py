"""The branch of one layer: what it keeps between calls without gradients is never older than the slots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from palp.branch import Branch, Routing, common_run

BATCH, TOKENS, IN, OUT, RANK, SLOTS = 4, 3, 6, 5, 2, 3
SOME = Routing(BATCH, (2, 0), torch.tensor([2, 0]), 0.5)
ALL = Routing(SLOTS, (0, 1, 2), None, 0.5)


@pytest.fixture
def factors() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.randn(SLOTS, RANK, IN)), nn.Parameter(torch.randn(SLOTS, OUT, RANK))


def added(branch: Branch, routing: Routing, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.linspace(-1, 1, routing.batch * TOKENS * IN).view(routing.batch, TOKENS, IN)
    with torch.no_grad():
        return branch.add(torch.zeros(routing.batch, TOKENS, OUT, dtype=dtype), x, routing)


def expected(factors: tuple[Tensor, Tensor], routing: Routing) -> Tensor:
    x = torch.linspace(-1, 1, routing.batch * TOKENS * IN).view(routing.batch, TOKENS, IN)
    slots = [row for row in routing.rows for _ in range(routing.batch // len(routing.rows))]
    down, up = (factor.detach()[slots] for factor in factors)
    return 0.5 * x @ down.mT @ up.mT


def step_of_adamw(factors: tuple[nn.Parameter, nn.Parameter]) -> None:
    optimizer = torch.optim.AdamW(factors, lr=0.1, foreach=True)
    sum(factor.square().sum() for factor in factors).backward()  # type: ignore[union-attr]
    optimizer.step()


@torch.no_grad()
def part_of_a_slot(factors: tuple[nn.Parameter, nn.Parameter]) -> None:
    factors[0][2, :1] = 7.0
    factors[1][2, :, :1] = torch.zeros(OUT, 1)


@torch.no_grad()
def all_at_once(factors: tuple[nn.Parameter, nn.Parameter]) -> None:
    torch._foreach_mul_(list(factors), 2.0)


@torch.inference_mode()
def in_inference_mode(factors: tuple[nn.Parameter, nn.Parameter]) -> None:
    factors[1][0] += 1.0


@pytest.mark.parametrize("write", [step_of_adamw, part_of_a_slot, all_at_once, in_inference_mode])
@pytest.mark.parametrize("routing", [SOME, ALL], ids=["some", "all"])
def test_what_is_written_is_seen(
    write: Callable[[tuple[nn.Parameter, nn.Parameter]], None],
    routing: Routing,
    factors: tuple[nn.Parameter, nn.Parameter],
) -> None:
    branch = Branch(*factors)
    before = added(branch, routing)
    torch.testing.assert_close(before, expected(factors, routing))
    write(factors)
    after = added(branch, routing)
    torch.testing.assert_close(after, expected(factors, routing))
    assert not torch.equal(before, after)


def test_other_routes_and_types_get_their_own(factors: tuple[nn.Parameter, nn.Parameter]) -> None:
    branch = Branch(*factors)
    for routing in (SOME, ALL, SOME, Routing(BATCH, (0, 2), torch.tensor([0, 2]), 0.5)):
        torch.testing.assert_close(added(branch, routing), expected(factors, routing))
    half = added(branch, ALL, torch.bfloat16)
    torch.testing.assert_close(half.float(), expected(factors, ALL), rtol=0.02, atol=0.02)
    torch.testing.assert_close(added(branch, ALL), expected(factors, ALL))


def test_between_two_steps_nothing_is_picked_or_cast_anew(
    factors: tuple[nn.Parameter, nn.Parameter], monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = Branch(*factors)
    first = added(branch, SOME)
    monkeypatch.setattr("palp.branch._routed", None)  # which a second call would need
    again = Routing(BATCH, (2, 0), torch.tensor([2, 0]), 0.5)
    assert torch.equal(added(branch, again), first)


@torch.inference_mode()
def test_slots_made_in_inference_mode_are_never_kept() -> None:
    factors = nn.Parameter(torch.randn(SLOTS, RANK, IN)), nn.Parameter(torch.randn(SLOTS, OUT, RANK))
    branch = Branch(*factors)
    for _ in range(2):
        torch.testing.assert_close(added(branch, SOME), expected(factors, SOME))
        factors[0].mul_(3.0)


def test_with_gradients_they_reach_the_slots_of_the_route_alone(factors: tuple[nn.Parameter, nn.Parameter]) -> None:
    branch, output = Branch(*factors), torch.zeros(BATCH, TOKENS, OUT)
    added(branch, SOME)  # leaves something kept
    branch.add(output, torch.ones(BATCH, TOKENS, IN), SOME).sum().backward()
    assert torch.equal(output, torch.zeros_like(output))
    for factor in factors:
        assert factor.grad is not None
        assert [bool(row.any()) for row in factor.grad] == [True, False, True]


@pytest.mark.parametrize(
    ("slots", "run"), [([0], 1), ([1, 1], 2), ([0, 0, 1, 1], 2), ([0, 1, 1, 1], 1), ([2] * 6 + [0] * 3, 3)]
)
def test_runs_are_as_long_as_all_allow(slots: list[int], run: int) -> None:
    assert common_run(slots) == run
