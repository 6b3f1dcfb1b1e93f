"""Guidance rules as pure functions: directions, signs, gradients, and which branches are evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from palp.errors import InputError
from palp.guidance import RULES, Draw, Prompt, find_rule
from palp.guidance.regional import region
from palp.train import TrainSettings

BATCH, T = 3, 1000
NUMEL = 4 * 8 * 8
SETTINGS = TrainSettings(alpha=4.0, beta=2.0, gamma=1.5)
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-7}


@dataclass
class Fake:
    """Denoisers that answer prompt i with gain · (i + 1) · x_t, and take down what they were asked."""

    gain: Tensor
    asked: list[tuple[str, tuple[Prompt, ...]]] = field(default_factory=list)

    def _answer(self, who: str, shift: float, x_t: Tensor, prompts: tuple[Prompt, ...]) -> tuple[Tensor, ...]:
        self.asked.append((who, prompts))
        names = ["null", "clean", "personal", "photo", "target", "negative"]
        return tuple(self.gain * (names.index(prompt) + 1 + shift) * torch.sin(x_t) for prompt in prompts)

    def base(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        return self._answer("base", 0.0, x_t, prompts)

    def student(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        return self._answer("student", 0.5, x_t, prompts)

    def teacher(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
        return self._answer("teacher", 0.25, x_t, prompts)


def draw() -> Draw:
    """Random latents at three noise levels, the first under a fifth of the schedule."""
    x0, noise, fresh, pred = torch.randn(4, BATCH, 4, 8, 8).unbind()
    a = torch.tensor([0.95, 0.6, 0.1])[:, None, None, None]
    s = (1 - a**2).sqrt()
    x_t = a * x0 + s * noise
    return Draw(
        x0=x0,
        noise=noise,
        fresh_noise=fresh,
        x_t=x_t,
        t=torch.tensor([150, 500, 900]),
        timesteps=T,
        a=a,
        s=s,
        weight=torch.tensor([1.0, 2.0, 0.5]),
        pred=pred.requires_grad_(),
        x0_pred=(x_t - s * pred.detach()) / a,
    )


def slow_direction(name: str, at: Draw, fake: Fake, row: int) -> Tensor:
    """d of one sample by the paper's formulas, one branch at a time; the loss is −w ⟨d, pred⟩ / dims."""
    a, s = at.a[row], at.s[row]
    x0_hat = (at.x_t[row] - s * at.pred[row].detach()) / a
    noise = at.fresh_noise[row] if name == "palp_fresh_noise" else at.noise[row]
    x_hat, t = a * x0_hat + s * noise, at.t[row]

    def base(prompt: Prompt) -> Tensor:
        return fake.base(x_hat, t, prompt)[0].detach()

    def student(prompt: Prompt) -> Tensor:
        return fake.student(x_hat, t, prompt)[0].detach()

    guided = (1 - 4.0) * base("null") + 4.0 * base("clean")
    if name == "sds":
        return guided - at.noise[row]
    if name == "nfsd":
        domain = base("null") if int(t) < 200 else base("null") - base("negative")
        return domain + 4.0 * (base("clean") - base("null"))
    d = guided - ((1 - 2.0) * student("null") + 2.0 * student("personal"))
    return d * s / a if name == "palp_no_rescale" else d


PULLS = ["palp", "palp_fresh_noise", "palp_no_rescale", "sds", "nfsd"]


@pytest.mark.parametrize("name", PULLS)
def test_loss_and_gradient_are_those_of_the_paper(name: str) -> None:
    at, gain = draw(), torch.tensor(0.3, requires_grad=True)
    fake = Fake(gain)
    loss = find_rule(name).loss(at, fake, SETTINGS)
    d = torch.stack([slow_direction(name, at, fake, row) for row in range(BATCH)])
    w = at.weight[:, None, None, None]
    torch.testing.assert_close(loss, -(w * d * at.pred).flatten(1).sum(1) / NUMEL, **EXACT)
    loss.sum().backward()
    assert at.pred.grad is not None
    torch.testing.assert_close(at.pred.grad, -w * d / NUMEL, **EXACT)
    assert gain.grad is None, "the branches are not differentiated"


