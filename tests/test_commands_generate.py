"""palp-serve generate and palp-hyper demo: pictures, their names, their notes, the cache, and refusals."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import palp.recipes
import palp.sources
from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.compose import compose
from palp.draw import Picture, Sampling, draw
from palp.learn import Watch, learn
from palp.opening import Opening
from palp.runs import RunFolder
from palp.sheets import GAP, LABEL_WIDTH, SMALLEST_CELL, to_images
from palp.subjects import Subject
from palp.train import Job, TrainSettings
from tests.adapters import random_adapter
from tests.commands import PALP_HYPER, PALP_SERVE, files_in, invoke, refuses, succeeds, write_pictures
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a subject, two prompt adapters of another rank, and one of another base."""
    folder, base = tmp_path_factory.mktemp("adapters"), tiny_base("sd1")
    spec = AdapterSpec(base.fingerprint, base.sites(), rank=2, alpha=1.0)
    prompt = AdapterSpec(base.fingerprint, base.sites("cross"), rank=1, alpha=1.0)
    random_adapter(spec, 0, {"[V]": base.embedding_shapes()}).save(folder / "cat.safetensors")
    random_adapter(prompt, 1).save(folder / "beach.safetensors")
    random_adapter(prompt, 2).save(folder / "snow.safetensors")
    random_adapter(AdapterSpec("other:1", base.sites(), 2, 1.0), 0).save(folder / "other.safetensors")
    return folder


@pytest.fixture(scope="module")
def command(tiny_folder: Path) -> tuple[object, ...]:
    return ("generate", "--base", tiny_folder, "--dtype", "float32", "--steps", 2)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_every_prompt_with_every_seed_and_its_own_adapter(
    command: tuple[object, ...], adapters: Path, tmp_path: Path
) -> None:
    subject = ("--subject", adapters / "cat.safetensors", "--subject-scale", 0.5)
    both = ("--prompt-adapter", adapters / "beach.safetensors", "--prompt-adapter", adapters / "snow.safetensors")
    prompts = ("--prompt", "[V] one", "--prompt", "[V] two", "--seed", 5, "--seed", 6)
    out = json.loads(succeeds(PALP_SERVE, *command, *subject, *both, *prompts, "--out", tmp_path / "a.png", "--json"))
    assert [picture["path"] for picture in out["pictures"]] == [
        str(tmp_path / f"a-{number}.png") for number in (1, 2, 3, 4)
    ]
    alone = ("--prompt-adapter", adapters / "snow.safetensors", "--prompt", "[V] two", "--seed", 6)
    printed = succeeds(PALP_SERVE, *command, *subject, *alone, "--out", tmp_path / "alone.png")
    assert printed == f"{tmp_path / 'alone.png'}\n"
    assert np.abs(pixels(tmp_path / "a-4.png") - pixels(tmp_path / "alone.png")).max() <= 1  # rounding to 8 bits
    assert np.abs(pixels(tmp_path / "a-2.png") - pixels(tmp_path / "a-4.png")).max() > 10
    with Image.open(tmp_path / "a-4.png") as image:
        notes = dict(image.info)
    assert notes["prompt"] == "[V] two"
    assert (notes["seed"], notes["steps"], notes["guidance"], notes["scheduler"]) == ("6", "2", "7.5", "ddim")
    assert notes["base"] == tiny_base("sd1").fingerprint == out["base"]
    assert (notes["subject"], notes["subject_scale"]) == (str(adapters / "cat.safetensors"), "0.5")
    assert notes["subject_adapter"] == hashlib.sha256((adapters / "cat.safetensors").read_bytes()).hexdigest()
    snow = hashlib.sha256((adapters / "snow.safetensors").read_bytes()).hexdigest()
    assert notes["prompt_adapter"] == f"{adapters / 'snow.safetensors'} ({snow[:12]})"
    assert notes == {name: str(value) for name, value in out["pictures"][3].items() if name != "path"}


def test_a_prompt_adapter_says_how_strong_the_subject_is_beside_it(
    command: tuple[object, ...], adapters: Path, tmp_path: Path
) -> None:
    snow = Adapter.load(adapters / "snow.safetensors")
    replace(snow, metadata={"subject_scale": "0.5"}).save(tmp_path / "half.safetensors")
    subject = ("--prompt", "[V] one", "--subject", adapters / "cat.safetensors")
    half = (*subject, "--prompt-adapter", tmp_path / "half.safetensors")
    snow_on = (*subject, "--prompt-adapter", adapters / "snow.safetensors")

    def drawn(name: str, *options: object) -> np.ndarray:
        succeeds(PALP_SERVE, *command, *options, "--out", tmp_path / name)
        return pixels(tmp_path / name)

    assert np.array_equal(drawn("a.png", *half), drawn("b.png", *snow_on, "--subject-scale", 0.5))
    assert not np.array_equal(drawn("c.png", *snow_on), pixels(tmp_path / "a.png"))
    weaker = drawn("d.png", *half, "--prompt-adapter-scale", 0)
    assert np.array_equal(weaker, drawn("e.png", *subject, "--prompt-adapter", "off"))


