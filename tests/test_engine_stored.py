"""Prompt adapters kept on the server: read once, drawn by name, and whatever is no such file refused at the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.compose import compose, strength_note
from palp.draw import Picture, Sampling, draw
from palp.errors import AdapterFileError, AdapterMismatchError, InputError
from palp.sheets import to_images
from serving.contract import Event, PictureRequest
from serving.engine.easel import Easel
from serving.engine.entry import Entry
from serving.engine.settings import EngineSettings
from serving.engine.stored import read_stored
from serving.errors import UnknownPromptAdapterError
from tests.adapters import random_adapter
from tests.engines import Ear, library_of, subject
from tests.tiny import tiny_base

SETTINGS = EngineSettings(max_batch=2, slots=4, subject_rank=2)
PLAIN = PictureRequest("a sketch of a cat", steps=2, guidance=2.0, prompt_adapter="beach", prompt_adapter_scale=0.5)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("sd1")


@pytest.fixture(scope="module")
def beach(base: Base) -> Adapter:
    adapter = random_adapter(AdapterSpec(base.fingerprint, base.sites("cross"), 3, 1.0), 1)
    return replace(adapter, metadata=strength_note(0.8))


def drawn(base: Base, prompt: str, adapter: Adapter) -> np.ndarray:
    [image] = to_images(draw(base, [Picture(prompt, 0, adapter)], Sampling(2, 2.0)))
    return np.asarray(image).astype(int)


def test_a_stored_adapter_is_drawn_with_a_subject_and_without(base: Base, beach: Adapter, tmp_path: Path) -> None:
    beach.save(tmp_path / "kept" / "beach.safetensors")
    (tmp_path / "kept" / "notes.txt").write_text("not an adapter")
    stored = read_stored(base, tmp_path / "kept")
    assert list(stored) == ["beach"]

    def end(entry: Entry, event: Event) -> None:
        entry.tell(event)

    easel = Easel(base, library_of(base, tmp_path), None, SETTINGS, end, lambda name, value: None, stored)
    requests = [PLAIN, replace(PLAIN, prompt="a sketch of [V]", subject="s0")]
    ears = [Ear(), Ear()]
    for request, ear in zip(requests, ears, strict=True):
        easel.take(Entry(request, ear, easel.check(request), lambda: None))
    while easel.busy:
        easel.step(0.0)
    for wrong in ("snow", "../beach", "beach.safetensors"):
        with pytest.raises(UnknownPromptAdapterError, match="use one of auto, off, beach"):
            easel.check(replace(PLAIN, prompt_adapter=wrong))
    with pytest.raises(InputError, match="refine"):
        easel.check(replace(requests[1], refine=2))
    easel.close()
    alone, both = beach.scaled(0.5), compose([(subject(base, 0), 0.9), (beach, 0.5)])  # half of what it takes off
    for request, ear, adapter in zip(requests, ears, (alone, both), strict=True):
        got, details = ear.done()
        assert np.abs(got - drawn(base, request.prompt, adapter)).max() <= 1  # rounding to 8 bits
        assert details.notes["prompt_adapter"] == f"beach ({stored['beach'][0][:12]}) × 0.5"
    assert np.abs(ears[0].done()[0] - drawn(base, PLAIN.prompt, beach)).max() > 1  # the scale is in it


def test_what_cannot_be_asked_for_is_refused_at_the_start(base: Base, beach: Adapter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        read_stored(base, tmp_path / "nowhere")
    for name in ("auto", "off", ".hidden", "a b", "x" * 65):
        beach.save(tmp_path / name / f"{name}.safetensors")
        with pytest.raises(InputError, match="cannot be the name of a prompt adapter"):
            read_stored(base, tmp_path / name)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(AdapterFileError, match="cut"):
        read_stored(base, tmp_path / "cut")
    random_adapter(AdapterSpec("other:1", base.sites(), 2, 1.0), 0).save(tmp_path / "other" / "a.safetensors")
    with pytest.raises(AdapterMismatchError, match="other:1"):
        read_stored(base, tmp_path / "other")
    subject(base, 0).save(tmp_path / "subject" / "a.safetensors")
    with pytest.raises(InputError, match=r"has learned \[V\]"):
        read_stored(base, tmp_path / "subject")
