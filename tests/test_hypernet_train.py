"""Training a hypernetwork: it learns the prompt, a kill costs nothing, what is wrong is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hypernet.learn as learn_module
from hypernet.config import HyperConfig
from hypernet.file import load_hypernet
from hypernet.learn import learn_hypernet
from hypernet.material import corpus_hash, settle_trust
from hypernet.prompts import encode_clean
from hypernet.settings import HyperSettings
from hypernet.train import HyperTrainer
from hypernet.trust import nonsense
from palp.adapter import Adapter
from palp.base import Base
from palp.errors import AdapterMismatchError, InputError, NonFiniteLossError
from palp.learn import Watch
from tests.commands import PALP_HYPER, refuses
from tests.corpora import CONFIG, TinyCorpus, regauged
from tests.light import light_base

HOW = HyperSettings(
    steps=6, warm=2, tune=2, prompts=3, samples=2, warmup=1, lr=1e-3, validate_every=2, validation_prompts=2, patience=0
)


def run(trainer: HyperTrainer, steps: int | None = None) -> HyperTrainer:
    for step in trainer.run():
        if steps is not None and step.number + 1 == steps:
            break
    return trainer


def same(left: HyperTrainer, right: HyperTrainer) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_goes_on_bit_for_bit(base: Base, corpus: TinyCorpus, tmp_path: Path, stop: int) -> None:
    whole = run(HyperTrainer(base, corpus, CONFIG, HOW))
    broken = run(HyperTrainer(base, corpus, CONFIG, HOW), stop)
    broken.save(tmp_path / "checkpoint.safetensors")
    again = HyperTrainer(base, corpus, CONFIG, HOW)
    again.load(tmp_path / "checkpoint.safetensors")
    same(again, broken)
    same(run(again), whole)
    assert not torch.equal(whole.state_dict()["model.gain"], broken.state_dict()["model.gain"])


def test_another_runs_checkpoint_is_refused(base: Base, corpus: TinyCorpus, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run(HyperTrainer(base, corpus, CONFIG, HOW), 1).save(path)
    for changed in ({"settings": replace(HOW, seed=1)}, {"config": replace(CONFIG, basis=2)}):
        parts = {"config": CONFIG, "settings": HOW, **changed}
        with pytest.raises(InputError, match="other settings"):
            HyperTrainer(base, corpus, **parts).load(path)  # type: ignore[arg-type]


def test_a_corpus_of_another_base_is_refused_with_both_named(corpus: TinyCorpus) -> None:
    with pytest.raises(AdapterMismatchError, match=r"light:0.*light:1"):
        HyperTrainer(light_base(seed=1), corpus, CONFIG, HOW)


def test_a_corpus_without_held_out_parts_is_refused(base: Base, corpus: TinyCorpus) -> None:
    known = replace(corpus, prompts=[prompt for prompt in corpus.prompts if prompt.split == "train"])
    with pytest.raises(InputError, match="0 held-out prompts"):
        HyperTrainer(base, known, CONFIG, HOW)
    friends = replace(corpus, subjects=[subject for subject in corpus.subjects if not subject.held_out])
    with pytest.raises(InputError, match="0 held-out subjects"):
        HyperTrainer(base, friends, CONFIG, HOW)


def repeated(corpus: TinyCorpus) -> TinyCorpus:
    """All prompts for training, and two of them held out as well, word for word, under other keys."""
    prompts = [replace(prompt, split="train") for prompt in corpus.prompts]
    again = [replace(prompt, key=f"{prompt.key}-again", split="paraphrase") for prompt in prompts[::5]]
    adapters = dict(corpus.adapters) | {prompt.key: corpus.adapters[prompt.cluster] for prompt in again}
    return replace(corpus, prompts=(*prompts, *again), adapters=adapters)


def test_it_learns_what_the_prompt_says_and_does_not_collapse_to_the_mean(base: Base, corpus: TinyCorpus) -> None:
    """On subjects never seen, and prompts that differ from training's in nothing but their keys."""
    config = HyperConfig(width=32, layers=1, heads=2, basis=8)
    how = replace(HOW, steps=120, warm=120, tune=0, prompts=7, lr=5e-3, lr_gain=3e-2, validate_every=40, ema=0.9)
    trainer = run(HyperTrainer(base, repeated(corpus), config, how))
    proxies = trainer.validate()
    assert proxies.gain > proxies.gain_of_mean + 0.05
    assert proxies.specificity > 0.05
    assert proxies.cosine > proxies.cosine_of_other + 0.05


