"""A slot in the weights against the same slot in the bank, and the base bit for bit afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from palp.bank import AdapterBank, key
from palp.base import Base
from palp.draw import Picture, Sampling, draw
from palp.merge import Merge
from palp.sheets import to_images
from serving.contract import PictureRequest
from serving.engine.easel import Easel
from serving.engine.entry import Entry
from serving.engine.merging import KNOWN, MERGE_FOR, MergeCosts
from serving.engine.settings import EngineSettings
from serving.engine.slots import BARE, Slots
from tests.adapters import Tolerance
from tests.engines import Ear, library_of, subject
from tests.tiny import Kind, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
MERGED: Tolerance = {"rtol": 1e-4, "atol": 2e-5}  # float32, other order of sums, through 20 layers


def weights(base: Base) -> dict[str, tuple[int, Tensor]]:
    """Every tensor of the denoiser: which object it is, and a copy."""
    return {name: (id(tensor), tensor.detach().clone()) for name, tensor in base.unet.named_parameters()}


def assert_untouched(base: Base, before: dict[str, tuple[int, Tensor]]) -> None:
    after = dict(base.unet.named_parameters())
    assert after.keys() == before.keys()
    for name, (which, value) in before.items():
        assert id(after[name]) == which, name
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@torch.no_grad()
def test_merged_weights_draw_as_the_slot_does_and_go_again(kind: Kind) -> None:
    base = tiny_base(kind)
    before = weights(base)
    bank = AdapterBank(base.unet, subject(base, 0).spec, 2).attach()
    for slot in range(2):
        bank.write(slot, subject(base, slot))
    queries = [site.name for site in base.sites() if site.name.endswith("to_q")]
    for site in queries:
        bank.up[key(site)][1] = 0
    merge = Merge(base.unet, bank, {site.name for site in base.sites("cross-kv")})
    x_t, t, text = torch.randn(2, *base.latent_shape), torch.tensor([10, 700]), base.encode_prompts(["cat", ""])
    bare = base.predict(x_t, t, base.project(text))
    projected, expected = [], []
    for slot in (0, 1):
        with bank.route(torch.tensor([slot, slot])):
            projected.append(base.project(text))
            expected.append(base.predict(x_t, t, projected[slot]))
        assert (expected[slot] - bare).abs().max() > 100 * MERGED["atol"]
    for slot in (0, 1):  # the second in the place of the first
        merge.merge(slot)
        assert merge.slot == slot
        own = {name for name, tensor in base.unet.named_parameters() if id(tensor) == before[name][0]}
        assert all((f"{site}.weight" in own) == (slot == 1) for site in queries)
        torch.testing.assert_close(base.predict(x_t, t, projected[slot]), expected[slot], **MERGED)
    merge.restore()
    assert merge.slot is None
    assert_untouched(base, before)
    assert torch.equal(base.predict(x_t, t, base.project(text)), bare)
    bank.detach()


def test_a_merge_that_fails_leaves_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("sd1")
    before = weights(base)
    bank = AdapterBank(base.unet, subject(base, 0).spec, 1)
    bank.write(0, subject(base, 0))
    addmm, calls = torch.addmm, []

    def failing(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return addmm(*arguments, **options)

    monkeypatch.setattr(torch, "addmm", failing)
    merge = Merge(base.unet, bank)
    with pytest.raises(RuntimeError, match="out of memory"):
        merge.merge(0)
    assert merge.slot is None
    assert_untouched(base, before)


@pytest.fixture
def merging(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether merges pay, whatever this machine's times are; then they do for `MERGE_FOR` steps."""

    def set_to(pays: bool) -> None:
        monkeypatch.setattr(MergeCosts, "pays", lambda costs, rows, left: pays and left >= MERGE_FOR)

    return set_to


def easel(base: Base, root: Path, most: int = 2) -> Easel:
    settings = EngineSettings(max_batch=most, slots=2 * most, subject_rank=2)
    return Easel(base, library_of(base, root), None, settings, Entry.tell, lambda name, value: None)


def take(own: Easel, request: PictureRequest) -> Ear:
    ear = Ear()
    own.take(Entry(request, ear, own.check(request), lambda: None))
    return ear


