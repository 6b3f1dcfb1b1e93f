"""Slots: exact composition, installing in place, who gives way, and a base that nothing is merged into."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.errors import InputError
from serving.engine.slots import BARE, Part, Slots
from tests.adapters import random_adapter
from tests.engines import subject
from tests.light import light_base


@pytest.fixture
def base() -> Base:
    return light_base()


def prompt_adapter(base: Base, seed: int, rank: int = 3) -> Adapter:
    """At some of the sites only, and of another rank and alpha than a subject's."""
    sites = tuple(site for site in base.sites() if "attn2" in site.name)
    return random_adapter(AdapterSpec(base.fingerprint, sites, rank, 5.0), seed)


def test_a_slot_holds_the_exact_sum(base: Base) -> None:
    slots = Slots(base, rank=6, count=2)
    one, two = subject(base, 1), prompt_adapter(base, 2)
    slot = slots.acquire([Part("one", one, 0.7), Part("two", two, -1.3)])
    held = slots.bank.read(slot)
    for site in base.sites():
        dense = 0.7 * one.delta_weight(site.name)
        if site.name in two.down:
            dense = dense - 1.3 * two.delta_weight(site.name)
        torch.testing.assert_close(held.delta_weight(site.name), dense, rtol=1e-5, atol=1e-6)  # float32 rounding


def test_a_smaller_adapter_leaves_nothing_of_a_larger_one(base: Base) -> None:
    slots = Slots(base, rank=5, count=1)
    slots.release(slots.acquire([Part("one", subject(base, 1), 1.0), Part("two", prompt_adapter(base, 2), 1.0)]))
    small = prompt_adapter(base, 3, rank=1)
    held = slots.bank.read(slots.acquire([Part("three", small, 1.0)]))
    for site in base.sites():
        dense = small.delta_weight(site.name) if site.name in small.down else torch.zeros(())
        torch.testing.assert_close(held.delta_weight(site.name), dense.expand(site.out_features, site.in_features))


def test_the_same_combination_is_installed_once_and_the_oldest_gives_way(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = Slots._write

    def noted(own: Slots, slot: int, parts: Sequence[Part]) -> None:
        written.append(parts[0].key)
        write(own, slot, parts)

    monkeypatch.setattr(Slots, "_write", noted)
    slots = Slots(base, rank=2, count=2)
    parts = {name: [Part(name, subject(base, number), 1.0)] for number, name in enumerate("abc")}
    assert slots.acquire([]) == BARE
    first = slots.acquire(parts["a"])
    assert slots.acquire(parts["a"]) == first
    second = slots.acquire(parts["b"])
    assert len({BARE, first, second}) == 3
    with pytest.raises(InputError, match="all 2 slots are in use"):
        slots.acquire(parts["c"])
    slots.release(first)
    with pytest.raises(InputError, match="all 2 slots are in use"):
        slots.acquire(parts["c"])  # the other user of a is still there
    slots.release(first)
    slots.release(second)
    assert slots.acquire(parts["a"]) == first  # resident still, and younger than b now
    assert slots.acquire(parts["c"]) == second
    assert slots.acquire([Part("c", subject(base, 2), 1.0)]) == second
    assert (written, len(slots)) == (["a", "b", "c"], 2)
    slots.release(first)
    assert slots.acquire([Part("a", subject(base, 0), 0.5)]) == first  # another scale is another combination
    assert written == ["a", "b", "c", "a"]


def test_what_does_not_fit_is_refused_and_costs_no_slot(base: Base) -> None:
    slots = Slots(base, rank=2, count=1)
    with pytest.raises(InputError, match=r"ranks \[2, 3\].*rank 2"):
        slots.acquire([Part("a", subject(base, 0), 1.0), Part("b", prompt_adapter(base, 1), 1.0)])
    broken = subject(base, 0)
    del broken.up[base.sites()[-1].name]
    with pytest.raises(KeyError):
        slots.acquire([Part("x", broken, 1.0)])
    assert slots.acquire([Part("a", subject(base, 0), 1.0)]) == 1


def test_a_thousand_swaps_leave_the_base_bit_for_bit(base: Base) -> None:
    before = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    x, t = torch.randn(1, *base.latent_shape), torch.tensor([500])
    text = base.encode_prompts(["a cat"])
    plain = base.predict(x, t, text)
    slots = Slots(base, rank=5, count=3)
    adapters = [subject(base, seed) for seed in range(10)]
    for swap in range(1000):
        slot = slots.acquire([Part(str(swap), adapters[swap % 10], 1.0)])
        if swap % 100 == 0:
            with slots.bank.route(torch.tensor([slot])):
                assert not torch.equal(base.predict(x, t, text), plain)
        slots.release(slot)
    with slots.bank.route(torch.tensor([BARE])):
        torch.testing.assert_close(base.predict(x, t, text), plain, rtol=0, atol=0)
    slots.close()
    assert torch.equal(base.predict(x, t, text), plain)
    after = base.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