def test_the_average_keeps_up_with_a_short_training(base: Base, corpus: TinyCorpus) -> None:
    """At the decay of a long one it would still be near where it began."""
    how = replace(HOW, steps=60, warm=60, tune=0, ema=0.998)
    trainer = HyperTrainer(base, corpus, CONFIG, how)
    before = trainer._hypernet.head.detach().clone()
    run(trainer)
    moved = (trainer._hypernet.head - before).norm()
    lag = (trainer._hypernet.head - trainer._ema["head"]).norm()
    assert lag < 0.25 * moved


def test_the_gauge_of_the_corpus_changes_nothing(base: Base, corpus: TinyCorpus) -> None:
    adapters = {key: regauged(adapter, i) for i, (key, adapter) in enumerate(corpus.adapters.items())}
    left = run(HyperTrainer(base, corpus, CONFIG, HOW))
    right = run(HyperTrainer(base, replace(corpus, adapters=adapters), CONFIG, HOW))
    for site, up in left.best().mean().up.items():
        torch.testing.assert_close(up, right.best().mean().up[site], rtol=1e-3, atol=1e-4)
    ours, theirs = left.validate(), right.validate()
    assert ours.gain == pytest.approx(theirs.gain, abs=5e-3)
    assert ours.specificity == pytest.approx(theirs.specificity, abs=5e-3)


def test_gradient_norms_of_every_term_are_measured(base: Base, corpus: TinyCorpus) -> None:
    step = next(HyperTrainer(base, corpus, CONFIG, replace(HOW, warm=0)).run())
    assert step.terms.keys() == step.term_norms.keys() == HOW.weights(HOW.warm_steps).keys()
    assert all(norm > 0 for norm in step.term_norms.values())
    assert not any(layer._forward_hooks for layer in base.unet.modules())


