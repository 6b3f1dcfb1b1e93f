"""The table: every row, G and S by hand, the controls that may not lack, and the weight side by materialised ΔW."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from hypernet.evaluate.judge import METRICS, PictureScores, check_words
from hypernet.evaluate.rivals import multi_prompt_adapter, refined_adapters, refiner
from hypernet.evaluate.rows import ALONE, REQUIRED, ROWS, Cast, alone
from hypernet.evaluate.setting import open_study
from hypernet.evaluate.study import HyperStudy, RowScores
from hypernet.evaluate.summary import check_rows, failing, figures, means, predicted_over
from hypernet.evaluate.weights import paraphrase_measures, weight_measures
from hypernet.factors import Factors
from hypernet.predict import Predictor
from hypernet.stage import recipe_settings
from palp.adapter import Adapter
from palp.base import Base
from palp.cli.progress import training_bar
from palp.corpus import CorpusPrompt, CorpusSubject
from palp.draw import Picture, Sampling
from palp.errors import InputError
from palp.evaluate.intervals import ratio
from tests.adapters import random_adapter
from tests.corpora import TinyCorpus, deltas, tiny_hypernet


@pytest.fixture(scope="module")
def cast(base: Base, corpus: TinyCorpus) -> Cast:
    multi = random_adapter(corpus.spec, 50)
    refined = {prompt.key: random_adapter(corpus.spec, 51) for prompt in corpus.prompts}
    return Cast(Predictor(base, tiny_hypernet(base, corpus, gain=1.0)), corpus, lambda: multi, lambda: refined)


def test_every_row_of_the_reference_table_is_there() -> None:
    assert {
        "subject", "mean", "neighbour", "multi_prompt", "pca_ridge", "random_string", "noise", "predicted", "oracle",
        "other", "subject_0.8", "subject_0.6",
    } <= ROWS.keys()  # fmt: skip


def test_rows_are_what_they_say(cast: Cast, corpus: TinyCorpus) -> None:
    prompt, subject = cast.held[0], corpus.subjects[2]
    got = {name: row.adapter(cast, prompt, subject) for name, row in ROWS.items()}
    assert got["subject"] is None
    train = torch.stack([deltas(Factors.stack([cast.oracle(p.key)]))[0] for p in cast.train])
    torch.testing.assert_close(flat(got["mean"]), train.mean(0), rtol=1e-3, atol=1e-3)
    assert any(torch.equal(flat(got["neighbour"]), row) for row in train)
    assert torch.equal(flat(got["oracle"]), flat(corpus.adapter(prompt.key)))
    noise, raw = got["noise"], cast.raw(prompt.text, subject.class_word)
    assert isinstance(noise, Adapter)
    for site, norm in raw.norms().items():
        assert noise.norms()[site] == pytest.approx(norm, rel=1e-3)
    assert abs(float(torch.cosine_similarity(flat(noise), flat(raw), dim=0))) < 0.3
    other = cast.other(prompt)
    assert other.cluster != prompt.cluster
    assert torch.equal(flat(got["other"]), flat(cast.raw(other.text, subject.class_word)))
    assert not torch.allclose(flat(got["random_string"]), flat(raw), rtol=1e-3)


def flat(adapter: Adapter | None) -> Tensor:
    assert adapter is not None
    return torch.cat([adapter.delta_weight(site.name).flatten() for site in adapter.spec.sites])


def test_ridge_finds_what_is_linear_in_the_text(cast: Cast) -> None:
    """Adapters are sums over words, as are the light base's text means: ridge must beat the mean."""
    for prompt in cast.held:
        oracle, mean = flat(cast.oracle(prompt.key)), flat(cast.mean)
        ridge = flat(cast.ridge(prompt, "cat"))
        assert float((ridge - oracle).norm()) < 0.95 * float((mean - oracle).norm())


