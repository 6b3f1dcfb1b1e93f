"""The bank against K merged denoisers, K PEFT models, and itself with other neighbours."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from palp.adapter import Adapter, AdapterSpec, Site
from palp.bank import AdapterBank, key
from palp.errors import AdapterMismatchError, InputError
from tests.adapters import Tolerance, all_sites, merged, random_adapter, spec_of
from tests.tiny import WIDTH, tiny_pipeline

FORWARD: Tolerance = {"rtol": 1e-4, "atol": 2e-5}  # float32, other order of sums, through 20 layers
TRAINED: Tolerance = {"rtol": 1e-5, "atol": 1e-7}  # float64, but for the embedding of time
IN_FLOAT64: Tolerance = {"rtol": 1e-4, "atol": 5e-6}  # ΔW and the embedding of time stay float32
ALONE: Tolerance = {"rtol": 1e-4, "atol": 1e-5}  # other batch sizes take other matrix kernels
BFLOAT16: Tolerance = {"rtol": 0.02, "atol": 0.1}  # 8 bits of mantissa, on sums of terms up to about 10


@pytest.fixture
def unet() -> Iterator[nn.Module]:
    denoiser: nn.Module = tiny_pipeline("sd1").unet.requires_grad_(False)
    yield denoiser
    assert not any(layer._forward_hooks for layer in denoiser.modules())


@pytest.fixture
def bank(unet: nn.Module) -> Iterator[AdapterBank]:
    bank = AdapterBank(unet, spec_of(unet), slots=3).attach()
    for slot in range(3):
        bank.write(slot, random_adapter(bank.spec, slot))
    yield bank
    bank.detach()


Batch = tuple[Tensor, Tensor, Tensor]


def _batch(size: int, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, 8, 8, generator=rng)
    return x, torch.arange(size) * 100 + 5, torch.randn(size, 7, WIDTH, generator=rng)


def _rows(batch: Batch, rows: list[int]) -> Batch:
    x, t, text = batch
    return x[rows], t[rows], text[rows]


def _predict(unet: nn.Module, batch: Batch) -> Tensor:
    output: Tensor = unet(*batch).sample
    return output


ROUTES = [
    pytest.param([0, 1, 2], id="every slot once, in order"),
    pytest.param([0, 0, 1, 1, 2, 2], id="equal runs"),
    pytest.param([2, 2, 0, 0], id="equal runs of some slots"),
    pytest.param([1, 1, 1], id="one slot"),
    pytest.param([2, 0, 0, 1, 2], id="mixed"),
]


def test_a_bank_holds_adapters_in_their_order_and_spare_slots_are_the_bare_base(unet: nn.Module) -> None:
    adapters = [random_adapter(spec_of(unet), seed) for seed in (1, 2)]
    bank = AdapterBank.holding(unet, adapters, spare=1)
    assert bank.slots == 3
    for slot, adapter in enumerate(adapters):
        found = bank.read(slot)
        assert all(torch.equal(found.up[site], up) for site, up in adapter.up.items())
    assert not any(up.any() for up in bank.read(2).up.values())


@pytest.mark.parametrize("slots", ROUTES)
@torch.no_grad()
def test_each_sample_goes_through_its_own_merged_weights(unet: nn.Module, bank: AdapterBank, slots: list[int]) -> None:
    """In float64: in float32, what a machine's kernels round is as large as what is to be told apart."""
    unet.double()
    bank.double()
    x, t, text = _batch(len(slots))
    batch = x.double(), t, text.double()
    with bank.route(torch.tensor(slots)):
        got = _predict(unet, batch)
    bank.detach()
    for row, slot in enumerate(slots):
        expected = _predict(merged(unet, bank.read(slot)), _rows(batch, [row]))
        torch.testing.assert_close(got[[row]], expected, **IN_FLOAT64)