def test_the_end_is_learned_from_fresh_prompts_and_asks_the_corpus_for_no_adapter(
    base: Base, corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = [replace(prompt, key=f"fresh-{prompt.key}", split="train") for prompt in corpus.prompts]
    richer = replace(corpus, fresh_prompts=fresh)
    trainer = HyperTrainer(base, richer, CONFIG, replace(HOW, validate_every=100))
    asked: list[str] = []

    def adapter(key: str) -> Adapter:
        asked.append(key)
        return corpus.adapter(key)

    monkeypatch.setattr(trainer, "_adapter", adapter)
    terms = [set(step.terms) for step in trainer.run()]
    assert terms[0] == terms[1] == {"delta", "direction", "norm", "contrastive", "trust"}
    assert terms[2] == terms[3] == {*terms[0], "behaviour", "shuffled"}
    assert terms[4] == terms[5] == {"recipe", "recipe_shuffled", "trust"}
    first, validated = asked[: 4 * HOW.prompts], asked[4 * HOW.prompts :]
    splits = {prompt.key: prompt.split for prompt in corpus.prompts}
    assert {splits[key] for key in first} == {"train"}  # of the first four steps
    assert "train" not in {splits[key] for key in validated}  # after the last
    own = run(HyperTrainer(base, corpus, CONFIG, replace(HOW, validate_every=100)))
    assert not torch.equal(own.state_dict()["model.head"], trainer.state_dict()["model.head"])  # it has its own prompts


def test_a_training_shorter_than_its_validations_gives_what_it_has_learned(base: Base, corpus: TinyCorpus) -> None:
    trainer = HyperTrainer(base, corpus, CONFIG, replace(HOW, validate_every=100))
    steps = list(trainer.run())
    assert [step.number for step in steps if step.proxies is not None] == [HOW.steps - 1]
    assert trainer.best().gain.abs().min() > 0  # at the start it is zero: the corpus' mean
    assert trainer.outcome() == steps[-1].proxies
    assert trainer.best_score == pytest.approx(trainer.outcome().score)


def test_more_fresh_prompts_than_training_ones_fit(base: Base, corpus: TinyCorpus) -> None:
    fresh = [
        replace(prompt, key=f"fresh-{n}-{prompt.key}", split="train") for n in range(2) for prompt in corpus.prompts
    ]
    many = replace(HOW, steps=2, warm=0, tune=2, prompts=len(fresh))
    assert run(HyperTrainer(base, replace(corpus, fresh_prompts=fresh), CONFIG, many)).finished


def test_without_its_term_the_reliability_waits_for_no_gradient(base: Base, corpus: TinyCorpus) -> None:
    trainer = HyperTrainer(base, corpus, CONFIG, replace(HOW, trust=0.0))
    run(trainer)
    assert {name for name, p in trainer._hypernet.named_parameters() if p.grad is None} == {
        name for name, _ in trainer._hypernet.named_parameters() if name.startswith("trust.")
    }


def test_patience_begins_with_the_last_part(base: Base, corpus: TinyCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = HyperTrainer(base, corpus, CONFIG, replace(HOW, steps=12, tune=6, validate_every=1, patience=2))
    proxies = trainer.validate()
    monkeypatch.setattr(trainer, "validate", lambda: proxies)  # nothing becomes better after the first
    assert [step.number for step in trainer.run()] == list(range(8))


def test_another_corpus_of_the_same_plan_is_another(base: Base, corpus: TinyCorpus) -> None:
    weaker = {key: adapter.scaled(0.5) for key, adapter in corpus.adapters.items()}
    assert corpus_hash(replace(corpus, adapters=weaker)) != corpus_hash(corpus)


def test_a_recipe_with_a_prior_is_refused(base: Base, corpus: TinyCorpus) -> None:
    with pytest.raises(InputError, match="prior_weight"):
        HyperTrainer(base, replace(corpus, recipe={**corpus.recipe, "prior_weight": 0.5}), CONFIG, HOW)


def test_the_recipes_loss_alone_teaches_prompts_without_an_adapter(base: Base, corpus: TinyCorpus) -> None:
    """Held-out prompts and subjects; the corpus' random adapters, which the mean starts from, only do harm."""
    how = replace(HOW, steps=60, warm=0, tune=60, prompts=4, lr=3e-3, lr_gain=3e-2, validate_every=100, ema=0.9)
    trainer = HyperTrainer(base, repeated(corpus), CONFIG, how)
    before = trainer.validate()
    after = run(trainer).validate()
    assert after.recipe_gain > before.recipe_gain + 0.02


def test_a_finished_networks_reliability_is_fitted_to_its_states_and_nothing_else(
    base: Base, corpus: TinyCorpus
) -> None:
    hypernet = run(HyperTrainer(base, corpus, CONFIG, HOW), 2).best()
    with torch.no_grad():
        for parameter in hypernet.trust.parameters():
            parameter.neg_()  # a head that says the contrary, as one may whose states have moved on
    before = {name: tensor.clone() for name, tensor in hypernet.state_dict().items()}
    settle_trust(base, corpus, hypernet, 0)
    after = hypernet.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if name.startswith("trust.")
    }
    assert not any(parameter.requires_grad for parameter in hypernet.parameters())
    prompts = [prompt.text for prompt in corpus.prompts]
    known = hypernet(encode_clean(base, prompts, ["cat"] * len(prompts))).log_odds
    bare = nonsense(np.random.default_rng(9), 32)
    about_it = encode_clean(base, [f"{text} [V]" for text in bare], ["cat"] * len(bare))
    for text in (base.encode_prompts(bare), about_it):
        assert float(known.min()) > float(hypernet(text).log_odds.quantile(0.9))


def test_it_stops_when_nothing_gets_better(base: Base, corpus: TinyCorpus) -> None:
    still = replace(HOW, steps=40, warm=40, tune=0, lr=1e-12, lr_gain=1e-12, validate_every=1, patience=3, ema=0.0)
    trainer = run(HyperTrainer(base, corpus, CONFIG, still))
    assert trainer.step < 40


def test_a_loss_that_is_not_finite_ends_the_run(base: Base, corpus: TinyCorpus) -> None:
    trainer = HyperTrainer(base, corpus, CONFIG, HOW)
    with torch.no_grad():
        trainer._hypernet.head[0, 0, 0] = torch.nan
        trainer._hypernet.gain.fill_(1.0)
    with pytest.raises(NonFiniteLossError, match="step 0"):
        next(trainer.run())


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_run_folder_goes_on_and_a_finished_one_is_left_alone(
    base: Base, corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn_module, "CHECKPOINT_S", 0.0)

    def kill(done: int, total: int, loss: float) -> None:
        if done == 4:
            raise Killed

    whole = learn_hypernet(base, corpus, CONFIG, HOW, tmp_path / "whole")
    with pytest.raises(Killed):
        learn_hypernet(base, corpus, CONFIG, HOW, tmp_path / "broken", Watch(kill))
    assert (tmp_path / "broken/checkpoint.safetensors").is_file()
    done: list[int] = []
    broken = learn_hypernet(
        base, corpus, CONFIG, HOW, tmp_path / "broken", Watch(lambda step, total, loss: done.append(step))
    )
    assert done == [4, 5, 6]  # the third step was saved
    ours, theirs = load_hypernet(whole)[0].state_dict(), load_hypernet(broken)[0].state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    before = whole.stat().st_mtime_ns
    learn_hypernet(base, corpus, CONFIG, HOW, tmp_path / "whole")
    assert whole.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="seed 0"):
        learn_hypernet(base, corpus, CONFIG, replace(HOW, seed=1), tmp_path / "whole")


def test_an_unknown_setting_is_told_all_that_there_are(tmp_path: Path) -> None:
    told = refuses(PALP_HYPER, "train", tmp_path, "--out", tmp_path / "out", "--set", "colour=red")
    for name in ("'colour'", "width", "recipe_margin"):
        assert name in told
