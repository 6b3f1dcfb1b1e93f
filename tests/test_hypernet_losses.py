"""Weight losses against ΔW itself and under every gauge; the loss' terms against a slow twin; mean collapse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hypernet import losses
from hypernet.draws import Draws
from hypernet.factors import Factors, cross_products, products
from hypernet.model import Prediction
from hypernet.objective import Terms
from hypernet.prompts import prompts_of
from hypernet.proxies import Exam
from hypernet.recipe_loss import RecipeLoss
from hypernet.settings import TERMS, HyperSettings
from hypernet.stage import Stage, recipe_settings
from palp.adapter import Adapter
from palp.base import Base
from palp.errors import InputError
from palp.guidance import find_rule
from tests.adapters import merged, random_adapter
from tests.corpora import TinyCorpus, regauged

CLOSE: dict[str, Any] = {"rtol": 2e-3, "atol": 1e-4}  # float32, differences of squares
NETWORK: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-4}  # the same, through the denoiser


def some(corpus: TinyCorpus, first: int, count: int = 3) -> list[Adapter]:
    return list(corpus.adapters.values())[first : first + count]


def by_site(adapter: Adapter) -> list[Tensor]:
    return [adapter.delta_weight(site.name) for site in adapter.spec.sites]


def test_products_are_those_of_the_materialised_deltas(corpus: TinyCorpus) -> None:
    left, right = some(corpus, 0), some(corpus, 4)
    expected = torch.tensor(
        [[[float((x * y).sum()) for x, y in zip(by_site(a), by_site(b), strict=True)] for b in right] for a in left]
    )
    everyone = cross_products(Factors.stack(left), Factors.stack(right))
    torch.testing.assert_close(everyone, expected, **CLOSE)
    pairs = products(Factors.stack(left), Factors.stack(right))
    torch.testing.assert_close(pairs, torch.stack([expected[i, i] for i in range(3)]), **CLOSE)


def test_weight_losses_are_what_they_say_of_delta_w(corpus: TinyCorpus) -> None:
    left, right = some(corpus, 0), some(corpus, 4)
    got = [f(Factors.stack(left), Factors.stack(right)) for f in WEIGHT_LOSSES]
    for row, (a, b) in enumerate(zip(left, right, strict=True)):
        for column, (x, y) in enumerate(zip(by_site(a), by_site(b), strict=True)):
            cosine = torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)
            expected = [(x - y).norm() ** 2 / y.norm() ** 2, 1 - cosine, (x.norm() / y.norm()).log() ** 2]
            values = torch.stack([loss[row, column] for loss in got])
            torch.testing.assert_close(values, torch.stack(expected), **CLOSE)


WEIGHT_LOSSES = (losses.delta_error, losses.direction_error, losses.norm_error)


def test_weight_losses_know_no_gauge(corpus: TinyCorpus) -> None:
    left, right = some(corpus, 0), some(corpus, 4)
    mean = Factors.stack([random_adapter(corpus.spec, 9)])
    a, b = (Factors.stack([regauged(one, 10 + i) for i, one in enumerate(side)]) for side in (left, right))
    for loss in WEIGHT_LOSSES:
        torch.testing.assert_close(loss(a, b), loss(Factors.stack(left), Factors.stack(right)), **CLOSE)
    cosines = losses.centred_cosines(Factors.stack(left), Factors.stack(right), mean)
    torch.testing.assert_close(losses.centred_cosines(a, b, mean), cosines, **CLOSE)


def test_the_mean_adapter_cannot_tell_prompts_apart(corpus: TinyCorpus) -> None:
    """Own adapters have the smallest contrastive loss; one adapter for all prompts has the loss of a guess."""
    targets = Factors.stack(some(corpus, 0))
    mean = Factors.stack([random_adapter(corpus.spec, 9)])
    different = torch.eye(3, dtype=torch.bool)
    own = losses.contrastive(losses.centred_cosines(targets, targets, mean), different, 0.1)
    constant = targets[[0, 0, 0]]
    collapsed = losses.contrastive(losses.centred_cosines(constant, targets, mean), different, 0.1)
    assert bool((own < 0.7 * torch.log(torch.tensor(3.0))).all())
    assert float(collapsed.mean()) > float(torch.log(torch.tensor(3.0)))
    together = losses.contrastive(losses.centred_cosines(constant, targets, mean), torch.ones(3, 3).bool(), 0.1)
    assert together.tolist() == [0, 0, 0]  # prompts of one cluster are no negatives


class Setting:
    """One batch on a stage, with predictions that learn."""

    def __init__(self, base: Base, corpus: TinyCorpus) -> None:
        self.base, self.corpus = base, corpus
        self.subjects = [subject for subject in corpus.subjects if not subject.held_out]
        self.stage = Stage(base, corpus.spec, self.subjects, 3)
        draws = Draws(corpus.prompts, self.subjects, (100, 900), base.device)
        self.batch = draws.of([3], corpus.prompts[:3], 2)
        self.target = Factors.stack([corpus.adapter(prompt.key) for prompt in self.batch.prompts])
        self.predicted = Factors.stack(some(corpus, 4))
        for tensor in self.predicted.tensors():
            tensor.requires_grad_()
        self.mean = Factors.stack([random_adapter(corpus.spec, 9).scaled(0.1)])

    def terms(self, weights: dict[str, float]) -> dict[str, Tensor]:
        how = HyperSettings(margin=0.3)
        odds = torch.zeros(3)
        rule, numbers = find_rule("composed"), recipe_settings(self.corpus.recipe)
        prediction = Prediction(self.predicted, odds.sigmoid(), odds)
        with self.stage.attached():
            return Terms(self.stage, self.batch, prediction, self.target, self.mean, rule, numbers, how)(weights)

    def change(self, row: int, prompt_adapter: Adapter) -> Tensor:
        """The slow twin: one sample, merged weights."""
        subject = self.subjects[int(self.batch.subjects[row])]
        text = self.batch.prompts[int(self.batch.rows[row])].text
        state = self.base.encode_prompts([text], subject.adapter.placeholders)
        x_t = self.base.schedule.add_noise(self.batch.x0, self.batch.noise, self.batch.t)[[row]]
        unet = merged(self.base.unet, subject.adapter)
        outputs = [
            _predict(self.base, model, x_t, self.batch.t[[row]], state)
            for model in (merged(unet, prompt_adapter), unet)
        ]
        return outputs[0] - outputs[1]


def _predict(base: Base, unet: object, x_t: Tensor, t: Tensor, state: object) -> Tensor:
    from dataclasses import replace

    return replace(base, unet=unet).predict(x_t, t, state)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def setting(base: Base, corpus: TinyCorpus) -> Setting:
    return Setting(base, corpus)


@torch.no_grad()
def test_behaviour_is_the_relative_error_of_the_change_by_merged_weights(setting: Setting) -> None:
    got = setting.terms({"behaviour": 1.0, "shuffled": 1.0})
    own, shuffled = [], []
    for row, prompt in enumerate(setting.batch.rows.tolist()):
        wanted = setting.change(row, setting.target.adapter(prompt))
        errors = [
            ((setting.change(row, setting.predicted.adapter(p)) - wanted).norm() / wanted.norm()) ** 2
            for p in (prompt, (prompt + 1) % 3)
        ]
        own.append(errors[0])
        shuffled.append((0.3 + errors[0] - errors[1]).clamp(min=0))
    torch.testing.assert_close(got["behaviour"], torch.stack(own).mean(), **NETWORK)
    torch.testing.assert_close(got["shuffled"], torch.stack(shuffled).mean(), **NETWORK)


def test_every_term_can_be_switched_off_and_reaches_the_prediction(setting: Setting) -> None:
    calls: list[int] = []
    hook = setting.base.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    assert setting.terms({"delta": 1.0, "direction": 1.0, "norm": 1.0, "contrastive": 1.0}).keys() == {
        "delta", "direction", "norm", "contrastive"
    }  # fmt: skip
    assert calls == []  # the weight side needs no denoiser
    terms = setting.terms(dict.fromkeys(TERMS, 1.0))
    hook.remove()
    assert len(calls) == 6  # student, shuffled, subject alone, corpus, and the rule's two
    for name, term in terms.items():
        if name != "trust":
            leaf = setting.predicted.up[setting.corpus.spec.sites[-1].name]
            (gradient,) = torch.autograd.grad(term, [leaf], retain_graph=True)
            assert gradient.isfinite().all(), name
            assert gradient.any(), name


@torch.no_grad()
def test_the_recipes_own_loss_is_that_of_its_rule_and_one_for_the_subjects_alone(setting: Setting) -> None:
    got = setting.terms({"recipe": 1.0, "recipe_shuffled": 1.0})
    base, batch, rows = setting.base, setting.batch, []
    for row, prompt in enumerate(batch.rows.tolist()):
        subject = setting.subjects[int(batch.subjects[row])]
        texts = prompts_of(batch.prompts[prompt].text, subject.class_word)
        x_t = base.schedule.add_noise(batch.x0, batch.noise, batch.t)[[row]]
        alone = merged(base.unet, subject.adapter)
        own, other = (merged(alone, setting.predicted.adapter(p)) for p in (prompt, (prompt + 1) % 3))
        models = {"student": own, "other": other, "subject": alone, "base": base.unet}
        asked = [
            ("student", "target"),
            ("other", "target"),
            ("subject", "target"),
            ("subject", "personal"),
            ("base", "clean"),
            ("base", "photo"),
        ]
        *students, personal, clean, photo = (
            _predict(base, models[who], x_t, batch.t[[row]], base.encode_prompts(
                [getattr(texts, role)], subject.adapter.placeholders))
            for who, role in asked
        )  # fmt: skip
        goal = personal + 1.5 * (clean - photo)
        rows.append(torch.stack([(student - goal).square().mean() for student in students]))
    left, left_by_other, before = torch.stack(rows, dim=1)
    torch.testing.assert_close(got["recipe"], left.mean() / before.mean(), **NETWORK)
    margins = (0.15 + (left - left_by_other) / before.mean()).clamp(min=0)
    torch.testing.assert_close(got["recipe_shuffled"], margins.mean(), **NETWORK)


def test_another_prompt_is_one_of_another_meaning(setting: Setting) -> None:
    batch = setting.batch
    said = [replace(prompt, cluster=cluster) for prompt, cluster in zip(batch.prompts, "aab", strict=True)]
    assert batch.rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert replace(batch, prompts=said).rows_of_others.tolist() == [2, 2, 2, 2, 0, 0]
    alike = [replace(prompt, cluster="a") for prompt in batch.prompts]
    assert replace(batch, prompts=alike).rows_of_others.tolist() == [1, 1, 2, 2, 0, 0]


def test_the_recipes_loss_has_the_recipes_min_snr(setting: Setting) -> None:
    with setting.stage.attached(), torch.no_grad():
        samples, base = setting.stage.samples(setting.batch), setting.stage.base
        output = setting.stage.alone(samples)
        settings = recipe_settings(setting.corpus.recipe)
        plain, weighted = (
            RecipeLoss(base.schedule, samples, find_rule("composed"), replace(settings, min_snr=gamma))(output)
            for gamma in (None, 1.0)
        )
    torch.testing.assert_close(weighted, plain * base.schedule.min_snr_weight(setting.batch.t, 1.0))
    assert not torch.allclose(weighted, plain)


def test_proxies_know_the_oracle_and_the_mean(setting: Setting) -> None:
    with setting.stage.attached(), torch.no_grad():
        samples = setting.stage.samples(setting.batch)
        exam = Exam(setting.stage, find_rule("composed"), recipe_settings(setting.corpus.recipe), setting.mean)
        oracle = exam.measure([samples], lambda _: setting.target, [setting.target])
        constant = setting.mean[[0, 0, 0]]
        mean = exam.measure([samples], lambda _: constant, [setting.target])
        mine = exam.measure([samples], lambda _: setting.predicted, [setting.target])
    assert oracle.gain == pytest.approx(1.0, abs=1e-4)
    assert oracle.cosine == pytest.approx(1.0, abs=1e-4)
    assert oracle.specificity > 0.02
    assert oracle.specificity == pytest.approx(oracle.specificity_of_corpus, abs=1e-5)
    assert mean.specificity_of_corpus == oracle.specificity_of_corpus
    assert mean.specificity == pytest.approx(0.0, abs=1e-5)  # a mean adapter has S = 0
    assert mean.gain == pytest.approx(mean.gain_of_mean, abs=1e-5)
    assert oracle.recipe_gain == pytest.approx(oracle.recipe_gain_of_corpus, abs=1e-5)
    left = setting.terms({"recipe": 1.0})["recipe"].detach()
    assert mine.recipe_gain == pytest.approx(1 - float(left), abs=1e-4)
    assert mine.recipe_gain_of_corpus == oracle.recipe_gain_of_corpus
    assert mean.recipe_gain == pytest.approx(mean.recipe_gain_of_other, abs=1e-5)
    assert mean.score == pytest.approx(mean.recipe_gain, abs=1e-5)  # G alone
    assert oracle.recipe_gain_of_other != pytest.approx(oracle.recipe_gain, abs=1e-4)


def test_settings_are_checked() -> None:
    for changes in ({"prompts": 1}, {"ema": 1.0}, {"lr": 0.0}, {"delta": -1.0}, {"warm": 10, "steps": 5}):
        with pytest.raises(InputError, match="setting"):
            HyperSettings(**changes)
    for steps, parts in ((400, (50, 200)), (1, (0, 0))):  # a quarter of the rest, and half
        assert (HyperSettings(steps=steps).warm_steps, HyperSettings(steps=steps).tune_steps) == parts
    no_recipe = {"recipe": 0.0, "recipe_shuffled": 0.0}
    for steps_of_it in ({}, {"tune": 4000}):
        with pytest.raises(InputError, match="weight 0"):  # of a part that has steps
            HyperSettings(**no_recipe, **steps_of_it)  # type: ignore[arg-type]
    HyperSettings(**no_recipe, tune=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="weight 0"):
        HyperSettings(**{name: 0.0 for name in TERMS if name != "trust"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no setting 'rate'"):
        HyperSettings.from_mapping({"rate": 1})
