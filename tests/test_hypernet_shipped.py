"""The hypernetwork in the package: it is for the base in the package, and knows what it can predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypernet.demo import Demo, run_demo
from hypernet.file import load_hypernet
from hypernet.predict import Predictor
from hypernet.shipped import shipped_hypernet
from hypernet.trust import nonsense
from palp.base import load_base
from palp.corpus.plan import read_plan
from palp.learn import Report
from palp.sheets import GAP, LABEL_WIDTH

PLAN = Path(__file__).parents[1] / "configs" / "corpus-icons.yaml"
SIDE = 128  # of the embedded base's pictures
CELL = SIDE + GAP


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    base = load_base("icons", "cpu", "float32")
    folder = shipped_hypernet(base)
    assert folder is not None, "the shipped hypernetwork is for other weights than the shipped base's"
    return Predictor(base, load_hypernet(folder / "hypernet.safetensors")[0])


@contextmanager
def no_bar(title: str) -> Iterator[Report]:
    yield lambda *progress: None


@pytest.mark.parametrize("class_word", ["dog", "truck", "robot", "zebra"])  # the corpus has none of the last three
def test_a_class_word_is_no_reason_to_abstain(predictor: Predictor, class_word: str) -> None:
    prompts = [prompt.text for prompt in read_plan(PLAN).prompts.prompts() if prompt.split == "train"][:32]
    assert predictor.predict(prompts, [class_word] * len(prompts)).strength.tolist() == [1.0] * len(prompts)


@pytest.mark.parametrize("form", ["{} [V]", "[V] {}", "a {} of [V]"])
def test_nonsense_is_a_reason(predictor: Predictor, form: str) -> None:
    prompts = [form.format(text) for text in nonsense(np.random.default_rng(5), 32)]
    assert predictor.predict(prompts, ["dog"] * len(prompts)).strength.tolist() == [0.0] * len(prompts)


def test_the_demonstration_shows_it_beside_what_is_trained(predictor: Predictor, tmp_path: Path) -> None:
    prompt = "a pencil sketch of [V] on a beach"
    sheet = run_demo(predictor.base, tmp_path, Demo(prompts=(prompt,), steps=1), no_bar)
    with Image.open(sheet) as image:
        width, height = image.size
        pictures = [np.asarray(image)[-SIDE - GAP : -GAP, x : x + SIDE] for x in range(width - 7 * CELL, width, CELL)]
    assert width == LABEL_WIDTH + 2 * GAP + 7 * CELL
    assert height > SIDE
    assert len({picture.tobytes() for picture in pictures}) == 7
