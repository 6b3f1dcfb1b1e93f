"""Predictions in serving: remembered, refused far from the corpus, run by torch or ONNX Runtime, and refined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hypernet.shipped
from hypernet.export import export_onnx
from hypernet.factors import Factors
from hypernet.file import Origin, save_hypernet
from palp.base import Base, TextState
from palp.compose import subject_strength
from palp.errors import AdapterMismatchError, InputError
from palp.sheets import save_png, to_images
from serving.contract import Cancelled, Event, PictureRequest
from serving.engine import BatchEngine, build_engine
from serving.engine.easel import Easel
from serving.engine.entry import Entry
from serving.engine.predictions import Network, Predictions
from serving.engine.refinement import Lesson, refine
from serving.engine.settings import EngineSettings
from serving.subjects import records
from serving.subjects.learning import Teaching
from serving.subjects.library import Library
from tests.corpora import RECIPE, tiny_corpus, tiny_hypernet
from tests.engines import Ear, library_of, subject
from tests.light import light_base
from tests.tiny import tiny_base
from tests.training import pictures

RATE = 1e-2  # of training


class Counting:
    """A network that is sure, or not, and knows how often it was asked."""

    def __init__(self, base: Base, reliability: float) -> None:
        self.hypernet = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
        self.reliability, self.asked = reliability, 0

    def __call__(self, text: TextState) -> tuple[Factors, Tensor]:
        self.asked += 1
        return self.hypernet(text).factors, torch.tensor([self.reliability])

    def network(self) -> Network:
        return Network(self, self.hypernet.spec, "f" * 64, "torch cpu", RECIPE)


def test_the_same_prompt_is_predicted_once_whatever_the_subject() -> None:
    base = light_base()
    counting = Counting(base, 0.9)
    predictions = Predictions(base, counting.network(), size=2)
    first = predictions.forecast("a sketch of [V]", "cat")
    assert predictions.forecast("a sketch of [V]", "cat") is first
    assert predictions.forecast("a sketch of  [V]", "cat") is first  # only spaces differ
    assert counting.asked == 1
    assert first.reliability == pytest.approx(0.9)
    other = predictions.forecast("a sketch of [V]", "dog")
    assert (counting.asked, other.key == first.key) == (2, False)
    predictions.forecast("a photo of [V]", "cat")
    assert (counting.asked, len(predictions)) == (3, 2)
    predictions.forecast("a sketch of [V]", "cat")
    assert counting.asked == 4  # it had given way


@pytest.mark.parametrize("reliability", [0.49, float("nan")])
def test_an_unreliable_prediction_is_no_adapter(reliability: float) -> None:
    base = light_base()
    forecast = Predictions(base, Counting(base, reliability).network()).forecast("a sketch of [V]", "cat")
    assert forecast.adapter is None
    assert 0 <= forecast.reliability < 0.5


def test_torch_and_onnx_runtime_predict_the_same_adapter(tmp_path: Path) -> None:
    base = light_base()
    hypernet = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
    with torch.no_grad():
        hypernet.get_parameter("trust.2.bias").fill_(5.0)
    hypernet.subject_scale = 0.8
    save_hypernet(hypernet, Origin({**RECIPE, "subject_scale": 0.8}, {}), tmp_path / "run" / "hypernet.safetensors")
    torch_run = Predictions.open(base, tmp_path / "run")
    assert (torch_run.network.runner, torch_run.network.recipe["rule"]) == ("torch cpu", "composed")
    export_onnx(hypernet, tmp_path / "run" / "hypernet.onnx")
    onnx_run = Predictions.open(base, tmp_path / "run")  # the folder's exported model is preferred
    assert onnx_run.network.runner == "CPUExecutionProvider"
    assert onnx_run.network.recipe == torch_run.network.recipe
    assert onnx_run.network.fingerprint != torch_run.network.fingerprint
    ours, theirs = (run.forecast("a sketch of [V]", "cat") for run in (torch_run, onnx_run))
    assert ours.adapter is not None
    assert theirs.adapter is not None
    assert subject_strength(ours.adapter) == subject_strength(theirs.adapter) == pytest.approx(0.8)
    assert theirs.reliability == pytest.approx(ours.reliability, abs=1e-3)
    for site in base.sites():
        expected = ours.adapter.delta_weight(site.name)
        torch.testing.assert_close(theirs.adapter.delta_weight(site.name), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(AdapterMismatchError, match=r"light:0.*light:1"):
        Predictions.open(light_base(seed=1), tmp_path / "run")
    with pytest.raises(InputError, match="no hypernetwork"):
        Predictions.open(base, tmp_path)


SETTINGS = EngineSettings(max_batch=2, slots=4, subject_rank=2)


def easel(base: Base, library: Library, reliability: float) -> Easel:
    def end(entry: Entry, event: Event) -> None:
        entry.tell(event)

    predictions = Predictions(base, Counting(base, reliability).network())
    return Easel(base, library, predictions, SETTINGS, end, lambda name, value: None)


def with_pictures(base: Base, root: Path) -> Library:
    """A library whose subject s0 looks as if it had been learned here."""
    library = library_of(base, root, count=1)
    shelf, record = records.find(root, "", "s0")
    shelf.write(replace(record, pictures=3))
    for number, image in enumerate(to_images(pictures(0))):
        save_png(image, shelf.run / "pictures" / "V" / f"{number}.png")
    return library


def drawn(own: Easel, *requests: PictureRequest) -> list[Ear]:
    ears = [Ear() for _ in requests]
    for request, ear in zip(requests, ears, strict=True):
        own.take(Entry(request, ear, own.check(request), lambda: None))
    while own.busy:
        own.step(0.0)
    own.close()
    return ears


def test_a_remembered_prediction_tells_the_time_it_once_took(tmp_path: Path) -> None:
    """Else the time would tell what others have asked."""
    base = tiny_base("sd1")
    request = PictureRequest("a sketch of [V]", subject="s0", steps=1)
    first, again = drawn(easel(base, library_of(base, tmp_path), 0.9), request, request)
    assert first.done()[1].seconds["predict"] == again.done()[1].seconds["predict"] > 0


def test_abstention_draws_the_subject_alone_and_says_so(tmp_path: Path) -> None:
    base = tiny_base("sd1")
    request = PictureRequest("a sketch of [V]", subject="s0", steps=2)
    own = easel(base, library_of(base, tmp_path), 0.3)
    refused, off = drawn(own, request, replace(request, prompt_adapter="off"))
    assert abs(refused.done()[0] - off.done()[0]).max() <= 1  # rounding to 8 bits
    details = refused.done()[1]
    assert details.abstained
    assert details.reliability == pytest.approx(0.3)
    assert details.notes["prompt_adapter"].startswith("abstained: reliability 0.300")
    assert not off.done()[1].abstained


def test_the_shipped_network_predicts_unless_another_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("sd1")
    shipped = tiny_hypernet(base, tiny_corpus(base), gain=1.0)
    with torch.no_grad():
        shipped.get_parameter("trust.2.bias").fill_(5.0)
    save_hypernet(shipped, Origin(RECIPE, {}), tmp_path / "shipped" / "hypernet.safetensors")
    monkeypatch.setattr(hypernet.shipped, "SHIPPED", tmp_path / "shipped")
    assert Predictions.find(tiny_base("sd2"), None) is None
    with pytest.raises(InputError, match="no hypernetwork"):
        Predictions.find(base, tmp_path)
    library_of(base, tmp_path / "library", count=1)
    engine = build_engine(base, Teaching(), subjects=tmp_path / "library", batch=1)
    ear = Ear()
    engine.submit(PictureRequest("a sketch of [V]", subject="s0", steps=1), ear)
    assert ear.done()[1].notes["prompt_adapter"].startswith("predicted by ")
    engine.close()
    engine.subjects.close()


def test_an_aligned_subject_is_not_aligned_twice(tmp_path: Path) -> None:
    base = tiny_base("sd1")
    library = Library(tmp_path)
    known = {"form": "joint", "prompt": "a sketch of [V]", "personal_prompt": "a photo of [V]"}
    library.adopt("", "s0", "cat", replace(subject(base, 0), metadata=known))
    [ear] = drawn(easel(base, library, 0.9), PictureRequest("a sketch of [V]", subject="s0", steps=2))
    assert ear.done()[1].notes["prompt_adapter"] == "none: the subject's adapter is aligned with a prompt already"


@pytest.mark.parametrize("reliability", [0.9, 0.3])
def test_refining_trains_the_prediction_while_others_are_drawn(reliability: float, tmp_path: Path) -> None:
    base = tiny_base("sd1")
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    request = PictureRequest("a sketch of [V]", subject="s0", steps=2)
    own = easel(base, with_pictures(base, tmp_path), reliability)
    refined, mate = drawn(own, replace(request, refine=3), request)
    assert abs(refined.done()[0] - mate.done()[0]).max() > 0
    details = refined.done()[1]
    assert details.notes["prompt_adapter"].endswith("refined by 3 steps × 1")
    assert details.seconds["refine"] > 0
    assert mate.done()[1].batch_size == 1  # the refined one joined after it had left
    after = base.unet.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not module._forward_hooks for module in base.unet.modules())


@pytest.mark.parametrize(("predicted", "rate"), [(True, 1 / 8), (False, 1.0)])
def test_a_prediction_is_trained_on_gently(predicted: bool, rate: float, tmp_path: Path) -> None:
    """The first of Adam's steps is as long as the rate; where there is no prediction, as in any training."""
    base = tiny_base("sd1")
    start, folder = subject(base, 5), tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(to_images(pictures(0))):
        save_png(image, folder / f"{number}.png")
    given = (start if predicted else None, 1, {**RECIPE, "lr": RATE, "warmup": 0})
    lesson = Lesson("a sketch of [V]", "cat", folder, subject(base, 0), start.spec, *given)
    training = refine(base, lesson)
    with pytest.raises(StopIteration) as end:
        while True:
            next(training)
    adapter = end.value.value
    moved = max(float((up - start.up[site] * predicted).abs().max()) for site, up in adapter.up.items())
    assert moved == pytest.approx(rate * RATE, rel=0.01)


