"""Pictures of one batch, each through its own adapter: as if each were drawn alone with merged weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from palp.adapter import AdapterSpec
from palp.base import Base, sample
from palp.base.sample import classifier_free
from palp.draw import BATCH, LATENTS, Picture, Sampling, batch_size, draw
from palp.errors import AdapterMismatchError, InputError, UnknownPlaceholderError
from palp.opening import Opening
from tests.adapters import merged, random_adapter
from tests.tiny import Kind, tiny_base

SAMPLING = Sampling(steps=3, guidance=2.0)


def spec(base: Base, rank: int) -> AdapterSpec:
    return AdapterSpec(base.fingerprint, base.sites(), rank, alpha=2.0)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_each_picture_is_that_of_its_own_adapter(kind: Kind) -> None:
    base = tiny_base(kind)
    word = {"[V]": base.embedding_shapes()}
    small, large = random_adapter(spec(base, 2), 1, word), random_adapter(spec(base, 3), 2, word)
    pictures = [Picture("a photo of [V]", 3, small), Picture("cat", 5), Picture("a [V]", 4, large)]
    drawn = draw(base, pictures, SAMPLING)
    for row, picture in zip(drawn, pictures, strict=True):
        twin = tiny_base(kind)
        words = picture.adapter.placeholders if picture.adapter else {}
        if picture.adapter is not None:
            twin.unet.load_state_dict(merged(twin.unet, picture.adapter).state_dict())
        text, null = twin.encode_prompts([picture.prompt], words), twin.encode_prompts([""])
        alone = sample(twin, text, null, [picture.seed], steps=3, guidance=2.0)
        torch.testing.assert_close(row, alone[0], rtol=0, atol=1e-4)  # float32, other kernels for a batch


def test_an_opening_has_its_own_prompt_and_adapter_down_to_its_timestep() -> None:
    base, prompt = tiny_base("sd1"), "a sketch of [V] in rain"
    word = {"[V]": base.embedding_shapes()}
    adapter = random_adapter(spec(base, 2), 1, word)
    opening = replace(random_adapter(spec(base, 3), 2, word), placeholders=adapter.placeholders)
    sampling = replace(SAMPLING, opening=Opening(0.5, guidance=4.0))
    opened, plain, bare = (Picture(prompt, 3, adapter, opening), Picture(prompt, 3, adapter), Picture("cat", 3))
    drawn = draw(base, [opened, plain, bare], sampling)
    guides = []
    for text, part, scale in (("a photo of [V]", opening, 4.0), (prompt, adapter, sampling.guidance)):
        twin = tiny_base("sd1")
        twin.unet.load_state_dict(merged(twin.unet, part).state_dict())
        state = twin.encode_prompts([text], adapter.placeholders)
        guides.append(classifier_free(twin, state, twin.encode_prompts([""]), scale))
    seen: list[int] = []

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0] < 500))
        return guides[seen[-1]](x_t, t)

    null = base.encode_prompts([""])
    expected = sample(base, null, null, [3], steps=3, guide=guide)
    assert seen == [0, 1, 1]
    torch.testing.assert_close(drawn[0], expected[0], rtol=0, atol=1e-4)  # float32, other kernels for a batch
    torch.testing.assert_close(drawn[1:], draw(base, [plain, bare], SAMPLING), rtol=0, atol=1e-4)
    assert (drawn[0] - drawn[1]).abs().max() > 0.01


def test_drawing_leaves_the_base_as_it_was() -> None:
    base = tiny_base("sd1")
    plain = [Picture("cat", 0)]
    before = draw(base, plain, SAMPLING)
    draw(base, [Picture("cat", 0, random_adapter(spec(base, 2), 1))], SAMPLING)
    assert torch.equal(draw(base, plain, SAMPLING), before)


def test_more_pictures_than_a_batch_and_a_report_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    base, steps = tiny_base("sd1"), []
    pictures = [Picture("cat", seed) for seed in range(3)]
    together = draw(base, pictures, SAMPLING)
    monkeypatch.setattr("palp.draw.BATCH", 2)
    apart = draw(base, pictures, SAMPLING, lambda: steps.append(1))
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-4)  # float32, other kernels for a batch
    assert len(steps) == 2 * SAMPLING.steps


def test_a_gpu_is_given_more_of_small_pictures() -> None:
    base = tiny_base("sd1")
    side = base.latent_shape[1]
    on_gpu = replace(base, device=torch.device("cuda"))
    assert batch_size(base) == BATCH
    assert batch_size(on_gpu) == LATENTS // side**2 > BATCH


def test_refusals() -> None:
    base = tiny_base("sd1")
    adapter = random_adapter(spec(base, 2), 1)
    with pytest.raises(InputError, match=r"opening is 1\.5.* from 0 for none to 1"):
        Opening(1.5)
    with pytest.raises(UnknownPlaceholderError, match=r"\[V\]"):
        draw(base, [Picture("[V]", 0, adapter)], SAMPLING)
    other = random_adapter(AdapterSpec("other:1", base.sites(), 2, 2.0), 1)
    with pytest.raises(AdapterMismatchError, match="other:1"):
        draw(base, [Picture("cat", 0, other)], SAMPLING)
    for given, words in (
        (None, r"scale of 1e\+38 is too large"),
        (adapter, "or the strength of an adapter is too large"),
    ):
        with pytest.raises(InputError, match=words):
            draw(base, [Picture("cat", 0, given)], Sampling(2, 1e38))