def test_a_picture_opens_as_a_photo_of_the_subject_where_it_is_asked_to(
    command: tuple[object, ...], adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palp.recipes.opening_of", lambda name, share: Opening(share or 0.0, 0.25, 9.0))
    cat = Adapter.load(adapters / "cat.safetensors")
    for prompt, opening in (("a sketch of [V]", 0.6), ("a sketch of [V]", 0.0), ("a photo of [V]", 0.6)):
        options = ("--subject", adapters / "cat.safetensors", "--prompt", prompt, "--opening", opening)
        printed = succeeds(PALP_SERVE, *command, *options, "--steps", 4, "--out", tmp_path / "a.png", "--json")
        assert json.loads(printed)["pictures"][0]["opening"] == opening
        opens = opening == 0.6 and prompt != "a photo of [V]"
        picture = Picture(prompt, 0, cat.scaled(0.25) if opens else cat, cat if opens else None)
        expected = to_images(draw(tiny_base("sd1"), [picture], Sampling(4, opening=Opening(opening, guidance=9.0))))[0]
        assert np.abs(pixels(tmp_path / "a.png") - np.asarray(expected).astype(int)).max() <= 1  # rounding to 8 bits


def test_after_an_opening_a_prompt_adapter_is_as_weak_as_the_subject(
    command: tuple[object, ...], adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palp.recipes.opening_of", lambda name, share: Opening(0.6, 0.5))
    cat, snow = (Adapter.load(adapters / f"{name}.safetensors") for name in ("cat", "snow"))
    options = ("--subject", adapters / "cat.safetensors", "--prompt", "a sketch of [V]", "--steps", 4)
    succeeds(
        PALP_SERVE, *command, *options, "--prompt-adapter", adapters / "snow.safetensors", "--out", tmp_path / "a.png"
    )
    both = compose([(cat, 0.5), (snow, 0.5)])
    expected = draw(tiny_base("sd1"), [Picture("a sketch of [V]", 0, both, cat)], Sampling(4, opening=Opening(0.6)))
    assert np.abs(pixels(tmp_path / "a.png") - np.asarray(to_images(expected)[0]).astype(int)).max() <= 1  # 8 bits


def test_without_a_subject_the_base_draws(command: tuple[object, ...], tmp_path: Path) -> None:
    done = invoke(PALP_SERVE, *command, "--prompt", "a cat", "--out", tmp_path / "new" / "cat.png")
    assert (done.exit_code, "no prompt adapter" in done.stderr) == (0, False)
    assert files_in(tmp_path) == {"new/cat.png"}


def test_seeds_are_counted_on_and_one_sheet_shows_all(command: tuple[object, ...], tmp_path: Path) -> None:
    prompts = ("--prompt", "a cat", "--prompt", "a photo", "--seed", 8, "--count", 3)
    sheet = tmp_path / "grid.png"
    printed = succeeds(PALP_SERVE, *command, *prompts, "--out", tmp_path / "a.png", "--grid", sheet)
    assert printed.splitlines() == [*(str(tmp_path / f"a-{n}.png") for n in range(1, 7)), str(sheet)]
    with Image.open(tmp_path / "a-6.png") as image:
        assert (image.info["prompt"], image.info["seed"]) == ("a photo", "10")
    with Image.open(sheet) as image:
        assert (image.info["prompt"], image.info["seed"]) == ("a cat\na photo", "8\n9\n10")
        assert image.size[0] == LABEL_WIDTH + 2 * GAP + 3 * (SMALLEST_CELL + GAP)
        assert image.size[1] > 2 * (SMALLEST_CELL + GAP)


def test_pictures_are_learned_once(
    command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    quick = {"rank": 1, "steps": 2, "batch": 1}
    monkeypatch.setattr(palp.recipes, "PAPER", {"subject": quick})
    trained: list[Path] = []

    def counted(
        base: Base, job: Job, settings: TrainSettings, out: Path, subjects: Sequence[Subject], watch: Watch | None
    ) -> RunFolder:
        trained.append(out)
        return learn(base, job, settings, out, subjects, watch)

    monkeypatch.setattr(palp.sources, "learn", counted)
    pictures = write_pictures(tmp_path / "pictures")
    subject = ("--subject", pictures, "--prompt", "a [V]", "--out", tmp_path / "a.png")
    assert "--class" in refuses(PALP_SERVE, *command, *subject)
    assert "does not name the subject" in refuses(PALP_SERVE, *command, *subject, "--class", "cat", "--prompt", "cat")
    assert not trained
    succeeds(PALP_SERVE, *command, *subject, "--class", "cat")
    first = (trained[0] / "adapter.safetensors").stat().st_mtime_ns
    assert trained[0].parent == tmp_path / "cache" / "palp-hyper" / "subjects"
    succeeds(PALP_SERVE, *command, *subject, "--class", "cat")
    assert (len(trained), (trained[0] / "adapter.safetensors").stat().st_mtime_ns) == (1, first)
    (pictures / "0.png").unlink()
    succeeds(PALP_SERVE, *command, *subject, "--class", "cat")
    succeeds(PALP_SERVE, *command, *subject, "--class", "dog")
    assert len(trained) == len(set(trained)) == 3


def test_refusals_are_a_sentence_and_leave_nothing(command: tuple[object, ...], adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps({"weight": 1}, protocol=2))
    (tmp_path / "cut.safetensors").write_bytes((adapters / "cat.safetensors").read_bytes()[:-9])
    cat = ("--subject", adapters / "cat.safetensors")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((*cat, "--prompt", "a cat"), "does not name the subject: write [V]"),
        ((*cat, "--prompt", "[V] and [W]"), "names [W], and the learned words are: [V]"),
        ((*cat, "--prompt", "[../V]"), "names [../V]"),
        (("--prompt", "a [V]"), "the learned words are: none"),
        (("--subject", adapters / "other.safetensors", "--prompt", "a cat"), "was made for other:1"),
        (("--subject", tmp_path / "pickle.safetensors", "--prompt", "a [V]"), "is a pickle"),
        (("--subject", tmp_path / "cut.safetensors", "--prompt", "a [V]"), "is not a whole safetensors file"),
        (("--subject", tmp_path / "nowhere", "--prompt", "a [V]"), "there is no"),
        ((*cat, "--prompt", "[V]", "--prompt-adapter", tmp_path), "holds pictures, and an adapter is needed"),
        ((*cat, "--prompt", "[V]", "--prompt-adapter", "none"), "there is no none: give an adapter file"),
        ((*cat, "--prompt", "[V]", "--subject-scale", "nan"), "must be finite"),
        ((*cat, "--prompt", "[V]", "--guidance", "inf"), "must be finite"),
        (("--prompt", "a", "--guidance", "1e38"), "scale of 1e+38 is too large"),
        (("--prompt", "a", "--steps", 1001), "expected 1 to 1000"),
        (("--prompt", "caf\udce9"), "is not UTF-8"),
        (("--prompt", "[V]", "--subject", "x" * 300), "there is no xxx"),
        ((*cat, "--prompt", "[V]", "--prompt-adapter", "x" * 300), "there is no xxx"),
        ((*cat, "--prompt", "[V]", "--out", tmp_path / "a.jpg"), "pictures are written as PNG"),
        ((*cat, "--prompt", "[V]", "--out", tmp_path / "cut.safetensors" / "a.png"), "cannot write"),
        ((*cat, *("--prompt-adapter", "off") * 2, *("--prompt", "[V]") * 3), "2 prompt adapters were given"),
        (("--prompt", "a", "--seed", 1, "--seed", 2, "--count", 2), "give one seed to count from"),
        (("--prompt", "a", "--seed", 2**63 - 2, "--count", 3), "leaves no room"),
        (("--prompt", "a", "--grid", tmp_path / "a.jpg"), "--grid is"),
        (("--prompt", "a", "--grid", tmp_path / "a.png"), "where a picture is to be written"),
        (("--prompt", "a", "--out", "a.png", "--grid", Path("a.png").absolute()), "where a picture is to be written"),
    ]
    before = files_in(tmp_path)
    for options, sentence in cases:
        assert sentence in refuses(PALP_SERVE, *command, "--out", tmp_path / "a.png", *options)
    assert files_in(tmp_path) == before


def test_demo_writes_one_sheet_and_learns_once(tiny_folder: Path, tmp_path: Path) -> None:
    command = ("demo", "--base", tiny_folder, "--dtype", "float32", "--steps", 1, "--out", tmp_path / "demo")
    assert succeeds(PALP_HYPER, *command) == f"{tmp_path / 'demo' / 'demo.png'}\n"
    with Image.open(tmp_path / "demo" / "demo.png") as sheet:
        before = np.asarray(sheet)
    assert before.shape[1] == LABEL_WIDTH + 2 * GAP + 4 * (SMALLEST_CELL + GAP)
    adapters = [tmp_path / "demo" / name / "adapter.safetensors" for name in ("subject", "palp-1", "palp-2")]
    times = [path.stat().st_mtime_ns for path in adapters]
    succeeds(PALP_HYPER, *command)
    assert [path.stat().st_mtime_ns for path in adapters] == times
    with Image.open(tmp_path / "demo" / "demo.png") as sheet:
        assert np.array_equal(np.asarray(sheet), before)