def test_descent_moves_the_prediction_toward_the_bases_guided_noise() -> None:
    """With β = 1 and a student that says `pred` again, each step shortens the way to G^α of the base."""
    at = draw()

    class Same(Fake):
        def student(self, x_t: Tensor, t: Tensor, *prompts: Prompt) -> tuple[Tensor, ...]:
            return tuple(at.pred.detach() for _ in prompts)

    fake = Same(torch.tensor(0.3))
    find_rule("palp").loss(at, fake, replace(SETTINGS, beta=1.0)).sum().backward()
    x_hat = at.a * at.x0_pred + at.s * at.noise
    null, clean = fake.base(x_hat, at.t, "null", "clean")
    goal = null + SETTINGS.alpha * (clean - null)
    assert at.pred.grad is not None
    moved = at.pred.detach() - 10.0 * at.pred.grad
    before, after = ((p - goal).flatten(1).norm(dim=1) for p in (at.pred.detach(), moved))
    assert (after < before).all()


@pytest.mark.parametrize(
    ("name", "alpha", "beta", "asked"),
    [
        ("palp", 4.0, 2.0, [("base", ("null", "clean")), ("student", ("null", "personal"))]),
        ("palp", 4.0, 1.0, [("base", ("null", "clean")), ("student", ("personal",))]),
        ("palp", 1.0, 0.0, [("base", ("clean",)), ("student", ("null",))]),
        ("sds", 4.0, 2.0, [("base", ("null", "clean"))]),
        ("nfsd", 4.0, 2.0, [("base", ("null", "clean", "negative"))]),
        ("none", 4.0, 2.0, []),
        ("composed", 4.0, 2.0, [("teacher", ("personal",)), ("base", ("clean", "photo"))]),
        ("regional", 4.0, 2.0, [("teacher", ("target", "personal")), ("base", ("clean", "photo"))]),
    ],
)
def test_one_call_a_model_and_no_branch_of_weight_zero(
    name: str, alpha: float, beta: float, asked: list[tuple[str, tuple[Prompt, ...]]]
) -> None:
    fake = Fake(torch.tensor(0.3))
    find_rule(name).loss(draw(), fake, replace(SETTINGS, alpha=alpha, beta=beta))
    assert fake.asked == asked


def test_composed() -> None:
    at, gain = draw(), torch.tensor(0.3)
    loss = find_rule("composed").loss(at, Fake(gain), SETTINGS)
    fake = Fake(gain)
    for row in range(BATCH):
        x_t, t = at.x_t[row], at.t[row]
        goal = fake.teacher(x_t, t, "personal")[0] + 1.5 * (
            fake.base(x_t, t, "clean")[0] - fake.base(x_t, t, "photo")[0]
        )
        expected = at.weight[row] * (at.pred[row] - goal).square().sum() / NUMEL
        torch.testing.assert_close(loss[row], expected, **EXACT)


def test_regional() -> None:
    at, gain = draw(), torch.tensor(0.3)
    loss = find_rule("regional").loss(at, Fake(gain), SETTINGS)
    fake = Fake(gain)
    for row in range(BATCH):
        x_t, t = at.x_t[row : row + 1], at.t[row : row + 1]
        subject, personal = fake.teacher(x_t, t, "target", "personal")
        clean, photo = fake.base(x_t, t, "clean", "photo")
        goal = subject + 1.5 * (1 - region(personal - photo)) * (clean - subject)
        expected = at.weight[row] * (at.pred[row : row + 1] - goal).square().sum() / NUMEL
        torch.testing.assert_close(loss[row], expected, **EXACT)


def test_a_region_is_where_a_change_is_large_whatever_its_size() -> None:
    change = 0.01 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    change[:, :, 2:6, 2:6] *= 50
    mask = region(change)
    assert mask.shape == (2, 1, 8, 8)
    assert mask[:, 0, 3:5, 3:5].min() > 0.9
    assert max(mask[:, 0, 0].max(), mask[:, 0, -1].max(), mask[:, 0, :, -1].max()) < 0.1
    torch.testing.assert_close(region(1000 * change), mask, rtol=0, atol=1e-5)
    assert region(torch.zeros(1, 4, 8, 8)).isfinite().all(), "no change at all"


def test_none_is_zero_with_gradient_zero() -> None:
    at = draw()
    assert torch.equal(find_rule("none").loss(at, Fake(torch.tensor(1.0)), SETTINGS), torch.zeros(BATCH))


def test_rows_of_a_draw() -> None:
    at = draw()
    some = at.rows(torch.tensor([2, 0]))
    assert torch.equal(some.pred, at.pred[[2, 0]])
    assert torch.equal(some.t, torch.tensor([900, 150]))
    assert at.rows(None) is at


def test_rules_by_name() -> None:
    assert sorted(RULES) == sorted([*PULLS, "none", "composed", "regional"])
    assert {name for name, rule in RULES.items() if rule.residual} == {"composed", "regional"}
    with pytest.raises(InputError, match=r"no guidance rule 'dds'.*composed.*sds"):
        find_rule("dds")
