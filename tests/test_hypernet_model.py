"""The hypernetwork: where it starts, what bounds it, what its file refuses, and how it lands in a bank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from hypernet.config import HyperConfig
from hypernet.factors import Factors
from hypernet.file import Origin, check_base, load_hypernet, save_hypernet
from hypernet.layout import alike, layer_and_kind
from hypernet.model import Hypernetwork
from hypernet.predict import Predictor
from hypernet.prompts import encode_clean
from hypernet.start import in_one_frame, mean_adapter, start_from
from hypernet.trust import fit_gate, nonsense
from palp.adapter import Adapter, AdapterSpec, Site
from palp.bank import AdapterBank
from palp.base import Base, TextShape, TextState
from palp.errors import AdapterFileError, AdapterMismatchError, InputError
from tests.adapters import random_adapter
from tests.corpora import CONFIG, deltas, regauged, tiny_corpus, tiny_hypernet
from tests.tiny import Kind, tiny_base

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # float32


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("sd1")


def prompts_states(base: Base, n: int = 3) -> TextState:
    corpus = tiny_corpus(base)
    return encode_clean(base, [prompt.text for prompt in corpus.prompts[:n]], ["cat"] * n)


@pytest.mark.parametrize("kind", ["sd1", "sd2-v", "sdxl"])
def test_every_family_gets_adapters_of_its_own_shapes(kind: Kind) -> None:
    base = tiny_base(kind)
    corpus = tiny_corpus(base)
    predictor = Predictor(base, tiny_hypernet(base, corpus, gain=1.0))
    prediction = predictor.predict(["a sketch of [V]", "a photo of [V] on a beach"], ["cat", "cap"])
    adapter = prediction.factors.adapter(1)  # shapes are checked there
    assert adapter.spec == corpus.spec
    adapter.check(base.fingerprint, base.sites())
    apart = deltas(prediction.factors)
    assert float((apart[0] - apart[1]).norm()) > 0.01 * float(apart[0].norm())


def test_an_untrained_network_predicts_the_mean(base: Base) -> None:
    hypernet = tiny_hypernet(base, tiny_corpus(base))
    prediction = hypernet(prompts_states(base))
    mean = deltas(Factors.stack([hypernet.mean()]))
    torch.testing.assert_close(deltas(prediction.factors), mean.expand(3, -1), **CLOSE)


def test_one_frame_keeps_every_delta_and_forgets_the_gauge(base: Base) -> None:
    corpus = tiny_corpus(base)
    adapters = list(corpus.adapters.values())
    again = [regauged(adapter, i) for i, adapter in enumerate(adapters)]
    site = corpus.spec.sites[1].name
    frames = []
    for rows in (adapters, again):
        down = torch.stack([adapter.down[site] for adapter in rows]).double()
        up = torch.stack([adapter.up[site] for adapter in rows]).double()
        framed = in_one_frame(down, up)
        torch.testing.assert_close(framed[1] @ framed[0], up @ down, rtol=1e-6, atol=1e-8)
        frames.append(framed)
    for left, right in zip(*frames, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapters[0].down[site], again[0].down[site], atol=0.1)


def test_the_start_does_not_depend_on_the_gauge(base: Base) -> None:
    corpus = tiny_corpus(base)
    again = replace(corpus, adapters={key: regauged(a, i) for i, (key, a) in enumerate(corpus.adapters.items())})
    left, right = tiny_hypernet(base, corpus, gain=1.0), tiny_hypernet(base, again, gain=1.0)
    for name, tensor in left.state_dict().items():
        torch.testing.assert_close(tensor, right.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_basis_spans_the_corpus_where_a_is_frozen(base: Base) -> None:
    """With one A, ΔW is linear in B: mean + basis must give every adapter back, and the mean be the exact mean."""
    corpus = tiny_corpus(base)
    first = next(iter(corpus.adapters.values()))
    adapters = [replace(adapter, down=first.down) for adapter in corpus.adapters.values()]
    hypernet = Hypernetwork(corpus.spec, base.text_shape, replace(CONFIG, basis=8))
    start_from(hypernet, adapters)
    exact = mean_adapter(adapters, rank=4)
    for number, site in enumerate(corpus.spec.sites):
        mean = hypernet.mean().delta_weight(site.name)
        torch.testing.assert_close(mean, exact.delta_weight(site.name), **CLOSE)
        eye = torch.eye(8)[:, None, :].expand(-1, len(corpus.spec.sites), -1)
        directions = deltas_of(hypernet.expand(eye.clone()), site.name) - mean.flatten()
        target = adapters[4].delta_weight(site.name).flatten() - mean.flatten()
        solution = torch.linalg.lstsq(directions.T, target[:, None]).solution
        torch.testing.assert_close((directions.T @ solution).flatten(), target, rtol=1e-3, atol=1e-4)
        assert number < len(corpus.spec.sites)


def deltas_of(factors: Factors, site: str) -> Tensor:
    return torch.stack([factors.adapter(i).delta_weight(site).flatten() for i in range(len(factors))])


def test_no_delta_exceeds_the_corpus_99th_percentile(base: Base) -> None:
    corpus = tiny_corpus(base)
    hypernet = tiny_hypernet(base, corpus, gain=50.0)
    norms = torch.tensor([list(adapter.norms().values()) for adapter in corpus.adapters.values()])
    limits = torch.quantile(norms, 0.99, dim=0)
    adapter = hypernet(prompts_states(base)).factors.adapter(0)
    got = torch.tensor(list(adapter.norms().values()))
    assert bool((got <= limits * 1.001).all())
    assert bool((got > limits * 0.99).any())  # the bound was at work


def test_predictions_land_in_the_slots_as_the_adapters_would(base: Base) -> None:
    corpus = tiny_corpus(base)
    predictor = Predictor(base, tiny_hypernet(base, corpus, gain=1.0))
    prompts = [prompt.text for prompt in corpus.prompts[:2]]
    bank = AdapterBank(base.unet, corpus.spec, 4)
    bank.write(3, random_adapter(corpus.spec, 5))
    untouched = bank.read(3)
    predictor.write(bank, [2, 0], prompts, ["cat", "cap"])
    for slot, prompt, word in ((2, prompts[0], "cat"), (0, prompts[1], "cap")):
        expected, got = predictor.predict_adapter(prompt, word), bank.read(slot)
        for site in expected.up:
            torch.testing.assert_close(got.up[site], expected.up[site], **CLOSE)
            torch.testing.assert_close(got.down[site], expected.down[site], **CLOSE)
    assert all(torch.equal(bank.read(3).up[site], untouched.up[site]) for site in untouched.up)
    assert not any(tensor.any() for tensor in bank.read(1).up.values())
    other = AdapterBank(base.unet, replace(corpus.spec, rank=3), 1)
    with pytest.raises(AdapterMismatchError, match="rank 2 was given where rank 3"):
        predictor.write(other, [0], prompts[:1], ["cat"])


def test_a_file_gives_the_same_network_back(base: Base, tmp_path: Path) -> None:
    corpus = tiny_corpus(base)
    hypernet = tiny_hypernet(base, corpus, gain=0.7)
    path = tmp_path / "hypernet.safetensors"
    save_hypernet(hypernet, Origin(corpus.recipe, {"steps": 3}), path)
    again, origin = load_hypernet(path)
    assert (again.spec, again.config, again.text) == (hypernet.spec, hypernet.config, hypernet.text)
    assert (origin.recipe, origin.training) == (corpus.recipe, {"steps": 3})
    assert again.state_dict().keys() == hypernet.state_dict().keys()
    for name, tensor in hypernet.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_prediction_says_how_strong_its_corpus_had_the_subjects(base: Base, tmp_path: Path) -> None:
    corpus, path = tiny_corpus(base), tmp_path / "hypernet.safetensors"
    hypernet = tiny_hypernet(base, corpus)
    with torch.no_grad():
        hypernet.get_parameter("trust.2.bias").fill_(5.0)
    save_hypernet(hypernet, Origin({**corpus.recipe, "subject_scale": 0.8}, {}), path)
    again = load_hypernet(path)[0]
    sure = Predictor(base, again).predict_adapter("a sketch of [V]", "cat")
    assert (sure.metadata["subject_scale"], again.mean().metadata["subject_scale"]) == ("0.8", "0.8")
    with torch.no_grad():
        again.get_parameter("trust.2.bias").fill_(-5.0)
    unsure = Predictor(base, again).predict_adapter("a sketch of [V]", "cat")
    assert "subject_scale" not in unsure.metadata, "where it abstains, the subject is as strong as alone"


def test_another_base_is_refused_with_both_sides_named(base: Base) -> None:
    hypernet, other = tiny_hypernet(base, tiny_corpus(base)), tiny_base("sd2-v")
    with pytest.raises(AdapterMismatchError) as caught:
        Predictor(other, hypernet)
    assert base.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)
    same_name = replace(other, fingerprint=base.fingerprint)
    spec = replace(hypernet.spec, sites=(Site("nowhere", 3, 4),))
    with pytest.raises(AdapterMismatchError, match="nowhere"):
        check_base(Hypernetwork(spec, base.text_shape, CONFIG), same_name)
    wide = Hypernetwork(hypernet.spec, TextShape(24, 99, None), CONFIG)
    with pytest.raises(AdapterMismatchError, match="99"):
        check_base(wide, base)


def test_damaged_files_are_refused(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "hypernet.safetensors"
    with pytest.raises(AdapterFileError, match="no hypernetwork"):
        load_hypernet(path)
    random_adapter(AdapterSpec(base.fingerprint, base.sites(), 2, 2.0), 0).save(path)
    with pytest.raises(AdapterFileError, match="version none"):
        load_hypernet(path)
    save_hypernet(tiny_hypernet(base, tiny_corpus(base)), Origin({}, {}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AdapterFileError, match="whole safetensors"):
        load_hypernet(path)
    broken = tiny_hypernet(base, tiny_corpus(base))
    with torch.no_grad():
        broken.gain[0] = torch.nan
    with pytest.raises(AdapterFileError, match="gain"):
        save_hypernet(broken, Origin({}, {}), path)


def test_nonsense_is_abstained_from(base: Base) -> None:
    import numpy as np

    corpus = tiny_corpus(base)
    hypernet = tiny_hypernet(base, corpus, gain=1.0)
    with torch.no_grad():
        cast(nn.Linear, hypernet.trust[-1]).bias.fill_(10.0)  # the learned part trusts everything: the gate is alone
    known = encode_clean(base, [prompt.text for prompt in corpus.prompts], ["cat"] * 9)
    fit_gate(hypernet, known.hidden)
    predictor = Predictor(base, hypernet)
    assert predictor.predict([prompt.text for prompt in corpus.prompts], ["cat"] * 9).strength.tolist() == [1.0] * 9
    prompt = f"{nonsense(np.random.default_rng(0), 1)[0]} qqq zzz xxx [V] jjj www"
    adapter = predictor.predict_adapter(prompt, "cat")
    assert float(adapter.metadata["reliability"]) < 0.5
    assert not any(up.any() for up in adapter.up.values())


def test_a_prompt_without_or_with_several_subjects_is_refused(base: Base) -> None:
    predictor = Predictor(base, tiny_hypernet(base, tiny_corpus(base)))
    for prompt in ("a sketch", "[V1] beside [V2]"):
        with pytest.raises(InputError, match="predicted for one"):
            predictor.predict_adapter(prompt, "cat")


@pytest.mark.parametrize("name", ["width", "layers", "heads", "basis"])
def test_sizes_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=name):
        HyperConfig(**{name: 0})
    with pytest.raises(InputError, match="divisor of width"):
        HyperConfig(width=10, heads=4)


def test_sites_by_layer_kind_and_shape() -> None:
    assert layer_and_kind("up.0.transformer_blocks.0.attn2.to_out.0") == ("up.0.transformer_blocks.0", "attn2.to_out.0")
    assert layer_and_kind("up.0.transformer_blocks.0.ff.net.2") == ("up.0.transformer_blocks.0", "ff.net.2")
    assert layer_and_kind("mid.proj_in") == ("mid", "proj_in")
    sites = [Site("a", 4, 4), Site("b", 4, 8), Site("c", 4, 4)]
    assert alike(sites) == [[0, 2], [1]]


def test_real_site_lists_make_networks_of_a_sensible_size() -> None:
    """SD 1.5's 128 attention projections, counted without memory."""
    sites, widths = [], [320] * 5 + [640] * 5 + [1280] * 6
    for block, width in enumerate(widths):
        for kind in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0"):
            sites.append(Site(f"b.{block}.transformer_blocks.0.{kind}", width, width))
        sites += [Site(f"b.{block}.transformer_blocks.0.attn2.{kind}", 768, width) for kind in ("to_k", "to_v")]
    with torch.device("meta"):
        hypernet = Hypernetwork(AdapterSpec("sd:0", tuple(sites), 8, 8.0), TextShape(77, 768, None), HyperConfig())
        state = TextState(torch.zeros(2, 77, 768))
        prediction = hypernet(state)
    assert prediction.factors.up[sites[-1].name].shape == (2, 1280, 8)
    assert sum(p.numel() for p in hypernet.parameters()) < 80e6


def test_an_adapter_is_a_copy(base: Base) -> None:
    hypernet = tiny_hypernet(base, tiny_corpus(base))
    mean = hypernet.mean()
    assert isinstance(mean, Adapter)
    next(iter(mean.up.values())).fill_(9.0)
    assert not any((up == 9.0).all() for up in hypernet.mean().up.values())
