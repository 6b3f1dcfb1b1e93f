"""What a hypernetwork owes to losses and corpus: what is compared, how it is measured, and the fit through it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import refining
from benchmarks.examination import Examination, gains, of_each, predicted_by, row
from benchmarks.hypernet import CHEAPER, Part, cases, exponent
from hypernet.evaluate.rows import Cast
from hypernet.file import load_hypernet
from hypernet.learn import learn_hypernet
from hypernet.predict import Predictor
from hypernet.proxies import Changes
from palp.base import Base
from tests.corpora import CONFIG, TinyCorpus, tiny_hypernet


def changes(seed: int, error: float, rows: int = 40) -> Changes:
    generator = torch.Generator().manual_seed(seed)
    wanted, off, other = (torch.randn(rows, 4, 2, 2, generator=generator) for _ in range(3))
    alone = torch.full((rows,), 2.0)
    left = (alone * (1 - gain) for gain in (0.5, 0.25, 0.4, 0.0))
    return Changes(wanted, -wanted, wanted + error * off, other, torch.zeros_like(wanted), *left)


def test_a_part_keeps_what_is_held_out_and_grows_by_prompts_never_by_others(corpus: TinyCorpus) -> None:
    few, more = ({prompt.key for prompt in Part(corpus, count).prompts} for count in (3, 5))
    held = {prompt.key for prompt in corpus.prompts if prompt.split != "train"}
    assert held < few < more
    assert (len(few - held), len(more - held)) == (3, 5)


def test_each_loss_is_alone_in_its_case_and_all_are_in_the_last(corpus: TinyCorpus) -> None:
    found = cases("losses", corpus, 40)
    terms = {
        name: {
            term
            for step in range(case.settings.steps)
            for term in case.settings.weights(step)
            if term in ("delta", "behaviour", "recipe", "recipe_shuffled")
        }
        for name, case in found.items()
    }
    both, recipe = {"delta", "behaviour"}, {"recipe", "recipe_shuffled"}
    assert list(terms.values()) == [{"delta"}, {"behaviour"}, both, recipe, both | {"recipe"}, both | recipe]
    assert [case.settings.steps for case in found.values()] == [40 * CHEAPER, *5 * [40]]


def test_sizes_end_with_the_whole_corpus(corpus: TinyCorpus) -> None:
    assert [case.prompts for case in cases("corpus", corpus, 40).values()] == [7]


def test_gain_is_one_for_the_oracle_and_zero_for_nothing() -> None:
    exact = row(changes(0, 0.0), [str(i // 4) for i in range(40)])
    assert exact["gain"].value == pytest.approx(1)
    assert exact["gain_of_mean"].value == pytest.approx(0)
    assert exact["specificity"].value == pytest.approx(1, abs=0.3)
    assert exact["specificity_of_corpus"].value == pytest.approx(2)
    gains = [exact[f"recipe_gain{whose}"].value for whose in ("", "_of_other", "_of_corpus")]
    assert gains == pytest.approx([0.5, 0.25, 0.4])


def test_the_exponent_of_a_power_law_is_found() -> None:
    clusters = [str(i // 4) for i in range(40)]
    found = {size: changes(1, size**-0.25) for size in (32, 64, 256)}  # 1 - G ~ N^(-1/2): errors are squared
    law = exponent(found, clusters)
    assert law.value == pytest.approx(0.5, abs=1e-3)
    assert law.low <= law.value <= law.high
    noisy = exponent({size: changes(size, size**-0.25) for size in (32, 64, 256)}, clusters)
    assert noisy.high - noisy.low > 1e-3


def test_a_trained_case_is_measured_on_the_held_out_prompts(base: Base, corpus: TinyCorpus, tmp_path: Path) -> None:
    case = cases("losses", corpus, 2)["corpus behaviour"]
    hypernet, _ = load_hypernet(learn_hypernet(base, Part(corpus, 5), CONFIG, case.settings, tmp_path))
    exam = Examination(base, corpus)
    found = exam.changes(predicted_by(base, hypernet), hypernet.mean())
    assert found.wanted.shape[0] == len(exam.clusters) == 16
    assert np.isfinite([value.value for value in row(found, exam.clusters).values()]).all()


def test_predictions_are_measured_beside_those_found_without_learning(base: Base, corpus: TinyCorpus) -> None:
    hypernet = tiny_hypernet(base, corpus, gain=1.0)
    exam, mean = Examination(base, corpus), hypernet.mean()
    predicted = exam.changes(predicted_by(base, hypernet), mean)
    oracle = exam.changes(of_each(base, lambda prompt, word: corpus.adapter(prompt.key)), mean)
    assert gains(oracle, exam.clusters)["gain"].value == pytest.approx(1, abs=1e-4)
    near = exam.changes(of_each(base, Cast(Predictor(base, hypernet), corpus).neighbour), mean)
    assert gains(near, exam.clusters)["gain"].value < 1
    same = exam.changes(of_each(base, lambda prompt, word: mean), mean)
    whole = row(same, exam.clusters)
    assert whole["gain"].value == pytest.approx(whole["gain_of_mean"].value, abs=1e-5)
    assert whole["specificity"].value == pytest.approx(0, abs=1e-5)
    above, parts = gains(predicted, exam.clusters, over=near), [gains(one, exam.clusters) for one in (predicted, near)]
    for name, value in above.items():
        assert value.value == pytest.approx(parts[0][name].value - parts[1][name].value, abs=1e-5)


def test_a_training_from_the_prediction_starts_there_and_one_from_zero_at_nothing(
    base: Base, corpus: TinyCorpus
) -> None:
    predictor = Predictor(base, tiny_hypernet(base, corpus, gain=1.0))
    prompts = [prompt for prompt in corpus.prompts if prompt.split != "train"][:2]
    exam = refining.Examination(base, corpus, prompts)
    nothing = exam.losses([corpus.adapter(prompt.key).scaled(0.0) for prompt in prompts])
    zero, predicted, quick = (
        exam.losses(refining.trained(predictor, corpus, prompts, way, 0)) for way in refining.WAYS
    )
    np.testing.assert_allclose(zero, nothing, rtol=1e-5)
    raw = predictor.predict([prompt.text for prompt in prompts], ["cat", "cat"]).factors
    np.testing.assert_allclose(predicted, exam.losses([raw.adapter(0), raw.adapter(1)]), rtol=1e-5)
    np.testing.assert_array_equal(predicted, quick)
    assert np.abs(predicted - nothing).max() > 1e-3 * nothing.max()
    gentle, hasty = (exam.losses(refining.trained(predictor, corpus, prompts, way, 2)) for way in refining.WAYS[1:])
    assert 0 < np.abs(gentle - predicted).max() < np.abs(hasty - predicted).max()