def test_the_engine_merges_what_it_draws_alone_and_for_long(tmp_path: Path, merging: Callable[[bool], None]) -> None:
    merging(True)
    base = tiny_base("sd1")
    before = weights(base)
    own = easel(base, tmp_path)
    slots = own._preparation.slots
    merged: list[bool] = []

    def drawn(own: Easel) -> list[Any]:
        """One for long; a short one of another subject joins after two steps, and leaves."""
        merged.clear()
        ears = [take(own, PictureRequest("a [V]", subject="s0", seed=1, steps=10))]
        for step in range(10):
            if step == 2:
                ears.append(take(own, PictureRequest("a [V]", subject="s1", seed=2, steps=2)))
            own.step(0.0)
            merged.append(own._preparation.slots.merged != BARE)
        return [ear.done()[0] for ear in ears]

    got = drawn(own)
    assert merged == [True, True, False, False, *[True] * 6]  # to the end, though fewer than MERGE_FOR steps are left
    assert MERGE_FOR < 6
    own.close()
    assert_untouched(base, before)
    merging(False)
    plain = easel(base, tmp_path / "again")
    expected = drawn(plain)
    assert not any(merged)
    plain.close()
    for one, other in zip(got, expected, strict=True):
        assert abs(one - other).max() <= 1  # rounding to 8 bits
    assert slots.merged == BARE


def test_a_slot_that_is_written_again_does_not_stay_in_the_weights(
    tmp_path: Path, merging: Callable[[bool], None]
) -> None:
    merging(True)
    base = tiny_base("sd1")
    own = easel(base, tmp_path, most=1)
    own._preparation.slots.close()
    own._preparation.slots = slots = Slots(base, rank=2, count=1)
    for scale in (1.0, -1.0, 0.5):  # one after the other in the only slot
        ear = take(own, PictureRequest("a [V]", subject="s0", steps=5, subject_scale=scale))
        assert slots.merged == BARE
        while own.busy:
            own.step(0.0)
        assert slots.merged == 1
        picture = Picture("a [V]", 0, subject(base, 0).scaled(scale))
        expected = np.asarray(to_images(draw(tiny_base("sd1"), [picture], Sampling(5, 7.5)))[0]).astype(int)
        assert abs(ear.done()[0] - expected).max() <= 1  # rounding to 8 bits
    own.close()


def test_merging_is_no_coarser_than_a_slot_in_short_types(tmp_path: Path, merging: Callable[[bool], None]) -> None:
    merging(True)

    def drawn(dtype: torch.dtype, where: str) -> Any:
        own = easel(tiny_base("sd1", dtype), tmp_path / where)
        ears = []
        for seed in range(4):
            ears.append(take(own, PictureRequest("a [V]", subject="s0", seed=seed, steps=8)))
            while own.busy:
                own.step(0.0)
        own.close()
        return np.stack([ear.done()[0] for ear in ears]).astype(float)

    merged = drawn(torch.bfloat16, "merged")
    merging(False)
    in_slot, exact = drawn(torch.bfloat16, "slot"), drawn(torch.float32, "exact")
    error, error_in_slot = (np.sqrt(((side - exact) ** 2).mean()) for side in (merged, in_slot))
    assert not np.array_equal(merged, in_slot)
    assert 0 < error < 1.5 * error_in_slot


def test_a_merge_is_tried_after_a_few_steps_in_the_slot() -> None:
    costs = MergeCosts()
    for _ in range(KNOWN):
        assert not costs.pays(2, 100)
        costs.stepped(2, False, 1.0)
    assert not costs.pays(2, MERGE_FOR - 1)
    assert costs.pays(2, MERGE_FOR)
    assert not costs.pays(4, 100)  # nothing is known of so many rows


def test_a_merge_is_chosen_by_what_it_costs_and_saves() -> None:
    costs = MergeCosts()
    for slower in (2.0, 0.0, 0.5):  # the first is that of an installing, another one of other work
        costs.stepped(2, False, 1.0 + slower)
        costs.stepped(2, True, 0.75 + slower)
        costs.merged(1.0 + slower)
    assert not costs.pays(2, 4)  # four times .25 saved, and 1.0 to pay
    assert costs.pays(2, 5)


def test_a_merge_that_saves_nothing_is_never_chosen() -> None:
    costs = MergeCosts()
    for _ in range(KNOWN):
        costs.stepped(2, False, 1.0)
        costs.stepped(2, True, 1.01)
        costs.merged(0.01)
    assert not costs.pays(2, 1000)


def test_the_engine_measures_both_kinds_of_steps(tmp_path: Path) -> None:
    own = easel(tiny_base("sd1"), tmp_path)
    take(own, PictureRequest("a [V]", subject="s0", steps=KNOWN + MERGE_FOR + 1))
    merged = []
    while own.busy:
        own.step(0.0)
        merged.append(own._preparation.slots.merged != BARE)
    assert merged == [False] * KNOWN + [True] * (MERGE_FOR + 1)
    assert [len(times) for times in own._costs._steps.values()] == [KNOWN, MERGE_FOR + 1]
    assert len(own._costs._merges) == 1
    own.close()