def test_those_who_wait_to_be_refined_take_no_places(tmp_path: Path) -> None:
    base = tiny_base("sd1")
    predictions = Predictions(base, Counting(base, 0.9).network())
    engine = BatchEngine(base, with_pictures(base, tmp_path), predictions, SETTINGS)
    request = PictureRequest("a sketch of [V]", subject="s0", steps=1)
    long = [Ear() for _ in range(3)]
    for ear in long:
        engine.submit(replace(request, refine=1000), ear)
    quick = Ear()
    engine.submit(request, quick)
    quick.done()
    assert [ear.ended.is_set() for ear in long] == [False] * 3
    engine.close()


def test_refining_needs_the_subjects_pictures(tmp_path: Path) -> None:
    base = tiny_base("sd1")
    own = easel(base, library_of(base, tmp_path), 0.9)
    with pytest.raises(InputError, match="without pictures"):
        own.check(PictureRequest("a sketch of [V]", subject="s0", refine=2))
    own.close()


def test_a_refined_picture_can_be_dropped(tmp_path: Path) -> None:
    base = tiny_base("sd1")
    own = easel(base, with_pictures(base, tmp_path), 0.9)
    ear = Ear()
    request = PictureRequest("a sketch of [V]", subject="s0", refine=100)
    own.take(Entry(request, ear, own.check(request), lambda: None))
    own.step(0.0)
    own.step(0.0)
    own.drop(lambda entry: Cancelled())
    assert (ear.last(), own.busy) == (Cancelled(), False)
    own.close()
    assert all(not module._forward_hooks for module in base.unet.modules())