def test_the_multi_prompt_and_refined_rivals_are_trained(base: Base, corpus: TinyCorpus, cast: Cast) -> None:
    steps: list[int] = []

    def report(done: int, total: int, loss: float) -> None:
        steps.append(done)

    multi = multi_prompt_adapter(base, corpus, cast.train, 2, report)
    assert multi.spec == corpus.spec
    assert steps == [1, 2]
    refined = refined_adapters(cast.predictor, corpus, cast.held, 1, report)
    for prompt, adapter in zip(cast.held, refined, strict=True):
        start = cast.raw(prompt.text, "cat")
        moved, size = float((flat(adapter) - flat(start)).norm()), float(flat(start).norm())
        assert 0 < moved < 0.8 * size  # it starts from the prediction, not from zero


def test_a_prediction_is_trained_on_gently(corpus: TinyCorpus, cast: Cast) -> None:
    """The first of Adam's steps is as long as the rate: an eighth of the recipe's, and not warmed up."""
    trainer = refiner(cast.predictor, corpus, cast.held[:1], 1)
    list(trainer.run())
    start = cast.raw(cast.held[0].text, corpus.subjects[0].class_word)
    moved = max(float((up - start.up[site]).abs().max()) for site, up in trainer.adapter(0).up.items())
    assert moved == pytest.approx(recipe_settings(corpus.recipe).lr / 8, rel=0.01)


def drawn(base: Base, pictures: Sequence[Picture], sampling: Sampling) -> Float[Tensor, "pictures 3 2 2"]:
    """One grey for each prompt, seed and sum of adapters."""
    greys = []
    for picture in pictures:
        assert picture.adapter is not None
        greys.append(float(flat(picture.adapter).sum()) + zlib.crc32(picture.prompt.encode()) % 97 + picture.seed / 7)
    return torch.tensor(greys)[:, None, None, None].expand(-1, 3, 2, 2)