@torch.no_grad()
def test_a_site_costs_nothing_where_no_adapter_of_the_batch_has_it(
    unet: nn.Module, bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = [site.name for site in bank.spec.sites if "attn1" in site.name]
    for site in fewer:
        for slot in (0, 1):
            bank.up[key(site)][slot] = 0
    products: list[int] = []
    bmm = torch.bmm

    def counted(first: Tensor, second: Tensor) -> Tensor:
        products.append(len(first))
        return bmm(first, second)

    monkeypatch.setattr(torch, "bmm", counted)
    batch = _batch(2)
    for route, count in (([0, 1], len(bank.spec.sites) - len(fewer)), ([0, 2], len(bank.spec.sites))):
        products.clear()
        with bank.route(torch.tensor(route)):
            got = _predict(unet, batch)
        assert len(products) == count
        for row, slot in enumerate(route):
            with bank.route(torch.tensor([slot])):
                torch.testing.assert_close(got[[row]], _predict(unet, _rows(batch, [row])), **ALONE)
    with bank.route(torch.tensor([0])):
        before = _predict(unet, _rows(batch, [0]))
        bank.up[key(fewer[0])][0] = 1  # written while the routing stands
        assert not torch.allclose(before, _predict(unet, _rows(batch, [0])), atol=0.01)


@torch.no_grad()
def test_scales_are_per_sample(unet: nn.Module, bank: AdapterBank) -> None:
    batch, scales = _batch(4), torch.tensor([0.0, 0.5, 1.0, -1.0])
    with bank.route(torch.tensor([1, 1, 0, 2]), scales):
        got = _predict(unet, batch)
    with bank.route(torch.tensor([0, 2]), 0.25):
        shared = _predict(unet, _rows(batch, [0, 1]))
    bank.detach()
    for row, slot in enumerate([1, 1, 0, 2]):
        expected = _predict(merged(unet, bank.read(slot), float(scales[row])), _rows(batch, [row]))
        torch.testing.assert_close(got[[row]], expected, **FORWARD)
    expected = _predict(merged(unet, bank.read(2), 0.25), _rows(batch, [1]))
    torch.testing.assert_close(shared[[1]], expected, **FORWARD)


@torch.no_grad()
def test_without_a_route_the_base_is_bare_to_the_bit(unet: nn.Module, bank: AdapterBank) -> None:
    batch = _batch(2)
    inside = _predict(unet, batch)
    with bank.route(torch.tensor([0, 1])):
        routed = _predict(unet, batch)
        with bank.route(None):
            nested = _predict(unet, batch)
        again = _predict(unet, batch)
    after = _predict(unet, batch)
    bank.detach()
    base = _predict(unet, batch)
    assert torch.equal(inside, base)
    assert torch.equal(nested, base)
    assert torch.equal(after, base)
    assert torch.equal(again, routed)
    assert not torch.allclose(routed, base, atol=0.01)


@torch.no_grad()
def test_a_new_and_a_cleared_slot_are_the_base(unet: nn.Module, bank: AdapterBank) -> None:
    bank.clear(1)
    bank.init_(2, seed=0)  # B = 0
    batch = _batch(2)
    with bank.route(torch.tensor([1, 2])):
        got = _predict(unet, batch)
    assert torch.equal(got, _predict(unet, batch))


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_neighbours(unet: nn.Module, bank: AdapterBank) -> None:
    """In float64, for other batch sizes take other kernels, and some machines' float32 rounds more than others'."""
    unet.double()
    bank.double()
    x, t, text = _batch(4)
    batch = x.double(), t, text.double()
    with bank.route(torch.tensor([2, 0, 1, 0])):
        together = _predict(unet, batch)
    with bank.route(torch.tensor([0])):
        alone = _predict(unet, _rows(batch, [3]))
    torch.testing.assert_close(together[[3]], alone, **IN_FLOAT64)


@torch.no_grad()
def test_two_banks_at_once_are_the_concatenated_adapter(unet: nn.Module, bank: AdapterBank) -> None:
    other = AdapterBank(unet, replace(bank.spec, rank=7, alpha=2.0), slots=2).attach()
    for slot in range(2):
        other.write(slot, random_adapter(other.spec, 10 + slot))
    batch = _batch(2)
    with bank.route(torch.tensor([2, 0]), 0.5), other.route(torch.tensor([1, 1]), 2.0):
        both = _predict(unet, batch)
    for row, slot in enumerate([2, 0]):
        summed = bank.read(slot).concat(other.read(1), 0.5, 2.0)
        one = AdapterBank(unet, summed.spec, slots=1).attach()
        one.write(0, summed)
        with one.route(torch.tensor([0])):
            expected = _predict(unet, _rows(batch, [row]))
        one.detach()
        torch.testing.assert_close(both[[row]], expected, **FORWARD)
    other.detach()


def test_read_gives_what_write_took(bank: AdapterBank) -> None:
    adapter = random_adapter(bank.spec, 99)
    others = [bank.read(slot) for slot in (0, 2)]
    bank.write(1, adapter)
    back = bank.read(1)
    for name in adapter.down:
        assert torch.equal(back.down[name], adapter.down[name])
        assert torch.equal(back.up[name], adapter.up[name])
    for slot, before in zip((0, 2), others, strict=True):
        assert all(torch.equal(bank.read(slot).up[name], before.up[name]) for name in before.up)
    back.up[next(iter(back.up))].fill_(7.0)  # a copy
    assert torch.equal(bank.read(1).up[next(iter(back.up))], adapter.up[next(iter(back.up))])


def test_init_is_kaiming_as_in_peft_and_the_same_in_any_slot(bank: AdapterBank) -> None:
    bank.init_(0, seed=5)
    bank.init_(2, seed=5)
    bank.init_(1, seed=6)
    first, second, other = bank.read(0), bank.read(2), bank.read(1)
    for site in bank.spec.sites:
        down = first.down[site.name]
        assert torch.equal(down, second.down[site.name])
        assert not torch.equal(down, other.down[site.name])
        assert not first.up[site.name].any()
        bound = site.in_features**-0.5
        assert 0.8 * bound < down.abs().max() <= bound
        assert abs(float(down.mean())) < 0.2 * bound


def _peft_model(unet: nn.Module, start: Adapter) -> nn.Module:
    """A PEFT LoRA of its own on a copy of the denoiser, with the same start."""
    spec = start.spec
    config = LoraConfig(r=spec.rank, lora_alpha=int(spec.alpha), target_modules=[site.name for site in spec.sites])
    model: nn.Module = inject_adapter_in_model(config, copy.deepcopy(unet))
    with torch.no_grad():
        for site in spec.sites:
            down, up = _peft_pair(model, site)
            down.copy_(start.down[site.name])
            up.copy_(start.up[site.name])
    return model


def _peft_pair(model: nn.Module, site: Site) -> tuple[Tensor, Tensor]:
    layer: Any = model.get_submodule(site.name)
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def test_a_bank_learns_what_separate_peft_models_learn(unet: nn.Module) -> None:
    """Three slots, five AdamW steps each on data of their own, two samples a slot; in float64, for AdamW makes whole
    steps of what a gradient was rounded by."""
    bank = AdapterBank(unet, spec_of(unet), slots=3)
    for slot in range(3):
        bank.init_(slot, seed=slot)
    peft_models = [_peft_model(unet, bank.read(slot)).double() for slot in range(3)]
    unet.double()
    bank.double()
    bank.attach()
    slots = torch.tensor([0, 0, 1, 1, 2, 2])
    ours = torch.optim.AdamW(bank.parameters(), lr=1e-2)
    theirs = [torch.optim.AdamW((p for p in m.parameters() if p.requires_grad), lr=1e-2) for m in peft_models]
    for step in range(5):
        x, t, text = _batch(6, seed=step)
        batch, target = (x.double(), t, text.double()), torch.randn(6, 4, 8, 8)
        with bank.route(slots):
            losses = (_predict(unet, batch) - target).square().mean(dim=(1, 2, 3))
        ours.zero_grad()
        losses.sum().backward()
        ours.step()
        for slot, (model, optimiser) in enumerate(zip(peft_models, theirs, strict=True)):
            rows = [2 * slot, 2 * slot + 1]
            own = (_predict(model, _rows(batch, rows)) - target[rows]).square().mean(dim=(1, 2, 3))
            torch.testing.assert_close(losses[rows], own, **TRAINED)
            optimiser.zero_grad()
            own.sum().backward()
            optimiser.step()
    bank.detach()
    for slot, model in enumerate(peft_models):
        learned = bank.read(slot)
        for site in bank.spec.sites:
            down, up = _peft_pair(model, site)
            torch.testing.assert_close(learned.down[site.name], down.detach(), **TRAINED)
            torch.testing.assert_close(learned.up[site.name], up.detach(), **TRAINED)


@pytest.mark.parametrize("slots", [[0, 0, 2, 2], [2, 0, 0, 2], [0, 1, 2]])
def test_gradients_stay_in_their_slots(unet: nn.Module, bank: AdapterBank, slots: list[int]) -> None:
    with bank.route(torch.tensor(slots)):
        _predict(unet, _batch(len(slots)))[0].square().sum().backward()
    for name, parameter in bank.named_parameters():
        assert parameter.grad is not None
        for slot in range(3):
            assert bool(parameter.grad[slot].any()) == (slot == slots[0]), name


@pytest.mark.parametrize("slots", [[0, 1, 2], [0, 0, 1, 1, 2, 2], [1, 0, 2, 0]])
def test_nan_in_one_slot_reaches_no_other(unet: nn.Module, bank: AdapterBank, slots: list[int]) -> None:
    batch = _batch(len(slots))

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        bank.zero_grad()
        with bank.route(torch.tensor(slots)):
            output = _predict(unet, batch)
            output.square().mean(dim=(1, 2, 3)).sum().backward()
        return output.detach(), {name: p.grad.clone() for name, p in bank.named_parameters() if p.grad is not None}

    clean, clean_gradients = run()
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter[1] = float("nan")
    output, gradients = run()
    healthy = [row for row, slot in enumerate(slots) if slot != 1]
    assert output[slots.index(1)].isnan().all()
    torch.testing.assert_close(output[healthy], clean[healthy], rtol=0, atol=0)
    assert gradients.keys() == clean_gradients.keys() == dict(bank.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient[[0, 2]], clean_gradients[name][[0, 2]], rtol=0, atol=0)


def test_checkpointing_gives_the_same_gradients(bank: AdapterBank) -> None:
    denoiser = tiny_pipeline("sd1").unet.requires_grad_(False).train()
    twin = AdapterBank(denoiser, bank.spec, slots=3).attach()
    twin.load_state_dict(bank.state_dict())
    found = []
    for checkpointing in (False, True):
        twin.zero_grad()
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        with twin.route(torch.tensor([2, 0, 1])):
            _predict(denoiser, _batch(3)).square().sum().backward()
        found.append([p.grad for p in twin.parameters()])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain, **ALONE)
    with twin.route(torch.tensor([2, 0, 1])):
        loss = _predict(denoiser, _batch(3)).square().sum()
    with pytest.raises(torch.utils.checkpoint.CheckpointError):  # never a silently wrong gradient
        loss.backward()


