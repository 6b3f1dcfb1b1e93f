"""Keys and values of the text, made once a picture with the adapter's part in them, against making them every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palp.adapter import Adapter
from palp.bank import AdapterBank
from palp.base import Base, TextState, load_base, sample
from palp.draw import Picture, Sampling, draw
from palp.sheets import to_images
from serving.contract import PictureRequest
from serving.engine.easel import Easel
from serving.engine.entry import Entry
from serving.engine.settings import EngineSettings
from tests.adapters import Tolerance
from tests.engines import Ear, library_of, subject
from tests.tiny import KINDS, Kind, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
ONCE: Tolerance = {"rtol": 1e-5, "atol": 1e-5}  # float32: the same layers on the same rows, in another batch at most
PROMPTS = ["a photo of a cat", "", "cat"]
SLOTS = torch.tensor([2, 0, 1])


def base_of(kind: Kind | Literal["icons"]) -> Base:
    return load_base("icons", "cpu", "float32") if kind == "icons" else tiny_base(kind)


@contextmanager
def calls(base: Base) -> Iterator[Counter[str]]:
    """How often each layer that makes the text's keys or values runs inside the block."""
    counts: Counter[str] = Counter({site.name: 0 for site in base.sites("cross-kv")})

    def counting(name: str) -> torch.utils.hooks.RemovableHandle:
        layer: nn.Module = base.unet.get_submodule(name)
        return layer.register_forward_pre_hook(lambda layer, inputs: counts.update([name]))

    handles = [counting(name) for name in counts]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def drawn_per_step(base: Base, prompt: str, adapter: Adapter, seed: int, steps: int) -> np.ndarray:
    """The slow twin: keys and values of the text are made at every step."""
    bank = AdapterBank(base.unet, adapter.spec, 1).attach()
    bank.write(0, adapter)
    text = base.encode_prompts(["", prompt], adapter.placeholders)

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        null, with_text = base.predict(x_t.repeat(2, 1, 1, 1), t.repeat(2), text).chunk(2)
        return null + 7.5 * (with_text - null)

    with bank.route(torch.tensor([0, 0])):
        picture = sample(base, text[:1], text[:1], [seed], steps=steps, guide=guide)
    bank.detach()
    return np.asarray(to_images(picture)[0]).astype(int)


@pytest.mark.parametrize("kind", ["icons", *KINDS])
@torch.no_grad()
def test_projected_text_gives_what_the_denoiser_makes_itself(kind: Kind | Literal["icons"]) -> None:
    base = base_of(kind)
    adapters = [subject(base, seed) for seed in range(3)]
    bank = AdapterBank(base.unet, adapters[0].spec, 3).attach()
    for slot, adapter in enumerate(adapters):
        bank.write(slot, adapter)
    text, x_t = base.encode_prompts(PROMPTS), torch.randn(3, *base.latent_shape)
    with bank.route(SLOTS):
        with calls(base) as made:
            projected = base.project(text)
        assert set(made.values()) == {1}
        one_by_one = []
        for row in range(3):
            with bank.route(SLOTS[[row]]):
                one_by_one.append(base.project(text[[row]]))
        for t in (torch.tensor([10, 500, 990]), torch.tensor([700, 20, 20])):
            with calls(base) as made:
                got, joined = (base.predict(x_t, t, one) for one in (projected, TextState.cat(one_by_one)))
            assert set(made.values()) == {0}
            expected = base.predict(x_t, t, text)
            torch.testing.assert_close(got, expected, **ONCE)
            torch.testing.assert_close(joined, expected, **ONCE)
    with bank.route(SLOTS.flip(0)):  # keys and values of other adapters show
        assert (base.predict(x_t, t, projected) - base.predict(x_t, t, text)).abs().max() > 100 * ONCE["atol"]
    bank.detach()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_drawing_makes_them_once(guidance: float) -> None:
    base = tiny_base("sd1")
    with calls(base) as made:
        draw(base, [Picture("a [V]", 0, subject(base, 0)), Picture("cat", 1)], Sampling(steps=4, guidance=guidance))
    assert set(made.values()) == {1}


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_engine_makes_them_once_a_picture_and_again_for_another_adapter(kind: Kind, tmp_path: Path) -> None:
    base = tiny_base(kind)
    settings = EngineSettings(max_batch=2, slots=4, subject_rank=2)
    own = Easel(base, library_of(base, tmp_path), None, settings, Entry.tell, lambda name, value: None)
    ears = []
    for turn, name in enumerate(("s0", "s1", "s0")):  # one joins while another is on its way
        request = PictureRequest("a [V]", subject=name, seed=turn, steps=3, subject_scale=1.0 + turn)
        ears.append(Ear())
        with calls(base) as made:
            own.take(Entry(request, ears[-1], own.check(request), lambda: None))
        assert set(made.values()) == {1}
        with calls(base) as made:
            own.step(0.0)
            own.step(0.0)
        assert set(made.values()) == {0}
    while own.busy:
        own.step(0.0)
    own.close()
    for turn, ear in enumerate(ears):
        adapter = subject(base, turn % 2).scaled(1.0 + turn)
        plain = drawn_per_step(base, "a [V]", adapter, seed=turn, steps=3)
        assert abs(ear.done()[0] - plain).max() <= 1  # rounding to 8 bits


def test_a_batch_is_joined_again_only_when_it_changes(tmp_path: Path) -> None:
    base = tiny_base("sd1")
    settings = EngineSettings(max_batch=3, slots=6, subject_rank=2)
    own = Easel(base, library_of(base, tmp_path), None, settings, Entry.tell, lambda name, value: None)

    def take(name: str, steps: int) -> None:
        request = PictureRequest("a [V]", subject=name, steps=steps)
        own.take(Entry(request, Ear(), own.check(request), lambda: None))

    def joined() -> TextState:
        own.step(0.0)
        return own._shared.of(own._drawings)

    take("s0", 9)
    take("s1", 4)
    first = joined()
    assert joined() is first
    take("s1", 9)
    assert joined() is not first
    third = joined()  # the second is done
    assert (len(first), len(third)) == (4, 4)
    for row, drawing in enumerate(own._drawings):
        assert torch.equal(third.hidden[2 * row : 2 * row + 2], drawing.stage.text.hidden)
        assert third.projected is not None
        assert drawing.stage.text.projected is not None
        for layer, made in drawing.stage.text.projected.items():
            assert torch.equal(third.projected[layer][2 * row : 2 * row + 2], made)
    own.clear()
    own.close()
