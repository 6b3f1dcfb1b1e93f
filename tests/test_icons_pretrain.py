"""Pre-training from end to end on a microscopic plan: killed, resumed, exported, judged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from palp.base import Base, load_base, sample
from palp.base.icons import dataset, judges, pretrain, train_judges
from palp.base.icons.decoder import DecoderSettings, DecoderTraining
from palp.base.icons.denoiser import DenoiserSettings, DenoiserTraining
from palp.base.icons.evaluate import ATTRIBUTES, held_out_scenes
from palp.base.icons.judges import load_judges
from palp.base.icons.pretrain import PretrainSettings
from palp.base.icons.train_judges import JudgeSettings, JudgeTraining
from palp.base.last_stages import FILE
from palp.cli import app
from palp.errors import InputError
from tests.icons import assert_same, latent_set, narrow, tokenizer_in

PLAN = PretrainSettings(
    chunks=3,
    judge_chunks=1,
    sheet_every=1000,
    denoiser=DenoiserSettings(pictures=6, batch=2, warmup=2),
    decoder=DecoderSettings(pictures=3, batch=1, warmup=1),
    judges=JudgeSettings(pictures=8, batch=4),
)
SAME_PICTURE = 2e-3  # of [-1, 1]: float32, our attention against diffusers', twenty steps


class Killed(Exception):
    """What stops a run in these tests."""


def small(patch: pytest.MonkeyPatch) -> None:
    """Chunks of four pictures, a narrow U-Net, one process."""
    narrow(patch)
    for module in (dataset, train_judges):
        patch.setattr(module, "CHUNK", 4)
    patch.setattr(pretrain, "REDRAWN_STEPS", (1, 2))
    patch.setattr(pretrain, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(1))


def run(folder: Path) -> Path:
    """Pre-train in `folder` from where it stands; returns the folder of the weights."""
    torch.manual_seed(int(torch.randint(1000, ())))  # a process starts with any seed
    pretrain.pretrain(folder / "runs", folder / "weights", PLAN, torch.device("cpu"))
    return folder / "weights"


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run that nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def judged_by(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The exported judges in the place of the shipped ones."""
    monkeypatch.setattr(judges, "FOLDER", weights / "judges")
    load_judges.cache_clear()
    yield
    load_judges.cache_clear()


def killed_after(patch: pytest.MonkeyPatch, owner: object, name: str, calls: int) -> None:
    """Let a function return so many times, and then raise instead."""
    original: Callable[..., Any] = getattr(owner, name)
    left = [calls]

    def until_killed(*args: Any, **kwargs: Any) -> Any:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return original(*args, **kwargs)

    patch.setattr(owner, name, until_killed)