@pytest.mark.parametrize("how", ["autocast", "half base"])
@torch.no_grad()
def test_half_precision_is_as_good_as_merged_weights_in_half_precision(
    unet: nn.Module, bank: AdapterBank, how: str
) -> None:
    batch, slots = _batch(3), [2, 0, 1]
    with bank.route(torch.tensor(slots)):
        full = _predict(unet, batch)
    dtype = torch.bfloat16 if how == "half base" else torch.float32
    batch = (batch[0].to(dtype), batch[1], batch[2].to(dtype))
    twins = [copy.deepcopy(unet) for _ in slots]
    unet.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        with bank.route(torch.tensor(slots)):
            half = _predict(unet, batch)
        bank.detach()
        for twin in twins:
            for layer in twin.modules():
                layer._forward_hooks.clear()
        models = [merged(twin, bank.read(slot)).to(dtype) for twin, slot in zip(twins, slots, strict=True)]
        rows = [_predict(model, _rows(batch, [row])) for row, model in enumerate(models)]
    assert half.dtype == torch.bfloat16
    assert (half - full).norm() < 1.5 * (torch.cat(rows) - full).norm()  # the roundings differ, their size does not


@pytest.mark.parametrize("how", ["autocast", "half base"])
def test_half_precision_keeps_parameters_and_gradients_in_float32(how: str) -> None:
    linear = nn.Linear(16, 8)
    layer = nn.Sequential(linear)
    spec = AdapterSpec("tiny:0", (Site("0", 16, 8),), rank=4, alpha=6.0)
    bank = AdapterBank(layer, spec, slots=2).attach()
    for slot in range(2):
        bank.write(slot, random_adapter(spec, slot))
    x, weights = torch.randn(4, 3, 16), torch.randn(4, 3, 8)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        bank.zero_grad()
        with bank.route(torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 0.5, 2.0, 1.0])):
            output = layer(x.to(linear.weight.dtype))
        (output * weights).sum().backward()
        return output, {name: p.grad for name, p in bank.named_parameters() if p.grad is not None}

    full, gradients = run()
    if how == "half base":
        layer.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        half, half_gradients = run()
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, **BFLOAT16)
    assert half_gradients.keys() == {"down.0", "up.0"}
    for name, gradient in half_gradients.items():
        assert gradient.dtype == torch.float32  # or assert_close would refuse it
        torch.testing.assert_close(gradient, gradients[name], **BFLOAT16)


