"""Pictures that join and leave a shared batch are those that `palp.draw` makes of each alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palp.base import Base
from palp.compose import compose
from palp.draw import Picture, Sampling, draw
from palp.sheets import to_images
from serving.contract import Event, PictureRequest
from serving.engine.drawing import preview_steps
from serving.engine.easel import Easel
from serving.engine.entry import Entry
from serving.engine.predictions import Network, Predictions
from serving.engine.settings import EngineSettings
from tests.corpora import tiny_corpus, tiny_hypernet
from tests.engines import Ear, library_of, subject
from tests.tiny import Kind, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
SETTINGS = EngineSettings(max_batch=8, slots=16, subject_rank=2)
ROUNDING = 1  # levels of 255; the numbers themselves agree within 1e-4 in float32, as batched kernels round differently


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("sd1")


def easel(base: Base, root: Path, predictions: Predictions | None = None) -> Easel:
    def end(entry: Entry, event: Event) -> None:
        entry.tell(event)

    return Easel(base, library_of(base, root), predictions, SETTINGS, end, lambda name, value: None)


def take(own: Easel, request: PictureRequest) -> Ear:
    ear = Ear()
    own.take(Entry(request, ear, own.check(request), lambda: None))
    return ear


def drawn(base: Base, request: PictureRequest, picture: Picture) -> np.ndarray:
    guidance = 7.5 if request.guidance is None else request.guidance
    sampling = Sampling(request.steps, guidance, request.scheduler)
    return np.asarray(to_images(draw(base, [picture], sampling))[0]).astype(int)


def test_a_mixed_batch_gives_every_picture_as_if_alone(base: Base, tmp_path: Path) -> None:
    own = easel(base, tmp_path)
    asked = [
        PictureRequest("a photo of [V]", subject="s0", seed=1, steps=4),
        PictureRequest("a [V]", subject="s1", seed=2, steps=6, scheduler="dpm++2m", guidance=2.0),
        PictureRequest("cat", seed=3, steps=5, scheduler="euler"),
        PictureRequest("a [V] cat", subject="s0", seed=4, steps=3, guidance=1.0, scheduler="euler", subject_scale=0.5),
        PictureRequest("to [V]", subject="s1", seed=5, steps=5, scheduler="euler", guidance=3.0),
    ]
    ears = [take(own, asked[0])]
    own.step(0.0)
    ears += [take(own, request) for request in asked[1:4]]  # three join while one is under way
    own.step(0.0)
    ears.append(take(own, asked[4]))
    while own.busy:
        own.step(0.0)
    adapters = [subject(base, 0), subject(base, 1), None, subject(base, 0).scaled(0.5), subject(base, 1)]
    for ear, request, adapter in zip(ears, asked, adapters, strict=True):
        got, details = ear.done()
        expected = drawn(base, request, Picture(request.prompt, request.seed, adapter))
        assert np.abs(got - expected).max() <= ROUNDING
        assert ear.names == ["Queued", *["Step"] * request.steps, "Done"]
        assert 1 <= details.batch_size <= 5
        assert details.seconds.keys() == {"queue", "compose", "denoise", "decode"} | (
            {"predict"} if request.subject else set()
        )
    without = drawn(base, asked[0], Picture("a photo of cat", 1))
    assert np.abs(ears[0].done()[0] - without).max() > 10  # the adapter shows
    own.close()


@pytest.mark.parametrize("kind", ["sd2-v", "sdxl"])
def test_other_families_too(kind: Kind, tmp_path: Path) -> None:
    base = tiny_base(kind)
    own = easel(base, tmp_path)
    asked = [PictureRequest("a [V]", subject=f"s{i}", seed=i, steps=3, scheduler="euler") for i in (0, 1)]
    asked.append(PictureRequest("cat", seed=5, steps=2))
    ears = [take(own, request) for request in asked]
    while own.busy:
        own.step(0.0)
    adapters = [subject(base, 0), subject(base, 1), None]
    for ear, request, adapter in zip(ears, asked, adapters, strict=True):
        expected = drawn(base, request, Picture(request.prompt, request.seed, adapter))
        assert np.abs(ear.done()[0] - expected).max() <= ROUNDING
    own.close()


def test_a_predicted_adapter_is_added_to_the_subject(base: Base, tmp_path: Path) -> None:
    hypernet = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
    network = Network(lambda text: (lambda p: (p.factors, p.reliability + 1))(hypernet(text)), hypernet.spec, "f", "r")
    predictions = Predictions(base, network)
    own = easel(base, tmp_path, predictions)
    request = PictureRequest("a sketch of [V]", subject="s0", steps=3, prompt_adapter_scale=0.5)
    ears = [take(own, request), take(own, replace(request, prompt_adapter="off"))]
    while own.busy:
        own.step(0.0)
    predicted = predictions.forecast("a sketch of [V]", "cat").adapter
    assert predicted is not None
    both = compose([(subject(base, 0), 1.0), (predicted, 0.5)])
    for ear, adapter in zip(ears, (both, subject(base, 0)), strict=True):
        expected = drawn(base, request, Picture(request.prompt, 0, adapter))
        assert np.abs(ear.done()[0] - expected).max() <= ROUNDING
    details = [ear.done()[1] for ear in ears]
    assert [one.abstained for one in details] == [False, False]
    assert details[0].reliability is not None
    assert details[1].reliability is None
    assert details[0].notes["prompt_adapter"] == "predicted by f on r × 0.5"
    assert details[1].notes["prompt_adapter"] == "off"
    own.close()


def test_the_negative_prompt_is_what_guidance_leads_away_from(base: Base, tmp_path: Path) -> None:
    own = easel(base, tmp_path)
    request = PictureRequest("cat", steps=2)
    ears = [take(own, replace(request, negative_prompt=words)) for words in ("", "photo", "photo")]
    while own.busy:
        own.step(0.0)
    plain, *negative = [ear.done()[0] for ear in ears]
    assert np.abs(negative[0] - negative[1]).max() <= ROUNDING
    assert np.abs(plain - negative[0]).max() > 10
    own.close()


def test_previews_are_evenly_spread() -> None:
    assert preview_steps(20, 3) == {5, 10, 15}
    assert preview_steps(4, 100) == {1, 2, 3}
    assert preview_steps(1, 1) == preview_steps(10, 0) == frozenset()
