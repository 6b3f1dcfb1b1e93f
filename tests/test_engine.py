"""The engine's thread: joining, leaving, refusing, failing, stopping; every accepted request ends exactly once."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import serving.contract
from palp.adapter import AdapterSpec
from palp.base import Base
from palp.draw import Picture, Sampling, draw
from palp.errors import InputError, UnknownPlaceholderError
from palp.opening import Opening
from palp.sheets import to_images
from serving.contract import Cancelled, Done, PictureRequest, Queued, Step
from serving.engine import BatchEngine, EngineSettings
from serving.errors import (
    DeadlineError,
    DrainingError,
    QueueFullError,
    SubjectNotReadyError,
    UnknownSubjectError,
)
from serving.subjects.library import Library
from tests.adapters import random_adapter
from tests.engines import PATIENCE_S, Ear, library_of, notes, pixels, png_of, subject
from tests.tiny import tiny_base

SETTINGS = EngineSettings(max_batch=2, max_waiting=3, slots=4, subject_rank=2)
QUICK = PictureRequest("cat", steps=2)
LONG = PictureRequest("cat", steps=500)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("sd1")


@pytest.fixture
def library(base: Base, tmp_path: Path) -> Library:
    return library_of(base, tmp_path / "library")


@pytest.fixture
def engine(base: Base, library: Library) -> Iterator[BatchEngine]:
    engine = BatchEngine(base, library, None, SETTINGS)
    yield engine
    engine.close()
    assert not engine._thread.is_alive()


def broken(*arguments: object) -> None:
    """A listener, or an observer."""
    raise ValueError("a caller's own defect")


def is_an_engine(engine: BatchEngine) -> serving.contract.Engine:
    """For mypy."""
    return engine


def test_a_picture_with_previews_notes_and_measurements(engine: BatchEngine) -> None:
    measured: dict[str, list[float]] = defaultdict(list)
    engine.observe(lambda name, value: measured[name].append(value))
    engine.observe(broken)
    ear = Ear()
    request = PictureRequest("a [V]", subject="s0", steps=4, previews=1, seed=7, guidance=3.0, subject_scale=0.5)
    ticket = engine.submit(request, ear)
    last = ear.last()
    assert isinstance(last, Done)
    assert ear.names == ["Queued", "Step", "Step", "Step", "Step", "Done"]
    assert ear.events[0] == Queued(0)
    steps = [event for event in ear.events if isinstance(event, Step)]
    assert [(one.step, one.steps) for one in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    previews = [one.step for one in steps if one.preview is not None]
    assert previews == [2]
    assert steps[1].preview is not None
    assert pixels(steps[1].preview).shape == pixels(last.picture).shape == (16, 16, 3)
    assert notes(last.picture) == last.details.notes
    written = last.details.notes
    assert (written["prompt"], written["seed"], written["steps"], written["guidance"]) == ("a [V]", "7", "4", "3.0")
    assert written["subject"] == "s0 (cat) × 0.5"
    assert written["prompt_adapter"] == "none: there is no hypernetwork"
    assert (last.details.abstained, last.details.reliability, last.details.batch_size) == (False, None, 1.0)
    assert set(last.details.seconds) == {"queue", "predict", "compose", "denoise", "decode"}
    assert engine.drain(PATIENCE_S)
    assert {name: len(values) for name, values in measured.items()} == {
        **dict.fromkeys(("queue_s", "predict_s", "compose_s", "decode_s", "picture_s"), 1),
        **dict.fromkeys(("batch_size", "step_s"), 4),
    }
    stats = engine.stats()
    assert (stats["queue"], stats["active"], stats["resident_slots"], stats["resident_subjects"]) == (0, 0, 1, 1)
    assert stats["pictures_per_s"] > 0
    assert len(ticket.id) == 32


def test_what_cannot_be_drawn_is_refused_at_once(engine: BatchEngine, library: Library, base: Base) -> None:
    library.adopt("", "other", "cat", random_adapter(AdapterSpec("other:1", base.sites(), 2, 2.0), 0))
    library.adopt("", "large", "cat", subject(base, 0, rank=3))
    Library(library.root, resolution=16).add("", "young", "cat", [png_of()])
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnknownSubjectError, "no subject 'nobody'", {"subject": "nobody"}),
        (UnknownSubjectError, "no subject '../s0'", {"subject": "../s0"}),
        (UnknownSubjectError, "no subject 's0'", {"subject": "s0", "owner": "another"}),
        (SubjectNotReadyError, "'young' is waiting", {"subject": "young"}),
        (InputError, "does not name the subject", {"subject": "s0", "prompt": "a cat"}),
        (UnknownPlaceholderError, "[W]", {"subject": "s0", "prompt": "[V] and [W]"}),
        (UnknownPlaceholderError, "[V]", {"prompt": "a [V]"}),
        (UnknownPlaceholderError, "[V]", {"prompt": "a cat", "negative_prompt": "[V]"}),
        (InputError, "was learned on other:1", {"subject": "other"}),
        (InputError, "has rank 3", {"subject": "large"}),
        (InputError, "refine", {"subject": "s0", "refine": 2}),
    ]
    for kind, sentence, changes in cases:
        ear = Ear()
        with pytest.raises(kind) as caught:
            engine.submit(PictureRequest(**{"prompt": "a [V]", **changes}), ear)
        assert sentence in str(caught.value)
        assert ear.events == []
    ear = Ear()
    engine.submit(QUICK, ear)
    ear.done()


def test_a_full_queue_refuses_and_says_when_to_come_back(engine: BatchEngine) -> None:
    gate = threading.Event()
    holding = Ear(gate)
    engine.submit(QUICK, holding)
    assert holding.stepped.wait(PATIENCE_S)
    others = [Ear() for _ in range(3)]
    for ear in others:
        engine.submit(QUICK, ear)
    with pytest.raises(QueueFullError) as caught:
        engine.submit(QUICK, Ear())
    assert caught.value.retry_after_s > 0
    assert engine.stats()["queue"] == 3
    gate.set()
    for ear in [holding, *others]:
        ear.done()
    assert [ear.events[0] for ear in others] == [Queued(0), Queued(1), Queued(2)]
    assert max(ear.done()[1].batch_size for ear in others) == 2


def test_cancelled_requests_leave_at_the_next_step(engine: BatchEngine) -> None:
    gate = threading.Event()
    active, mate, waiting = Ear(gate), Ear(), Ear()
    tickets = [engine.submit(LONG, active), engine.submit(QUICK, mate)]
    assert active.stepped.wait(PATIENCE_S)
    tickets.append(engine.submit(QUICK, waiting))
    tickets[0].cancel()
    tickets[2].cancel()
    gate.set()
    assert active.last() == waiting.last() == Cancelled()
    assert active.names.count("Step") <= 2
    mate.done()
    tickets[1].cancel()  # too late, without effect
    ear = Ear()
    engine.submit(QUICK, ear)
    ear.done()
    assert mate.names[-1] == "Done"
    assert "Step" not in waiting.names


def test_a_deadline_ends_what_is_waiting_and_what_is_drawn(engine: BatchEngine) -> None:
    gate = threading.Event()
    holding, late = Ear(gate), Ear()
    ticket = engine.submit(PictureRequest("cat", steps=500, deadline_s=1000.0), holding)
    assert holding.stepped.wait(PATIENCE_S)
    engine.submit(PictureRequest("cat", steps=2, deadline_s=0.0), late)
    ticket.accepted_at -= 2000
    gate.set()
    for ear, limit in ((holding, "1000"), (late, "0")):
        error = ear.error()
        assert isinstance(error, DeadlineError)
        assert f"within {limit} s" in str(error)


def test_one_bad_picture_does_not_take_down_its_mates(
    engine: BatchEngine, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Base.predict

    def fragile(own: Base, x_t: Any, t: Any, text: Any) -> Any:
        if bool((x_t.abs() > 1e6).any()):
            raise RuntimeError("a kernel of this picture failed")
        return predict(own, x_t, t, text)

    monkeypatch.setattr(Base, "predict", fragile)
    gate = threading.Event()
    good, bad = Ear(gate), Ear()
    engine.submit(PictureRequest("cat", steps=6), good)
    assert good.stepped.wait(PATIENCE_S)
    engine.submit(PictureRequest("a [V]", subject="s0", steps=6, guidance=1e12), bad)
    gate.set()
    assert "a kernel of this picture failed" in str(bad.error())
    alone = Ear()
    engine.submit(PictureRequest("cat", steps=6), alone)
    assert np.abs(good.done()[0] - alone.done()[0]).max() <= 1  # rounding to 8 bits


def test_numbers_that_are_not_finite_are_no_picture(engine: BatchEngine) -> None:
    ear = Ear()
    engine.submit(PictureRequest("cat", steps=2, guidance=1e38), ear)
    assert "did not stay finite" in str(ear.error())


def test_a_defect_of_the_engine_ends_requests_and_not_the_engine(
    engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    holding, waiting = Ear(gate), Ear()
    engine.submit(LONG, holding)
    assert holding.stepped.wait(PATIENCE_S)
    engine.submit(QUICK, waiting)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_sweep", lambda: 1 / 0)
        gate.set()
        assert isinstance(holding.error(), ZeroDivisionError)
        assert isinstance(waiting.error(), ZeroDivisionError)
    ear = Ear()
    engine.submit(QUICK, ear)
    ear.done()


def test_a_listener_that_raises_harms_nobody(engine: BatchEngine) -> None:
    engine.submit(QUICK, broken)
    ear = Ear()
    engine.submit(QUICK, ear)
    ear.done()
    assert engine.drain(PATIENCE_S)


def test_draining_finishes_what_was_accepted_and_takes_no_more(engine: BatchEngine) -> None:
    gate = threading.Event()
    holding, waiting = Ear(gate), Ear()
    engine.submit(QUICK, holding)
    assert holding.stepped.wait(PATIENCE_S)
    engine.submit(QUICK, waiting)
    assert not engine.drain(0.01)
    with pytest.raises(DrainingError):
        engine.submit(QUICK, Ear())
    gate.set()
    assert engine.drain(PATIENCE_S)
    assert (holding.names[-1], waiting.names[-1]) == ("Done", "Done")


def test_closing_cancels_what_is_left_and_leaves_the_base(base: Base, library: Library) -> None:
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    engine = BatchEngine(base, library, None, SETTINGS)
    gate = threading.Event()
    ears = [Ear(gate), Ear(), Ear()]
    engine.submit(PictureRequest("a [V]", subject="s1", steps=500), ears[0])
    assert ears[0].stepped.wait(PATIENCE_S)
    for ear in ears[1:]:
        engine.submit(LONG, ear)
    gate.set()
    engine.close()
    assert [ear.last() for ear in ears] == [Cancelled()] * 3
    with pytest.raises(DrainingError):
        engine.submit(QUICK, Ear())
    after = base.unet.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not module._forward_hooks for module in base.unet.modules())


def test_a_subject_removed_while_it_waits_is_an_error_of_that_request(engine: BatchEngine, library: Library) -> None:
    gate = threading.Event()
    holding, waiting = Ear(gate), Ear()
    engine.submit(QUICK, holding)
    assert holding.stepped.wait(PATIENCE_S)
    engine.submit(PictureRequest("a [V]", subject="s0", steps=2), waiting)
    library.remove("", "s0")
    gate.set()
    assert isinstance(waiting.error(), UnknownSubjectError)
    holding.done()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="max_waiting"):
        EngineSettings(max_waiting=0)
    with pytest.raises(InputError, match="7 slots for batches of 4: give each picture two"):
        EngineSettings(max_batch=4, slots=7)


def test_a_picture_opens_as_a_photo_and_goes_on_as_asked(base: Base, engine: BatchEngine) -> None:
    """Beside one that does not, and with a strength of its own from there, as `palp.draw` does it."""
    prompt, scale = "a sketch of [V] by a tree", 0.8
    ears = [Ear(), Ear()]
    for ear, opening in zip(ears, (0.5, 0.0), strict=True):
        request = PictureRequest(prompt, subject="s0", steps=4, opening=opening, subject_scale=scale, guidance=3.0)
        engine.submit(request, ear)
    adapter = subject(base, 0).scaled(scale)
    drawn = [ear.done() for ear in ears]
    assert engine.drain(PATIENCE_S)
    for (picture, details), share in zip(drawn, (0.5, 0.0), strict=True):
        sampling = Sampling(4, 3.0, opening=Opening(share))
        alike = to_images(draw(tiny_base("sd1"), [Picture(prompt, 0, adapter, adapter)], sampling))[0]
        assert abs(picture - np.asarray(alike).astype(int)).max() <= 1  # rounding to 8 bits
        assert details.notes["opening"] == str(share)
    assert abs(drawn[0][0] - drawn[1][0]).max() > 8


def test_after_the_opening_a_subject_is_as_strong_as_the_bases_recipe_says(
    base: Base, engine: BatchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.engine.preparation.opening_of", lambda name, share: Opening(0.5, 0.25, 4.0))
    ears = [Ear(), Ear()]
    for ear, prompt in zip(ears, ("a sketch of [V]", "a photo of [V]"), strict=True):
        engine.submit(PictureRequest(prompt, subject="s0", steps=4, guidance=3.0), ear)
    whole, adapter = subject(base, 0), subject(base, 0).scaled(0.25)
    expected = [Picture("a sketch of [V]", 0, adapter, whole), Picture("a photo of [V]", 0, whole)]
    drawn = [ear.done()[0] for ear in ears]
    assert engine.drain(PATIENCE_S)
    assert engine.stats()["resident_slots"] == 2
    sampling = Sampling(4, 3.0, opening=Opening(0.5, guidance=4.0))
    for picture, alike in zip(drawn, to_images(draw(tiny_base("sd1"), expected, sampling)), strict=True):
        assert abs(picture - np.asarray(alike).astype(int)).max() <= 1  # rounding to 8 bits
