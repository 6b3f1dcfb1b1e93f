"""Adapters added up and brought into one frame: ΔW for ΔW."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palp.adapter import Adapter, AdapterSpec, Site
from palp.compose import compose, in_one_frame, over_subject, strengths, subject_strength
from palp.errors import AdapterFileError, AdapterMismatchError
from tests.adapters import random_adapter

ONE, TWO = Site("one", 5, 3), Site("two.to_q", 4, 6)
BOTH = AdapterSpec("tiny:0", (ONE, TWO), rank=2, alpha=3.0)
FIRST = AdapterSpec("tiny:0", (ONE,), rank=3, alpha=1.5)


def weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {site.name: adapter.delta_weight(site.name) for site in adapter.spec.sites}


def test_composition_is_the_weighted_sum_of_the_weights() -> None:
    both, first = random_adapter(BOTH, seed=1), random_adapter(FIRST, seed=2)
    total = weights(compose([(both, 0.5), (first, -2.0)]))
    assert total.keys() == {"one", "two.to_q"}
    expected_one = 0.5 * both.delta_weight("one") - 2 * first.delta_weight("one")
    torch.testing.assert_close(total["one"], expected_one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total["two.to_q"], 0.5 * both.delta_weight("two.to_q"), rtol=1e-5, atol=1e-6)


def test_one_frame_changes_no_weight_and_gives_one_spec() -> None:
    adapters = [random_adapter(BOTH, seed=1), random_adapter(FIRST, seed=2)]
    framed = in_one_frame(adapters)
    assert framed[0].spec == framed[1].spec
    for before, after in zip(adapters, framed, strict=True):
        for site in before.spec.sites:
            expected = before.delta_weight(site.name)
            torch.testing.assert_close(after.delta_weight(site.name), expected, rtol=1e-5, atol=1e-6)
    assert not framed[1].delta_weight("two.to_q").any()


def test_a_narrower_neighbour_costs_no_bit() -> None:
    narrow, wide = random_adapter(replace(BOTH, dtype="bfloat16"), seed=1), random_adapter(BOTH, seed=2)
    for together in (in_one_frame([narrow, wide]), in_one_frame([wide, narrow])[::-1]):
        assert [adapter.spec.dtype for adapter in together] == ["float32", "float32"]
        for framed, before in zip(together, (narrow, wide), strict=True):
            alone = in_one_frame([before])[0]
            assert all(torch.equal(framed.up[name], up.float()) for name, up in alone.up.items())
    assert compose([(narrow, 1.0), (wide, 1.0)]).spec.dtype == "float32"


def test_adapters_of_two_bases_are_refused_with_both_named() -> None:
    adapters = [random_adapter(replace(FIRST, base=base), seed=0) for base in ("tiny:0", "tiny:1")]
    with pytest.raises(AdapterMismatchError, match=r"tiny:0.*tiny:1"):
        compose([(adapter, 1.0) for adapter in adapters])


def test_a_prompts_adapter_takes_off_the_subject_what_it_was_trained_to_and_in_proportion() -> None:
    subject, prompt = random_adapter(BOTH, seed=1), random_adapter(FIRST, seed=2)
    weaker = replace(prompt, metadata={"subject_scale": "0.8"})
    assert subject_strength(None) == subject_strength(prompt) == 1
    scales = (0.0, 0.5, 1.0, 2.0, 9.0)
    assert [subject_strength(weaker, scale) for scale in scales] == pytest.approx([1, 0.9, 0.8, 0.6, 0])
    total, expected = weights(over_subject(subject, weaker)), weights(compose([(subject, 0.8), (prompt, 1.0)]))
    for name, delta in expected.items():
        torch.testing.assert_close(total[name], delta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("said", ["strong", "nan", "inf", "0", "-1"])
def test_a_strength_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(AdapterFileError, match="subject_scale"):
        subject_strength(replace(random_adapter(FIRST, seed=0), metadata={"subject_scale": said}))


@pytest.mark.parametrize(
    ("wanted", "scale", "rest", "subject", "prompt"),
    [
        (0.8, 1.0, 1.0, 0.8, 1.0),  # no opening: as the prompt's adapter wants it
        (0.8, 1.0, 0.5, 0.5, 0.5),  # it would have .9 beside half of it, and the opening leaves less
        (0.2, 1.0, 0.5, 0.5, 0.5),  # .6
        (0.2, 2.0, 0.5, 0.2, 1.0),  # the whole of it again, which wants less than the opening leaves
        (0.8, 0.0, 0.5, 0.5, 0.0),
    ],
)
def test_an_opening_leaves_a_part_of_both_and_the_weaker_subject_counts(
    wanted: float, scale: float, rest: float, subject: float, prompt: float
) -> None:
    adapter = replace(random_adapter(FIRST, seed=0), metadata={"subject_scale": str(wanted)})
    assert strengths(adapter, scale, rest) == pytest.approx((subject, prompt))
    assert strengths(None, rest=rest) == (rest, rest)
