"""The controls of the table are wired as they say: which ΔW each method draws with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from palp.adapter import Adapter
from palp.base import Base
from palp.compose import compose
from palp.errors import InputError
from palp.evaluate.methods import METHODS, Cell, Need, Plan, choose_methods
from palp.evaluate.study import Study
from tests.worlds import small_protocol, study, world_base

RTOL, ATOL = 1e-4, 1e-6  # of float32 sums in another order


@pytest.fixture(scope="module")
def base() -> Base:
    return world_base()


@pytest.fixture(scope="module")
def trained(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with every method's adapters."""
    done = study(base, tmp_path_factory.mktemp("study"))
    done.train(METHODS.values())
    return done


def cell(subject: int = 0, target: int = 0) -> Cell:
    protocol = small_protocol()
    return Cell(protocol.subjects[subject], protocol.targets[target], protocol, {})


def drawn_with(trained: Study, method: str, of: Cell) -> Adapter:
    plan = METHODS[method].plan(of)
    return compose([(trained.shelf.adapter(need), scale) for need, scale in plan.parts])


def own_part(method: str, of: Cell) -> Need:
    return METHODS[method].plan(of).parts[-1][0]


def delta(adapter: Adapter, site: str) -> torch.Tensor:
    return adapter.delta_weight(site)


def assert_same(left: Adapter, right: Adapter, factor: float = 1.0) -> None:
    assert left.spec.sites == right.spec.sites
    for site in left.spec.sites:
        torch.testing.assert_close(delta(left, site.name), factor * delta(right, site.name), rtol=RTOL, atol=ATOL)


def test_scaled_subjects_have_scaled_weights_and_the_same_word(trained: Study) -> None:
    whole = drawn_with(trained, "subject", cell())
    assert max(whole.norms().values()) > 0
    for method, factor in (("subject_0.8", 0.8), ("subject_0.6", 0.6)):
        part = drawn_with(trained, method, cell())
        assert_same(part, whole, factor)
        assert torch.equal(part.placeholders["[V]"]["text_encoder"], whole.placeholders["[V]"]["text_encoder"])


def test_opened_methods_are_whole_in_the_opening_and_weaker_after_it() -> None:
    rest = METHODS["opened"].plan(cell()).parts[0][1]
    assert 0 < rest < 1
    for method, alone, after in (
        ("opened_whole", "subject", 1.0),
        ("opened", "subject", rest),
        ("opened_palp", "palp", rest),
    ):
        need = own_part(alone, cell())
        assert METHODS[method].plan(cell()) == Plan(((need, after),), opening=((need, 1.0),))
    (own, scale), *more = METHODS["opened_transferred"].plan(cell()).parts
    assert (own, scale) == (own_part("subject", cell()), rest)
    assert more == list(METHODS["transferred"].plan(cell()).parts[1:])


def test_stopping_early_takes_the_same_training_after_half_its_steps(base: Base, trained: Study) -> None:
    from palp.train import Trainer

    early = own_part("subject_early", cell())
    trainer = Trainer(base, [trained.shelf.job(early)], trained.shelf.settings(early))
    for step in trainer.run():
        if step.number + 1 == 2:
            assert_same(drawn_with(trained, "subject_early", cell()), trainer.adapters()[0])
    assert_same(drawn_with(trained, "subject", cell()), trainer.adapters()[0])


def test_no_guidance_is_palp_with_lambda_zero_and_one_adapter_a_subject(base: Base, trained: Study) -> None:
    from palp.train import Trainer

    palp = own_part("palp", cell())
    settings = replace(trained.shelf.settings(palp), guidance_weight=0.0)
    trainer = Trainer(base, [trained.shelf.job(palp)], settings)
    for _ in trainer.run():
        pass
    control, guided = (drawn_with(trained, name, cell()) for name in ("unguided", "palp"))
    assert_same(control, trainer.adapters()[0])
    site = control.spec.sites[0].name
    assert not torch.allclose(delta(control, site), delta(guided, site), rtol=RTOL, atol=ATOL)
    assert own_part("unguided", cell(0, 0)) == own_part("unguided", cell(0, 1))


def test_guided_adapters_differ_by_rule_and_by_prompt(trained: Study) -> None:
    names = ("sds", "nfsd", "palp_fresh_noise", "palp_no_rescale", "palp")
    adapters = [drawn_with(trained, name, cell(0, target)) for name in names for target in (0, 1)]
    site = adapters[0].spec.sites[0].name
    for index, left in enumerate(adapters):
        assert all(not torch.equal(delta(left, site), delta(right, site)) for right in adapters[:index])


def test_another_prompts_adapter_is_that_of_another_prompt() -> None:
    for method, own in (("residual_other", "residual_regional"), ("transferred_other", "transferred")):
        assert own_part(method, cell(0, 0)) == own_part(own, cell(0, 1))
        assert own_part(method, cell(0, 1)) == own_part(own, cell(0, 0))


def test_the_mean_adapter_is_the_mean_of_the_residual_weights(trained: Study) -> None:
    mean = drawn_with(trained, "residual_mean", cell())
    subject = drawn_with(trained, "subject", cell())
    each = [trained.shelf.adapter(own_part("residual_regional", cell(0, target))) for target in (0, 1)]
    for site in mean.spec.sites:
        strength = trained.shelf.settings(own_part("residual_regional", cell())).subject_scale
        expected = strength * delta(subject, site.name)
        expected += (delta(each[0], site.name) + delta(each[1], site.name)) / 2
        torch.testing.assert_close(delta(mean, site.name), expected, rtol=RTOL, atol=ATOL)


def test_transferred_adapters_never_saw_the_subject(trained: Study) -> None:
    plan = METHODS["transferred"].plan(cell())
    (own, _), (residual, _) = plan.parts
    assert own.subjects == ("wolf",)
    assert residual.subjects == ("poodle", "gorilla")
    assert residual == own_part("transferred", cell(1, 0))
    assert trained.shelf.adapter(residual).placeholders == {}


def test_chosen_settings_reach_the_training_and_the_sampling(trained: Study) -> None:
    choices = {"palp": {"guidance_weight": 0.25}, "score_composition": {"gamma": 0.25}}
    chosen = replace(cell(), choices=choices)
    for method in ("palp", "palp_fresh_noise", "palp_no_rescale"):
        assert trained.shelf.settings(own_part(method, chosen)).guidance_weight == 0.25
    recipe = trained.shelf.recipes()["joint"]
    assert trained.shelf.settings(own_part("sds", chosen)).guidance_weight == recipe["guidance_weight"] != 0.25
    assert METHODS["score_composition"].plan(chosen).composition == ("composed", 0.25)


def test_methods_are_chosen_by_name_in_the_tables_order() -> None:
    assert list(choose_methods("palp, base", METHODS)) == ["base", "palp"]
    assert choose_methods(None, METHODS).keys() == METHODS.keys()
    assert METHODS["base"].plan(cell()) == Plan()
    with pytest.raises(InputError, match="there is no method 'pulp': choose from base, subject"):
        choose_methods("palp,pulp", METHODS)
    with pytest.raises(InputError, match="lack base"):
        choose_methods("palp,sds", METHODS, ("palp", "base"))