def test_state_dict_holds_the_slots_only_and_restores_them(unet: nn.Module, bank: AdapterBank) -> None:
    sites = [key(site.name) for site in bank.spec.sites]
    state = bank.state_dict()
    assert set(state) == {f"{side}.{site}" for side in ("down", "up") for site in sites}
    fresh = AdapterBank(unet, bank.spec, slots=3)
    fresh.load_state_dict(state)
    for name, value in bank.named_parameters():
        assert torch.equal(fresh.get_parameter(name), value)


def test_a_deep_copy_has_its_own_slots_on_the_same_denoiser(unet: nn.Module, bank: AdapterBank) -> None:
    twin = copy.deepcopy(bank)
    twin.clear(0)
    assert bank.read(0).norms() != twin.read(0).norms()
    before = _predict(unet, _batch(1))
    with twin.route(torch.tensor([1])):
        assert torch.equal(_predict(unet, _batch(1)), before)  # not attached
        twin.attach()
        assert not torch.equal(_predict(unet, _batch(1)), before)
    twin.detach()


def test_attaching_twice_is_attaching_once(unet: nn.Module, bank: AdapterBank) -> None:
    with bank.route(torch.tensor([0])):
        once = _predict(unet, _batch(1))
        bank.attach()
        assert torch.equal(_predict(unet, _batch(1)), once)