def test_rivals_are_trained_once_and_then_read(
    cast: Cast, corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_again() -> Cast:
        sizes = {"prompts": 2, "seeds": 2, "refine": 1, "multi_steps": 1}
        hypernet = tiny_hypernet(cast.predictor.base, corpus, gain=1.0)
        return open_study(cast.predictor.base, hypernet, corpus, PixelJudge(), tmp_path, training_bar, **sizes).cast

    first = open_again()
    assert list(tmp_path.iterdir()) == []  # nothing is trained that no row has asked for
    multi, refined = first.multi, first.refined
    for name in ("multi_prompt_adapter", "refined_adapters"):
        monkeypatch.setattr(f"hypernet.evaluate.setting.{name}", None)
    again = open_again()
    assert torch.equal(flat(again.multi), flat(multi))
    assert again.refined.keys() == refined.keys() == {prompt.key for prompt in cast.held}
    assert all(torch.equal(flat(again.refined[key]), flat(adapter)) for key, adapter in refined.items())


class PixelJudge:
    """Scores are a picture's first pixels, so that equal scores are equal pictures; it counts the photos judged."""

    photos = 0
    identity = "pixels"

    def on_prompt(
        self, pictures: Float[Tensor, "seeds 3 H W"], prompt: CorpusPrompt, subject: CorpusSubject
    ) -> PictureScores:
        return dict.fromkeys(METRICS, pictures[:, 0, 0, 0].tolist())

    def on_photo(self, pictures: Float[Tensor, "seeds 3 H W"], subject: CorpusSubject) -> PictureScores:
        self.photos += 1
        return {"subject_on_photo": pictures[:, 0, 0, 0].tolist()}


def test_a_fixed_row_has_the_scores_that_it_has_when_every_photo_is_drawn(
    cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, photos = [], []
    for fixed in (True, False):
        rows = {**ROWS, "mean": replace(ROWS["mean"], fixed=fixed)}
        monkeypatch.setattr("hypernet.evaluate.study.ROWS", rows)
        monkeypatch.setattr("hypernet.evaluate.study.draw", drawn)
        judge, sampling = PixelJudge(), Sampling(steps=2)
        study = HyperStudy(cast, judge, cast.held, 2, sampling, tmp_path / str(fixed), "tiny", training_bar)
        study.subjects = list(cast.corpus.subjects)
        found.append(study.scores("mean"))
        photos.append(judge.photos)
    for metric in METRICS:
        np.testing.assert_allclose(found[0][metric], found[1][metric], atol=1e-4)
        assert np.ptp(found[0][metric]) > 0.01
    assert photos == [len(study.subjects), len(study.pairs())]


def scores_of(values: dict[str, list[float]]) -> dict[str, RowScores]:
    return {name: {metric: np.array(row, float) for metric in METRICS} for name, row in values.items()}


TABLE = {
    "subject": [0.5, 0.5, 0.4, 0.6],
    "mean": [0.6, 0.6, 0.5, 0.6],
    "neighbour": [0.7, 0.6, 0.5, 0.7],
    "other": [0.6, 0.5, 0.4, 0.6],
    "predicted": [0.8, 0.9, 0.7, 0.8],
    "oracle": [0.9, 0.9, 0.8, 0.9],
}
CLUSTERS = ["a", "a", "b", "b"]
ALL = np.ones(4, dtype=bool)


def test_gain_and_specificity_by_hand() -> None:
    found = figures(scores_of(TABLE), CLUSTERS, ALL)
    assert found["G"].value == pytest.approx((3.2 - 2.0) / (3.5 - 2.0))
    assert found["S"].value == pytest.approx((3.2 - 2.1) / (3.2 - 2.0))
    assert found["G_mean_adapter"].value == pytest.approx((2.3 - 2.0) / 1.5)
    assert found["G_nearest_neighbour"].value == pytest.approx((2.5 - 2.0) / 1.5)
    assert found["G_shuffled"].value == pytest.approx((2.1 - 2.0) / 1.5)
    assert found["G_numerator"].value == pytest.approx(1.2 / 4)
    assert found["G_denominator"].value == pytest.approx(1.5 / 4)
    assert found["G"].low <= found["G"].value <= found["G"].high
    half = figures(scores_of(TABLE), CLUSTERS, np.array([True, True, False, False]))
    assert half["G"].value == pytest.approx((1.7 - 1.0) / (1.8 - 1.0))


def test_predictions_are_held_against_each_row_picture_by_picture() -> None:
    found = predicted_over(scores_of(TABLE), CLUSTERS)
    assert set(found) == set(TABLE) - {"predicted"}
    near = found["neighbour"]["text"]
    assert near.value == pytest.approx((0.1 + 0.3 + 0.2 + 0.1) / 4)
    assert near.low == pytest.approx(0.15)  # of the clusters' means .2 and .15
    assert near.high == pytest.approx(0.2)


def test_of_nothing_there_is_no_share() -> None:
    nothing = ratio(np.array([1.0, 0.5]), np.array([0.0, 0.0]), ["a", "b"])
    assert nothing.as_json() == {"value": None, "low": None, "high": None, "n": 2}


def test_a_mean_adapter_has_no_specificity() -> None:
    collapsed = TABLE | {"predicted": TABLE["mean"], "other": TABLE["mean"]}
    found = figures(scores_of(collapsed), CLUSTERS, ALL)
    assert found["S"].value == pytest.approx(0)
    assert found["G"].value > 0


@pytest.mark.parametrize("name", REQUIRED)
def test_no_table_without_its_controls(name: str) -> None:
    table = {row: values for row, values in TABLE.items() if row != name}
    for make in (means, figures):
        with pytest.raises(InputError, match=f"lacks the row {name}"):
            make(scores_of(table), CLUSTERS, ALL)
    check_rows(TABLE)


def test_ratios_are_of_sums_and_clusters_move_together() -> None:
    tops, bottoms = np.array([1.0, 1.0, 3.0, 3.0]), np.array([2.0, 2.0, 3.0, 3.0])
    found = ratio(tops, bottoms, CLUSTERS)
    assert found.value == pytest.approx(0.8)
    assert {round(found.low, 3), round(found.high, 3)} <= {0.5, 0.8, 1.0}
    assert found.n == 4


def test_weight_measures_by_materialised_deltas(corpus: TinyCorpus) -> None:
    adapters = list(corpus.adapters.values())
    noisy = [random_adapter(corpus.spec, 60 + i).scaled(0.05) for i in range(3)]
    predicted = Factors.stack([adapters[5 + i].concat(noise) for i, noise in enumerate(noisy)])
    oracle = Factors.stack([a.concat(a.scaled(0.0)) for a in adapters[5:8]])
    training = Factors.stack([a.concat(a.scaled(0.0)) for a in adapters[:5]])
    got = weight_measures(predicted, oracle, training, ["a", "b", "c"])
    p, o, t = (deltas(side).double() for side in (predicted, oracle, training))
    mean = t.mean(0)
    cosines = torch.cosine_similarity((p - mean)[:, None], (o - mean)[None], dim=2)
    assert got["centred_cosine"].value == pytest.approx(float(cosines.diagonal().mean()), abs=1e-3)
    r2 = 1 - (p - o).square().sum() / (o - mean).square().sum()
    assert got["r2"].value == pytest.approx(float(r2), abs=1e-3)
    spread = ((p - p.mean(0)).square().sum() / (o - o.mean(0)).square().sum()).sqrt()
    assert got["spread_ratio"].value == pytest.approx(float(spread), abs=1e-3)
    assert got["retrieval"].value == float((cosines.argmax(1) == torch.arange(3)).double().mean())
    near = torch.cosine_similarity((p - mean)[:, None], (t - mean)[None], dim=2).amax(1).mean()
    assert got["nearest_training"].value == pytest.approx(float(near), abs=1e-3)


def test_a_paraphrase_belongs_to_the_training_prompt_of_its_meaning(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = cast.train[1], cast.held[0]
    assert cast.paraphrases() == []
    said = replace(known, key="paraphrase-0", text="something else of [V]", split="paraphrase")
    monkeypatch.setattr(cast, "held", [new, said])
    assert cast.paraphrases() == [(said, known)]


def test_paraphrase_measures_by_materialised_deltas(corpus: TinyCorpus) -> None:
    adapters = list(corpus.adapters.values())
    noisy = [random_adapter(corpus.spec, 60 + i).scaled(0.05) for i in range(3)]
    said = Factors.stack([adapters[i].concat(noise) for i, noise in enumerate(noisy)])
    known, training = (Factors.stack([a.concat(a.scaled(0.0)) for a in side]) for side in (adapters[:3], adapters[:5]))
    got = paraphrase_measures(said, known, training, ["a", "b", "c"])
    p, k, t = (deltas(side).double() for side in (said, known, training))
    mean = t.mean(0)
    cosines = torch.cosine_similarity((p - mean)[:, None], (k - mean)[None], dim=2)
    others = (cosines.sum() - cosines.trace()) / 6
    assert got["paraphrase_agreement"].value == pytest.approx(float(cosines.diagonal().mean()), abs=1e-3)
    assert got["paraphrase_control"].value == pytest.approx(float(others), abs=1e-3)
    assert got["paraphrase_retrieval"].value == 1
    swapped = Factors.stack([adapters[i].concat(adapters[i].scaled(0.0)) for i in (1, 2, 0)])
    assert paraphrase_measures(said, swapped, training, ["a", "b", "c"])["paraphrase_retrieval"].value == 0


def test_collapse_to_the_mean_shows_in_weights(corpus: TinyCorpus, cast: Cast) -> None:
    adapters = list(corpus.adapters.values())
    training, oracle = Factors.stack(adapters[:5]), Factors.stack(adapters[5:8])
    mean = cast.predictor.hypernet.mean()
    got = weight_measures(Factors.stack([mean] * 3), oracle, training, ["a", "b", "c"])
    assert got["spread_ratio"].value < 0.05
    assert got["r2"].value < 0.3
    assert got["retrieval"].value <= 2 / 3


def test_where_the_subject_fails_is_chosen_on_some_pictures_and_measured_on_others() -> None:
    alignment = [[1, 1, 0, 0], [1, 0.5, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]]  # a row a pair, a column a seed
    marked = failing({"alignment": np.array(alignment, dtype=float).reshape(-1)}, seeds=4).reshape(4, 4)
    assert marked.tolist() == [
        [False] * 4,  # fails only where it is not chosen on
        [False, False, True, True],
        [False] * 4,
        [False, False, True, True],
    ]


def test_rows_have_the_subject_as_strong_as_the_corpus_and_as_they_say(
    base: Base, corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaker = replace(corpus, recipe={**corpus.recipe, "subject_scale": 0.7})
    cast = Cast(Predictor(base, tiny_hypernet(base, corpus, gain=1.0)), weaker, lambda: corpus.adapter("sketch-beach"))
    study = HyperStudy(cast, PixelJudge(), cast.held[:1], 2, Sampling(steps=2), tmp_path, "tiny", training_bar)
    own, oracle = flat(study.subjects[0].adapter), flat(corpus.adapter(cast.held[0].key))
    sums: list[Tensor] = []

    def noted(base: Base, pictures: Sequence[Picture], sampling: Sampling) -> Float[Tensor, "pictures 3 2 2"]:
        sums.append(flat(pictures[0].adapter))
        return drawn(base, pictures, sampling)

    monkeypatch.setattr("hypernet.evaluate.study.draw", noted)
    wanted = {"subject": own, "subject_0.6": 0.6 * own, ALONE: 0.7 * own, "oracle": 0.7 * own + oracle}
    for name, expected in wanted.items():
        study.scores(name)
        torch.testing.assert_close(sums.pop(), expected, rtol=1e-4, atol=1e-5)


def test_prompt_adapters_are_held_against_a_subject_as_strong_as_beside_them(base: Base, corpus: TinyCorpus) -> None:
    predictor = Predictor(base, tiny_hypernet(base, corpus, gain=1.0))

    def named(strength: float) -> str:
        own = replace(corpus, recipe={**corpus.recipe, "subject_scale": strength})
        return alone(Cast(predictor, own, lambda: own.adapters[own.prompts[0].key]))

    assert (named(1.0), named(0.8), named(0.6)) == ("subject", "subject_0.8", "subject_0.6")
    assert named(0.7) == ALONE


def test_scores_of_another_judge_are_not_taken_for_its_own(
    cast: Cast, base: Base, corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypernet.evaluate.study.draw", drawn)

    def study(judge: PixelJudge) -> HyperStudy:
        return open_study(
            base, cast.predictor.hypernet, corpus, judge, tmp_path, training_bar,
            prompts=2, seeds=2, refine=0, multi_steps=1, steps=1,
        )  # fmt: skip

    own, other = PixelJudge(), PixelJudge()
    first = study(own).scores("subject")
    photos = own.photos
    assert photos > 0
    study(own).scores("subject")
    assert own.photos == photos
    other.identity = "other pixels"
    again = study(other).scores("subject")
    assert other.photos == photos
    assert np.array_equal(first["text"], again["text"])


def test_a_word_that_cannot_be_judged_is_refused() -> None:
    check_words(CorpusPrompt("k", "a mosaic of [V]", {"style": "mosaic", "action": "running"}, "c", "train"))
    with pytest.raises(InputError, match="asks for the style 'polaroid', which the picture world has not"):
        check_words(CorpusPrompt("k", "a polaroid of [V]", {"style": "polaroid"}, "c", "train"))
