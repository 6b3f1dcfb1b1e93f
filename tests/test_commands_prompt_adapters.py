"""palp-serve generate with prompt adapters: predicted, abstained, shipped, refined; and subjects of the library."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hypernet.shipped
from hypernet.file import Origin, load_hypernet, save_hypernet
from hypernet.predict import Predictor
from palp.adapter import Adapter
from palp.base import Base
from palp.compose import compose
from palp.draw import Picture, Sampling, draw
from palp.sheets import to_images
from serving.subjects.library import Library
from serving.subjects.records import data_folder
from tests.commands import PALP_SERVE, invoke, refuses, write_pictures
from tests.corpora import RECIPE, tiny_corpus, tiny_hypernet
from tests.engines import pixels, png_of, subject
from tests.tiny import tiny_base

PROMPT = "a sketch of [V]"
SURE, UNSURE = 5.0, -5.0  # log odds of the network's own reliability


@dataclass(frozen=True)
class Drawn:
    """What a command printed and drew."""

    facts: dict[str, Any]
    pixels: np.ndarray
    stderr: str


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("sd1")


@pytest.fixture(scope="module")
def command(tiny_folder: Path) -> tuple[object, ...]:
    return ("generate", "--base", tiny_folder, "--dtype", "float32", "--steps", 2, "--guidance", 2, "--json")


@pytest.fixture(scope="module")
def run(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a subject, with the pictures it was learned from."""
    folder = tmp_path_factory.mktemp("subject")
    subject(base, 0).save(folder / "adapter.safetensors")
    write_pictures(folder / "pictures" / "V")
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's, and no hypernetwork of the package's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(hypernet.shipped, "SHIPPED", tmp_path / "shipped")


def write_hypernet(base: Base, folder: Path, log_odds: float) -> Path:
    """A run folder of a network that is sure of every prompt, or of none."""
    network = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
    with torch.no_grad():
        network.get_parameter("trust.2.bias").fill_(log_odds)
    save_hypernet(network, Origin(RECIPE, {}), folder / "hypernet.safetensors")
    return folder


def drawn(command: tuple[object, ...], out: Path, *options: object) -> Drawn:
    done = invoke(PALP_SERVE, *command, "--prompt", PROMPT, "--out", out, *options)
    assert done.exit_code == 0, done.stderr
    [facts] = json.loads(done.stdout)["pictures"]
    return Drawn(facts, pixels(out.read_bytes()), done.stderr)


def expected(base: Base, adapter: Adapter) -> np.ndarray:
    [image] = to_images(draw(base, [Picture(PROMPT, 0, adapter)], Sampling(2, 2.0)))
    return np.asarray(image).astype(int)


def differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Beyond rounding to 8 bits."""
    return int(np.abs(first - second).max()) > 1


def test_auto_draws_through_the_prediction(command: tuple[object, ...], base: Base, run: Path, tmp_path: Path) -> None:
    network = write_hypernet(base, tmp_path / "net", SURE)
    options = ("--subject", run, "--hypernet", network, "--prompt-adapter-scale", 0.5)
    auto = drawn(command, tmp_path / "a.png", *options)
    off = drawn(command, tmp_path / "b.png", *options, "--prompt-adapter", "off")
    loaded = load_hypernet(network / "hypernet.safetensors")[0]
    prediction = Predictor(base, loaded).predict_adapter(PROMPT, "cat")
    own = Adapter.load(run / "adapter.safetensors")
    assert not differ(auto.pixels, expected(base, compose([(own, 1.0), (prediction, 0.5)])))
    assert not differ(off.pixels, expected(base, own))
    assert differ(auto.pixels, off.pixels)
    assert auto.facts["prompt_adapter"].startswith("predicted by ")
    assert (auto.facts["prompt_adapter_scale"], auto.facts["abstained"]) == (0.5, False)
    assert auto.facts["reliability"] > 0.9
    assert (off.facts["prompt_adapter"], "prompt_adapter_scale" in off.facts) == ("off", False)
    assert "no prompt adapter" not in auto.stderr + off.stderr


def test_abstention_is_said_in_a_line(command: tuple[object, ...], base: Base, run: Path, tmp_path: Path) -> None:
    network = write_hypernet(base, tmp_path / "net", UNSURE)
    auto = drawn(command, tmp_path / "a.png", "--subject", run, "--hypernet", network)
    assert not differ(auto.pixels, expected(base, Adapter.load(run / "adapter.safetensors")))
    assert auto.facts["abstained"]
    assert [line for line in auto.stderr.splitlines() if line.startswith("no prompt adapter: abstained: ")] != []


def test_the_shipped_network_is_used_only_on_its_own_base(
    command: tuple[object, ...], base: Base, run: Path, tmp_path: Path
) -> None:
    without = drawn(command, tmp_path / "a.png", "--subject", run)
    assert "no prompt adapter: none: there is no hypernetwork for this base\n" in without.stderr
    assert "--refine" in refuses(
        PALP_SERVE, *command, "--prompt", PROMPT, "--out", tmp_path / "a.png", "--subject", run, "--refine", 1
    )
    network = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
    with torch.no_grad():
        network.get_parameter("trust.2.bias").fill_(SURE)
    network.spec = replace(network.spec, base="other:1")
    shipped = tmp_path / "shipped" / "hypernet.safetensors"
    save_hypernet(network, Origin(RECIPE, {}), shipped)
    assert drawn(command, tmp_path / "b.png", "--subject", run).facts["prompt_adapter"].startswith("none: there is no")
    write_hypernet(base, shipped.parent, SURE)
    found = drawn(command, tmp_path / "c.png", "--subject", run)
    assert found.facts["prompt_adapter"].startswith("predicted by ")
    assert differ(found.pixels, without.pixels)


def test_refining_trains_on_from_the_prediction(
    command: tuple[object, ...], base: Base, run: Path, tmp_path: Path
) -> None:
    options = ("--subject", run, "--hypernet", write_hypernet(base, tmp_path / "net", SURE))
    predicted = drawn(command, tmp_path / "a.png", *options)
    refined = drawn(command, tmp_path / "b.png", *options, "--refine", 3)
    assert refined.facts["prompt_adapter"] == f"{predicted.facts['prompt_adapter']}, refined by 3 steps"
    assert differ(refined.pixels, predicted.pixels)
    subject(base, 0).save(tmp_path / "alone.safetensors")
    alone = ("--subject", tmp_path / "alone.safetensors", *options[2:])
    for wrong, sentence in (
        (alone, "are not beside its adapter"),
        ((*options, "--prompt-adapter", "off"), "--prompt-adapter auto"),
        (options[2:], "give --subject"),
    ):
        command_line = (*command, "--prompt", PROMPT, "--out", tmp_path / "c.png", "--refine", 1, *wrong)
        assert sentence in refuses(PALP_SERVE, *command_line)


def test_an_aligned_subject_is_not_aligned_twice(command: tuple[object, ...], base: Base, tmp_path: Path) -> None:
    known = {"class_word": "cat", "form": "joint", "personal_prompt": "a photo of [V]"}
    options = ("--hypernet", write_hypernet(base, tmp_path / "net", SURE), "--subject", tmp_path / "cat.safetensors")
    for prompt, said in ((PROMPT, "none: the subject's adapter is aligned"), ("a photo of [V]", "predicted by ")):
        replace(subject(base, 0), metadata=known | {"prompt": prompt}).save(tmp_path / "cat.safetensors")
        assert drawn(command, tmp_path / "a.png", *options).facts["prompt_adapter"].startswith(said)


def test_a_subject_of_the_library_is_found_by_name(
    command: tuple[object, ...], base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    library = Library(data_folder(), base.resolution)
    library.adopt("", "rex", "cat", subject(base, 0))
    library.add("", "max", "dog", [png_of(side=32)])
    found = drawn(command, tmp_path / "a.png", "--subject", "rex", "--prompt-adapter", "off")
    assert (found.facts["subject"], found.facts["class_word"]) == ("rex", "cat")
    assert not differ(found.pixels, expected(base, subject(base, 0)))
    subject(base, 1).save(tmp_path / "rex")
    path = drawn(command, tmp_path / "b.png", "--subject", "rex", "--prompt-adapter", "off")
    assert not differ(path.pixels, expected(base, subject(base, 1)))  # what is there wins over the library
    for name, sentence in (("max", "'max' is waiting"), ("nobody", "there is no nobody"), ("../rex/x", "there is no")):
        out = ("--prompt", PROMPT, "--out", tmp_path / "c.png", "--subject", name)
        assert sentence in refuses(PALP_SERVE, *command, *out)
