"""The noise schedule of a base: x_t = a x0 + s noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palp.errors import BaseLoadError

Prediction = Literal["epsilon", "v_prediction", "sample"]
SMALLEST_S2 = 0.01  # bound of 1 / s² in weights


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Variance-preserving noise levels and what the denoiser predicts.

    x_t = a x0 + s noise, a = √ᾱ_t, s = √(1 − ᾱ_t); v = a noise − s x0.

    Arguments:
        alphas_cumprod: ᾱ_t for t = 0 … T − 1; may end in zero (zero-terminal SNR).
        prediction: native output of the denoiser.
    """

    alphas_cumprod: Float[Tensor, " T"]
    prediction: Prediction

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: torch.device | str = "cpu") -> NoiseSchedule:
        """The schedule of a diffusers scheduler configuration.

        Raises:
            BaseLoadError: another kind of process (flow matching, EDM) or of prediction.
        """
        from diffusers import DDIMScheduler

        prediction = config.get("prediction_type", "epsilon")
        if "beta_schedule" not in config or prediction not in get_args(Prediction):
            raise BaseLoadError(
                f"got a base with scheduler {config.get('_class_name')} predicting {prediction!r}, expected "
                f"a beta schedule and {' or '.join(get_args(Prediction))}; use an SD 1.x, SD 2.x or SDXL base"
            )
        alphas = DDIMScheduler.from_config(config).alphas_cumprod
        return cls(alphas.to(device=device, dtype=torch.float32), cast(Prediction, prediction))

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def a(self, t: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 1 1"]:
        """√ᾱ_t, the factor of the picture."""
        return self.alphas_cumprod[t].sqrt()[:, None, None, None]

    def s(self, t: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 1 1"]:
        """√(1 − ᾱ_t), the factor of the noise."""
        return (1 - self.alphas_cumprod[t]).sqrt()[:, None, None, None]

    def add_noise(
        self, x0: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch c h w"]:
        """x_t = a x0 + s noise."""
        return self.a(t) * x0 + self.s(t) * noise

    def to_noise(
        self,
        output: Float[Tensor, "batch c h w"],
        x_t: Float[Tensor, "batch c h w"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """Native output as noise: itself, a v + s x_t, or (x_t − a x0) / s."""
        if self.prediction == "epsilon":
            return output
        if self.prediction == "sample":
            return (x_t - self.a(t) * output) / self.s(t)
        return self.a(t) * output + self.s(t) * x_t

    def to_x0(
        self,
        output: Float[Tensor, "batch c h w"],
        x_t: Float[Tensor, "batch c h w"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch c h w"]:
        """Native output as the clean estimate: (x_t − s noise) / a, a x_t − s v (finite where a = 0), or itself."""
        if self.prediction == "epsilon":
            return (x_t - self.s(t) * output) / self.a(t)
        if self.prediction == "sample":
            return output
        return self.a(t) * x_t - self.s(t) * output

    def target(
        self, x0: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch c h w"]:
        """Regression target in native form: noise, v = a noise − s x0, or x0."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x0
        return self.a(t) * noise - self.s(t) * x0

    def loss_weight(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Weight of the native squared error in a loss: one; for x0, 1 / s², which makes it the squared error of v."""
        if self.prediction == "sample":
            return 1 / (1 - self.alphas_cumprod[t]).clamp(min=SMALLEST_S2)
        return torch.ones_like(self.alphas_cumprod[t])

    def snr(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Signal-to-noise ratio a² / s²."""
        alphas = self.alphas_cumprod[t]
        return alphas / (1 - alphas)

    def min_snr_weight(self, t: Int[Tensor, " batch"], gamma: float) -> Float[Tensor, " batch"]:
        """Factor on the loss: min(snr, γ) / snr for noise, min(snr, γ) / (snr + 1) for v, and for x0 weighed as v.

        Hang et al. 2023, arXiv 2303.09556. At snr = 0 the noise form takes its limit, one.
        """
        snr = self.snr(t)
        if self.prediction == "epsilon":
            return gamma / snr.clamp(min=gamma)
        return snr.clamp(max=gamma) / (snr + 1)
