"""Training the embedded base's parts: the loss, and resuming bit for bit."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn
from transformers import CLIPTokenizer

from palp.base.icons import train_judges
from palp.base.icons.architecture import build_scheduler
from palp.base.icons.checkpoint import follow
from palp.base.icons.codec import build_autoencoder, encode, patch_latents, patch_matrix, set_encoder
from palp.base.icons.dataset import to_tensor
from palp.base.icons.decoder import DecoderSettings, DecoderTraining, reconstruction_loss
from palp.base.icons.denoiser import DenoiserSettings, DenoiserTraining, denoising_loss
from palp.base.icons.inverse import set_decoder
from palp.base.icons.judges import build_judges
from palp.base.icons.train_judges import JudgeSettings, JudgeTraining, linear_codec, render_judge_chunk
from palp.base.last_stages import FILE, shorten
from palp.base.schedule import NoiseSchedule
from palp.errors import NonFiniteLossError
from tests.icons import assert_same, latent_set, narrow, renders, tokenizer_in

CPU = torch.device("cpu")
LEARNED = 0.99  # of the loss: what principal components left out of a picture is little; 0.975 is seen
LINEAR = 4e-4  # of [-1, 1]: rounding of float32, through all stages; 1.4e-4 is seen


class Training(Protocol):
    @property
    def model(self) -> nn.Module: ...
    @property
    def average(self) -> nn.Module: ...

    @property
    def seen(self) -> int: ...
    def run(self) -> Iterator[float]: ...
    def save(self, path: Path) -> None: ...
    def load(self, path: Path) -> None: ...


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return tokenizer_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def vae() -> AutoencoderTiny:
    torch.manual_seed(0)
    built = build_autoencoder()
    set_encoder(built, renders(16))
    set_decoder(built, to_tensor(renders(4)))
    return built


@pytest.fixture(scope="module")
def judge_chunks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("judges")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_judges, "CHUNK", 12)
        return [render_judge_chunk(folder, index) for index in range(2)]


def steps(training: Training, count: int) -> list[float]:
    return list(itertools.islice(training.run(), count))


def assert_resumes(build: Callable[[], Training], path: Path) -> None:
    """Two steps, saved, and a third are three steps."""
    through, stopped, resumed = build(), build(), build()
    losses = steps(through, 3)
    assert steps(stopped, 2) == losses[:2]
    stopped.save(path)
    resumed.load(path)
    assert steps(resumed, 1) == losses[2:]
    assert resumed.seen == through.seen
    assert_same(resumed.model.state_dict(), through.model.state_dict())
    assert_same(resumed.average.state_dict(), through.average.state_dict())


def test_the_denoiser_resumes_bit_for_bit(
    tokenizer: CLIPTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch)
    data, settings = latent_set(), DenoiserSettings(pictures=100, batch=2, warmup=4)
    assert_resumes(lambda: DenoiserTraining(tokenizer, data, settings, CPU), tmp_path / "state.safetensors")


def test_the_decoder_resumes_bit_for_bit(vae: AutoencoderTiny, tmp_path: Path) -> None:
    pictures, settings = renders(4), DecoderSettings(pictures=100, batch=1, warmup=4)

    def build() -> DecoderTraining:
        twin = build_autoencoder()
        twin.load_state_dict(vae.state_dict())
        return DecoderTraining(twin, pictures, settings, CPU)

    assert_resumes(build, tmp_path / "state.safetensors")


@pytest.mark.parametrize("which", [0, 1], ids=["attributes", "clip"])
def test_a_judge_resumes_bit_for_bit(
    vae: AutoencoderTiny, judge_chunks: list[Path], tmp_path: Path, which: int
) -> None:
    codec, settings = linear_codec(vae, CPU), JudgeSettings(pictures=100, batch=4)

    def build() -> JudgeTraining:
        torch.manual_seed(0)
        return JudgeTraining(build_judges()[which], judge_chunks, codec, settings)

    assert_resumes(build, tmp_path / "state.safetensors")


def test_training_moves_the_model_and_its_average(tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    settings = DenoiserSettings(pictures=100, batch=2, warmup=1)
    training = DenoiserTraining(tokenizer, latent_set(), settings, CPU)
    before = {name: value.clone() for name, value in training.average.named_parameters()}
    steps(training, 2)
    moved = {name for name, value in training.average.named_parameters() if not torch.equal(value, before[name])}
    assert moved == before.keys()


def test_a_loss_that_is_not_finite_stops_with_its_step(
    tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch)
    data = latent_set()
    training = DenoiserTraining(tokenizer, data, DenoiserSettings(pictures=100, batch=2, warmup=1), CPU)
    steps(training, 1)
    data.latents.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="step 1"):
        steps(training, 1)


def test_denoising_loss_by_hand() -> None:
    """The error of v when x0 is said to be zero: x0 / s, weighted cell by cell."""
    schedule = NoiseSchedule.from_config(build_scheduler().config, CPU)
    x0, noise, weight = (torch.randn(2, 4, 3, 3) for _ in range(3))
    t = torch.tensor([300, 900])
    a = schedule.alphas_cumprod[t].sqrt().view(2, 1, 1, 1)
    s = (1 - schedule.alphas_cumprod[t]).sqrt().view(2, 1, 1, 1)
    asked: list[Tensor] = []

    class Zero(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, hidden: Tensor) -> SimpleNamespace:
            asked.append(x_t)
            return SimpleNamespace(sample=torch.zeros_like(x_t))

    loss = denoising_loss(Zero(), schedule, x0, noise, t, torch.zeros(2, 1, 1), weight)
    expected = (weight * (x0 / s) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(asked[0], a * x0 + s * noise)


def test_reconstruction_loss_by_hand() -> None:
    rebuilt = torch.tensor([0.5, -0.5]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    pictures = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    torch.testing.assert_close(reconstruction_loss(rebuilt, pictures), torch.tensor([0.25 + 0.01, 1.0 + 0.02]))


def test_the_decoder_learns_and_the_latents_stay(vae: AutoencoderTiny) -> None:
    pictures = renders(1)
    shown = to_tensor(pictures)
    latents = encode(vae, shown)
    fixed = {name: value.clone() for name, value in vae.decoder.layers[-1].state_dict().items()}
    settings = DecoderSettings(pictures=10_000, batch=1, learning_rate=1e-4, warmup=1, latent_noise=0.0)
    losses = steps(DecoderTraining(vae, pictures, settings, CPU), 40)
    assert losses[-1] < LEARNED * losses[0]  # always the same picture, as it is
    assert torch.equal(encode(vae, shown), latents)
    assert_same(vae.decoder.layers[-1].state_dict(), fixed)


def test_the_last_stages_are_one_map_a_cell(vae: AutoencoderTiny, tmp_path: Path) -> None:
    pictures = to_tensor(renders(2))
    training = DecoderTraining(vae, renders(2), DecoderSettings(pictures=200, batch=2, warmup=1), CPU)
    steps(training, 3)
    training.short.last_stages.write(tmp_path / FILE)
    with torch.no_grad():
        rebuilt = training.short(patch_latents(pictures, patch_matrix(vae)) * training.amplitude)
        latents = vae.encode(pictures).latents
        decoded = vae.decode(latents).sample
        short = copy.deepcopy(vae)
        shorten(short, tmp_path)
        torch.testing.assert_close(short.decode(latents).sample, decoded, atol=LINEAR, rtol=0)
    torch.testing.assert_close(rebuilt, decoded, atol=LINEAR, rtol=0)


def test_rates_rise_and_fall(vae: AutoencoderTiny, tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    settings = DenoiserSettings(pictures=1000, warmup=100, decay=0.5)
    denoiser = DenoiserTraining(tokenizer, latent_set(), settings, CPU)
    assert denoiser.rate(49) == 0.5
    assert denoiser.rate(400) == 1
    assert denoiser.rate(750) == 0.5
    assert denoiser.rate(1000) == 0
    decoder = DecoderTraining(vae, renders(1), DecoderSettings(pictures=1000, warmup=100), CPU)
    assert decoder.rate(500) == pytest.approx(0.5)
    assert decoder.rate(1000) == pytest.approx(0)


def test_the_average_follows() -> None:
    average, model = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([3.0, 5.0]))
        assert model.running_mean is not None
        model.running_mean.fill_(7)
    follow(average, model, horizon=4.0)
    assert average.weight.tolist() == [1.5, 2.0]
    assert average.running_mean is not None
    assert average.running_mean.tolist() == [7, 7]
    follow(average, model, horizon=0.5)
    assert average.weight.tolist() == [3, 5]
