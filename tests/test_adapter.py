"""The adapter: algebra against explicit ΔW, the file against perturbation and damage."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec, Site
from palp.errors import AdapterFileError, AdapterMismatchError, InputError, OutputError
from tests.adapters import Tolerance, random_adapter

SITES = (Site("down.attn.to_q", 6, 5), Site("up.attn.to_v", 3, 8))
SPEC = AdapterSpec("tiny:0", SITES, rank=4, alpha=6.0)
WORDS = {"[V]": {"text_encoder": 7, "text_encoder_2": 9}, "[my-cat_2]": {"text_encoder": 7}}
EXACT: Tolerance = {"rtol": 1e-5, "atol": 1e-6}  # float32, sums of at most 11 products


def test_delta_weight_is_alpha_over_rank_times_up_down() -> None:
    adapter = random_adapter(SPEC, 0)
    expected = torch.einsum("or,ri->oi", adapter.up["down.attn.to_q"], adapter.down["down.attn.to_q"]) * 1.5
    torch.testing.assert_close(adapter.delta_weight("down.attn.to_q"), expected, **EXACT)


def test_norms_equal_those_of_the_explicit_product() -> None:
    adapter = random_adapter(SPEC, 0)
    expected = {site.name: float(adapter.delta_weight(site.name).norm()) for site in SITES}
    assert adapter.norms() == pytest.approx(expected, rel=1e-5)


def test_concat_is_the_exact_sum_for_other_ranks_and_alphas() -> None:
    left = random_adapter(SPEC, 0, {"[A]": {"text_encoder": 7}})
    right = random_adapter(replace(SPEC, rank=7, alpha=2.0), 1, {"[B]": {"text_encoder": 7}})
    right.metadata["prompt"] = "another"
    both = left.concat(right, 0.5, -2.0)
    for site in SITES:
        expected = 0.5 * left.delta_weight(site.name) - 2.0 * right.delta_weight(site.name)
        torch.testing.assert_close(both.delta_weight(site.name), expected, **EXACT)
    assert (both.spec.rank, both.spec.alpha) == (11, 11.0)
    assert both.placeholders == {**left.placeholders, **right.placeholders}
    assert both.metadata == {"class_word": "cat"}


def test_concat_refuses_one_word_learned_twice_and_takes_an_equal_one() -> None:
    left, right = (random_adapter(SPEC, seed, WORDS) for seed in (0, 1))
    with pytest.raises(InputError, match=r"both adapters have learned \["):
        left.concat(right)
    right.placeholders = {
        word: {k: v.clone() for k, v in vectors.items()} for word, vectors in left.placeholders.items()
    }
    assert left.concat(right).placeholders.keys() == WORDS.keys()


def test_concat_refuses_another_base_and_other_sites() -> None:
    adapter = random_adapter(SPEC, 0)
    with pytest.raises(AdapterMismatchError, match="tiny:1 cannot be added to one for tiny:0"):
        adapter.concat(random_adapter(replace(SPEC, base="tiny:1"), 0))
    with pytest.raises(AdapterMismatchError, match=r"up\.attn\.to_v"):
        adapter.concat(random_adapter(replace(SPEC, sites=SITES[:1]), 0))


def test_scaled_scales_every_delta_and_leaves_the_original() -> None:
    adapter = random_adapter(SPEC, 0)
    before = adapter.delta_weight("up.attn.to_v")
    torch.testing.assert_close(adapter.scaled(-0.25).delta_weight("up.attn.to_v"), -0.25 * before, **EXACT)
    torch.testing.assert_close(adapter.delta_weight("up.attn.to_v"), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_saved_adapter_comes_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    adapter = random_adapter(replace(SPEC, dtype=dtype), 3, WORDS)
    adapter.save(tmp_path / "new folder" / "a.safetensors")
    back = Adapter.load(tmp_path / "new folder" / "a.safetensors")
    assert (back.spec, back.metadata) == (adapter.spec, adapter.metadata)
    assert [*back.down, *back.up] == [*adapter.down, *adapter.up]
    for site in SITES:
        assert torch.equal(back.down[site.name], adapter.down[site.name])
        assert torch.equal(back.up[site.name], adapter.up[site.name])
    assert back.placeholders.keys() == WORDS.keys()
    for word, vectors in adapter.placeholders.items():
        assert back.placeholders[word].keys() == vectors.keys()
        for name, value in vectors.items():
            assert torch.equal(back.placeholders[word][name], value)


def test_the_header_says_what_the_file_is(tmp_path: Path) -> None:
    random_adapter(SPEC, 0, WORDS).save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = file.metadata()
        keys = set(file.keys())
    assert header["palp.version"] == "1"
    assert header["palp.base"] == "tiny:0"
    assert header["palp.metadata.class_word"] == "cat"
    assert header["modelspec.trigger_phrase"] == "[V] [my-cat_2]"
    assert json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"] == 6.0
    assert "unet.down.attn.to_q.lora_A.weight" in keys
    assert "lora_placeholder.[V].te_2" in keys


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    random_adapter(SPEC, 0).save(path)
    before = path.read_bytes()

    def fill_up(target: Path, content: bytes) -> int:
        with target.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(OutputError, match="no space is left"):
        random_adapter(SPEC, 1).save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == before


Damage = Callable[[dict[str, Tensor], dict[str, str]], object]
A_KEY, B_KEY = "unet.down.attn.to_q.lora_A.weight", "unet.up.attn.to_v.lora_B.weight"


def _spec_with(header: dict[str, str], **changes: object) -> None:
    header["palp.spec"] = json.dumps({**json.loads(header["palp.spec"]), **changes})


DAMAGE: dict[str, tuple[Damage, str]] = {
    "missing key": (lambda tensors, header: tensors.__delitem__(A_KEY), f"{A_KEY} is missing"),
    "odd key": (lambda tensors, header: tensors.update(x=torch.ones(1)), "x does not belong there"),
    "shape": (lambda tensors, header: tensors.update({B_KEY: torch.ones(4, 8)}), r"not \(8, 4\)"),
    "word shape": (
        lambda tensors, header: tensors.update({"lora_placeholder.[V].te": torch.ones(3)}),
        "vectors",
    ),
    "dtype": (lambda tensors, header: tensors.update({B_KEY: torch.ones(8, 4).half()}), "float16"),
    "nan": (lambda tensors, header: tensors[A_KEY].__setitem__((0, 0), float("nan")), "not finite"),
    "inf": (lambda tensors, header: tensors["lora_placeholder.[V].te"].fill_(torch.inf), "not finite"),
    "version": (lambda tensors, header: header.update({"palp.version": "2"}), "format version 2"),
    "no version": (lambda tensors, header: header.__delitem__("palp.version"), "not written by palp"),
    "no spec": (lambda tensors, header: header.__delitem__("palp.spec"), "damaged header"),
    "broken spec": (lambda tensors, header: header.update({"palp.spec": "{"}), "damaged header"),
    "list spec": (lambda tensors, header: header.update({"palp.spec": "[]"}), "damaged header"),
    "no rank": (lambda tensors, header: _spec_with(header, rank=0), "damaged header"),
    "nan alpha": (lambda tensors, header: _spec_with(header, alpha=float("nan")), "damaged header"),
    "odd dtype": (lambda tensors, header: _spec_with(header, dtype="save"), "damaged header"),
    "path as site": (
        lambda tensors, header: _spec_with(header, sites=[{"name": "../x", "in_features": 1, "out_features": 1}]),
        "name of a layer",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    random_adapter(SPEC, 0, WORDS).save(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    damage, expected = DAMAGE[name]
    damage(tensors, header)
    save_file(tensors, path, metadata=header)
    with pytest.raises(AdapterFileError, match=expected) as caught:
        Adapter.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(AdapterFileError, match="there is no adapter file"):
        Adapter.load(path)
    torch.save({"x": torch.ones(2)}, path)
    with pytest.raises(AdapterFileError, match="pickle, which could run code"):
        Adapter.load(path)
    random_adapter(SPEC, 0).save(path)
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[:-1], whole[:40]):
        path.write_bytes(content)
        with pytest.raises(AdapterFileError, match="not a whole safetensors file"):
            Adapter.load(path)


def test_values_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    adapter = random_adapter(replace(SPEC, dtype="float16"), 0)
    adapter.up["up.attn.to_v"] = torch.full((8, 4), 1e6)  # infinite in float16
    with pytest.raises(AdapterFileError, match="not finite"):
        adapter.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_check_names_both_sides() -> None:
    adapter = random_adapter(SPEC, 0)
    adapter.check("tiny:0", [*SITES, Site("more", 1, 1)])
    with pytest.raises(AdapterMismatchError, match="made for tiny:0, and the base at hand is tiny:1"):
        adapter.check("tiny:1", SITES)
    with pytest.raises(AdapterMismatchError, match=r"name='up\.attn\.to_v'.* has None there"):
        adapter.check("tiny:0", SITES[:1])
    with pytest.raises(AdapterMismatchError, match=r"in_features=3.*in_features=4"):
        adapter.check("tiny:0", [SITES[0], Site("up.attn.to_v", 4, 8)])


def test_an_adapter_has_exactly_the_tensors_of_its_spec() -> None:
    adapter = random_adapter(SPEC, 0)
    with pytest.raises(AdapterMismatchError, match="in one of them only"):
        replace(adapter, up={"up.attn.to_v": adapter.up["up.attn.to_v"]})
    with pytest.raises(AdapterMismatchError, match="have shapes"):
        replace(adapter, spec=replace(SPEC, rank=3))


@pytest.mark.parametrize("word", ["V", "[]", "[../x]", "[a b]", "[é]", "[V]\n"])
def test_placeholders_that_could_not_be_a_file_name_are_refused(word: str) -> None:
    with pytest.raises(InputError, match="cannot be a placeholder"):
        random_adapter(SPEC, 0, {word: {"text_encoder": 7}})


@pytest.mark.parametrize(
    "changes", [{"rank": 0}, {"alpha": 0.0}, {"dtype": "float64"}, {"sites": ()}, {"sites": SITES * 2}]
)
def test_impossible_specs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(SPEC, **changes)