def test_layers_without_a_token_dimension_may_be_sites() -> None:
    layer = nn.Sequential(nn.Linear(5, 3))
    spec = replace(spec_of(tiny_pipeline("sd1").unet), sites=(Site("0", 5, 3),))
    bank = AdapterBank(layer, spec, slots=2).attach()
    for slot in range(2):
        bank.write(slot, random_adapter(spec, slot))
    x, slots = torch.randn(3, 5), [1, 0, 1]
    with bank.route(torch.tensor(slots)):
        got = layer(x)
    for row, slot in enumerate(slots):
        expected = layer[0](x[row]) + bank.read(slot).delta_weight("0") @ x[row]
        torch.testing.assert_close(got[row], expected + 0 * got[row], **FORWARD)


def test_wrong_routes_are_refused(unet: nn.Module, bank: AdapterBank) -> None:
    for slots in ([0, 3], [-1], []):
        with pytest.raises(InputError, match="the bank has 0 to 2"), bank.route(torch.tensor(slots).long()):
            pass
    with pytest.raises(InputError, match="1 scales were given for 2"):  # noqa: SIM117
        with bank.route(torch.tensor([0, 1]), torch.ones(1)):
            pass
    with (
        pytest.raises(InputError, match="2 samples are routed, and the batch has 3"),
        bank.route(torch.tensor([0, 1])),
    ):
        _predict(unet, _batch(3))
    assert torch.isfinite(_predict(unet, _batch(3))).all()  # the failed block left no route behind


def test_wrong_slots_and_specs_are_refused(unet: nn.Module, bank: AdapterBank) -> None:
    adapter = random_adapter(bank.spec, 0)
    for call in (lambda: bank.read(3), lambda: bank.clear(-1), lambda: bank.write(3, adapter)):
        with pytest.raises(InputError, match="the bank has 0 to 2"):
            call()
    with pytest.raises(InputError, match="at least one slot"):
        AdapterBank(unet, bank.spec, slots=0)
    for changes in ({"rank": 3}, {"alpha": 1.0}, {"base": "tiny:1"}, {"sites": bank.spec.sites[1:]}):
        with pytest.raises(AdapterMismatchError):
            bank.write(0, random_adapter(replace(bank.spec, **changes), 0))
    bank.write(0, random_adapter(replace(bank.spec, dtype="float16"), 0))


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (Site("nowhere.to_q", 4, 4), "no such layer"),
        (Site("conv_in", 4, 32), "not a Linear"),
        (Site("time_embedding.linear_1", 3, 128), "has Linear"),
    ],
)
def test_a_denoiser_without_the_sites_is_refused(unet: nn.Module, site: Site, reason: str) -> None:
    with pytest.raises(AdapterMismatchError, match=reason):
        AdapterBank(unet, replace(spec_of(unet), sites=(site,)), slots=1)


def test_the_tiny_denoiser_has_every_kind_of_site() -> None:
    """Or the tests above would miss a part of them."""
    denoiser = UNet2DConditionModel.from_config(tiny_pipeline("sd1").unet.config)
    names = [site.name for site in all_sites(denoiser)]
    counts = [sum(part in name for name in names) for part in (".attn1.", ".attn2.", ".ff.")]
    assert counts == [4 * counts[2], 4 * counts[2], len(names) // 9]
