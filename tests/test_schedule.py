"""The noise schedule against diffusers' own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from palp.base import NoiseSchedule
from palp.errors import BaseLoadError

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
ROUNDED: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # float32, another order of the same operations

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
T = torch.tensor([0, 1, 250, 500, 998, 999])


def make(prediction: str, zero_terminal: bool = False) -> tuple[NoiseSchedule, Any, Any]:
    config = {**BETAS, "prediction_type": prediction, "rescale_betas_zero_snr": zero_terminal}
    ddpm: Any = DDPMScheduler(**config, clip_sample=False)
    ddim: Any = DDIMScheduler(**config, clip_sample=False)
    return NoiseSchedule.from_config(ddim.config), ddpm, ddim


def draws() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, len(T), 4, 3, 3, generator=generator)
    return x0, noise


@pytest.mark.parametrize("zero_terminal", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_levels_and_targets_are_those_of_ddpm(prediction: str, zero_terminal: bool) -> None:
    schedule, ddpm, _ = make(prediction, zero_terminal)
    x0, noise = draws()
    torch.testing.assert_close(schedule.alphas_cumprod, ddpm.alphas_cumprod, **EXACT)
    torch.testing.assert_close(schedule.add_noise(x0, noise, T), ddpm.add_noise(x0, noise, T), **EXACT)
    target = {"epsilon": noise, "v_prediction": ddpm.get_velocity(x0, noise, T), "sample": x0}[prediction]
    torch.testing.assert_close(schedule.target(x0, noise, T), target, **EXACT)


@pytest.mark.parametrize("zero_terminal", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_conversions_are_those_of_a_ddim_step(prediction: str, zero_terminal: bool) -> None:
    schedule, _, ddim = make(prediction, zero_terminal)
    x_t, output = draws()
    ddim.set_timesteps(1000)
    steps = T[:-1] if zero_terminal and prediction == "epsilon" else T  # x0 of noise alone is undefined
    for row, t in enumerate(steps.tolist()):
        one = slice(row, row + 1)
        x0 = ddim.step(output[one], t, x_t[one]).pred_original_sample
        got = schedule.to_x0(output[one], x_t[one], T[one])
        torch.testing.assert_close(got, x0, **ROUNDED)


@pytest.mark.parametrize("zero_terminal", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_perfect_output_gives_back_noise_and_picture(prediction: str, zero_terminal: bool) -> None:
    schedule, _, _ = make(prediction, zero_terminal)
    x0, noise = (draw.double() for draw in draws())
    x_t, output = schedule.add_noise(x0, noise, T), schedule.target(x0, noise, T)
    torch.testing.assert_close(schedule.to_noise(output, x_t, T), noise, rtol=1e-6, atol=1e-6)
    rows = slice(0, -1) if zero_terminal and prediction == "epsilon" else slice(None)
    got = schedule.to_x0(output, x_t, T)[rows]
    torch.testing.assert_close(got, x0[rows], rtol=1e-4, atol=1e-4)  # a is float32 and as small as 0.05


def test_zero_terminal_step_is_noise_alone_and_finite_from_v() -> None:
    schedule, _, _ = make("v_prediction", zero_terminal=True)
    x0, noise = draws()
    last = torch.full((len(x0),), 999)
    torch.testing.assert_close(schedule.a(last), torch.zeros(len(x0), 1, 1, 1), **EXACT)
    x_t = schedule.add_noise(x0, noise, last)
    v = schedule.target(x0, noise, last)
    torch.testing.assert_close(schedule.to_x0(v, x_t, last), x0, **EXACT)
    torch.testing.assert_close(schedule.to_noise(v, x_t, last), noise, **EXACT)
    assert schedule.snr(last).tolist() == [0.0] * len(x0)


def test_min_snr_weights_by_hand() -> None:
    alphas = torch.tensor([0.9, 0.5, 0.0])  # snr 9, 1, 0
    t = torch.arange(3)
    noise_form = NoiseSchedule(alphas, "epsilon").min_snr_weight(t, 5.0)
    torch.testing.assert_close(noise_form, torch.tensor([5 / 9, 1.0, 1.0]))
    v_form = NoiseSchedule(alphas, "v_prediction").min_snr_weight(t, 5.0)
    torch.testing.assert_close(v_form, torch.tensor([5 / 10, 1 / 2, 0.0]))
    torch.testing.assert_close(NoiseSchedule(alphas, "sample").min_snr_weight(t, 5.0), v_form)


def test_the_loss_of_a_predicted_picture_is_that_of_v() -> None:
    schedule, _, _ = make("sample")
    x0, noise = draws()
    t = T.clamp(min=250)  # above, the weight is bounded
    x_t, output = schedule.add_noise(x0, noise, t), x0 + 0.1 * noise.flip(0)
    v_schedule, _, _ = make("v_prediction")
    v = schedule.a(t) * schedule.to_noise(output, x_t, t) - schedule.s(t) * output
    expected = (v - v_schedule.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
    got = schedule.loss_weight(t) * (output - schedule.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"_class_name": "DDIMScheduler", **BETAS, "prediction_type": "flow"},
    ],
)
def test_other_processes_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(BaseLoadError, match=config["_class_name"]):
        NoiseSchedule.from_config(config)