def test_a_killed_run_gives_the_weights_of_a_whole_one(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(pretrain, "SAVE_EVERY_S", -1.0)  # after every step
    for owner, name, calls in [
        (pretrain, "load_pictures", 0),  # two stages in: rendered, encoder not set
        (pretrain, "cache_stage", 0),
        (DenoiserTraining, "_update", 2),
        (DecoderTraining, "_step", 1),
        (pretrain, "export_pipeline", 0),
        (JudgeTraining, "_step", 1),
        (pretrain, "export_judge", 1),
    ]:
        with monkeypatch.context() as patch:
            killed_after(patch, owner, name, calls)
            with pytest.raises(Killed):
                run(tmp_path)
    resumed = run(tmp_path)
    files = sorted(path.relative_to(weights) for path in weights.rglob("*.safetensors"))
    assert len(files) == 6
    for file in files:
        assert_same(load_file(resumed / file), load_file(weights / file))


def test_other_chunks_are_other_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    monkeypatch.setattr(pretrain, "DenoiserTraining", Mock(side_effect=Killed))  # all is cached before it
    seen = []
    for first in (0, 2):
        with pytest.raises(Killed):
            pretrain.pretrain(tmp_path, tmp_path / "weights", replace(PLAN, first_chunk=first), torch.device("cpu"))
        seen.append(load_file(tmp_path / f"latents-{first}-{first + 3}.safetensors")["latents"])
    assert sorted(path.stem for path in (tmp_path / "pictures").iterdir()) == [f"pictures-{n:05d}" for n in range(5)]
    shared = 4  # of a chunk: the third of the first run, which the second one starts with
    assert torch.equal(seen[0][-shared:], seen[1][:shared])
    assert not torch.equal(seen[0], seen[1])


def test_a_run_starts_from_finished_weights(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    still = replace(
        PLAN,
        denoiser=replace(PLAN.denoiser, pictures=0),
        decoder=replace(PLAN.decoder, pictures=0),
        judges=replace(PLAN.judges, pictures=0),
    )
    pretrain.pretrain(tmp_path / "runs", tmp_path / "weights", still, torch.device("cpu"), start=weights)
    for path in weights.rglob("*.safetensors"):
        assert_same(load_file(tmp_path / "weights" / path.relative_to(weights)), load_file(path))


def test_judges_are_trained_beside_a_base_that_is_there(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    shutil.copytree(weights / "vae", tmp_path / "weights/vae")
    pretrain.pretrain_judges(tmp_path, tmp_path / "weights", PLAN, torch.device("cpu"), names=["clip"])
    (file,) = (tmp_path / "weights/judges").iterdir()
    assert file.name == "clip.safetensors"
    assert_same(load_file(file), load_file(weights / "judges" / file.name))


@pytest.mark.parametrize(
    ("only", "complaint"),
    [
        ("clip", "nothing has no base, which its judges are trained for"),
        ("style", "there is no judge 'style': name some of"),
    ],
)
def test_judges_of_nothing_are_refused(
    only: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "pretrain-base",
        "--only",
        only,
        "--out",
        str(tmp_path / "runs"),
        "--weights",
        str(tmp_path / "nothing"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in result.output
    assert not any(tmp_path.iterdir())


def test_weights_of_another_shape_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of another shape"):
        DenoiserTraining(tokenizer_in(tmp_path), latent_set(), PLAN.denoiser, torch.device("cpu")).begin_from(weights)


def test_sheets_leave_the_training_as_it_is(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    monkeypatch.setattr("palp.base.icons.export.preview_captions", lambda: ["a photo of a cat"])
    plan = PretrainSettings(**(vars(PLAN) | {"sheet_every": 4}))
    monkeypatch.setattr(pretrain, "render_judge_chunk", lambda *_: pytest.fail("the base comes first"))
    with pytest.raises(pytest.fail.Exception):
        pretrain.pretrain(tmp_path / "runs", tmp_path / "weights", plan, torch.device("cpu"))
    (sheet,) = (tmp_path / "runs/sheets").iterdir()
    assert size(sheet) == (8 * 128, 128)
    for name in ("unet", "vae"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert_same(load_file(tmp_path / "weights" / file), load_file(weights / file))


def test_weights_are_float16_and_maps_that_add_up_float32(weights: Path) -> None:
    for path in weights.rglob("*.safetensors"):
        dtypes = {value.dtype for name, value in load_file(path).items() if "num_batches" not in name}
        assert dtypes == {torch.float32 if path.name == FILE else torch.float16}, path


def test_plain_diffusers_draws_what_we_draw(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(weights, dtype=torch.float32)
    heard = [record.message for record in caplog.records]
    assert all(message.startswith("Expected types for vae") for message in heard), heard  # no AutoencoderKL
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a photo of a cat", "a pencil sketch of an owl on a beach at night"]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = pipeline(prompts, num_inference_steps=20, guidance_scale=4.0, generator=generators, output_type="pt")
    base = load_base(str(weights), device="cpu", dtype="float32")
    assert (base.resolution, base.latent_shape) == (128, (64, 8, 8))
    null = base.encode_prompts([""])
    pictures = sample(base, base.encode_prompts(prompts), null, [3, 4], steps=20, guidance=4.0)
    torch.testing.assert_close((pictures + 1) / 2, expected.images, atol=SAME_PICTURE, rtol=0)


def test_what_is_loaded_is_what_was_trained(weights: Path) -> None:
    base = load_base(str(weights), device="cpu", dtype="float32")
    assert isinstance(base, Base)
    saved = load_file(weights / "unet/diffusion_pytorch_model.safetensors")
    assert_same(base.unet.state_dict(), {name: value.float() for name, value in saved.items()})


@pytest.mark.usefixtures("judged_by")
def test_evaluate_base_writes_every_metric(weights: Path, tmp_path: Path) -> None:
    count, out = 12, tmp_path / "base.json"
    arguments = ["evaluate-base", "--base", str(weights), "--count", str(count), "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["rows"]
    assert set(rows["generated"]) == {"vae_psnr_db", *ATTRIBUTES}
    assert set(rows["rendered"]) == set(ATTRIBUTES)
    for row in rows.values():
        for name, metric in row.items():
            assert set(metric) == {"value", "low", "high", "n"}
            assert metric["low"] <= metric["value"] <= metric["high"], name
    scenes = held_out_scenes(count)
    assert rows["generated"]["subject"]["n"] == count
    assert rows["generated"]["weather"]["n"] == sum(scene.weather != "none" for scene in scenes)
    assert rows["generated"]["companion"]["n"] == sum(scene.companion is not None for scene in scenes)
    assert 5 < rows["generated"]["vae_psnr_db"]["value"] < 30
    assert size(out.with_suffix(".png")) == (8 * 128, 2 * 128)
    assert "vae_psnr_db" in result.output


@pytest.mark.usefixtures("judged_by")
def test_evaluate_base_without_a_word_that_is_asked_for(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "base.json"
    result = CliRunner().invoke(
        app, ["evaluate-base", "--base", str(weights), "--count", "1", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert "subject" in json.loads(out.read_text())["rows"]["generated"]
