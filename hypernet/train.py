"""The training loop of a hypernetwork: it yields, and the caller logs, draws, saves or breaks off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypernet.config import HyperConfig
from hypernet.draws import Draws, HyperBatch, in_batches
from hypernet.factors import Factors
from hypernet.material import check_corpus, corpus_hash, split_prompts, started
from hypernet.model import Hypernetwork, Prediction
from hypernet.objective import Terms
from hypernet.parameters import gradient_norms, parameter_groups, swapped
from hypernet.prompts import encode_clean
from hypernet.proxies import Exam, Proxies
from hypernet.settings import HyperSettings
from hypernet.stage import Samples, Stage, recipe_rule, recipe_settings
from hypernet.trust import nonsense
from palp.base import Base, TextState
from palp.corpus import Corpus, CorpusPrompt
from palp.errors import NonFiniteLossError
from palp.train import checkpoint

__all__ = ["HyperStep", "HyperTrainer"]

CACHED = 1024  # adapters kept in memory
EMA_SHARE = 0.1  # the weights' average looks back over so much of the steps so far, at most
MEASURE_EVERY = 50  # steps between measurements of each term's gradient
VALIDATION_SAMPLES = 4  # noised pictures of each held-out prompt
VALIDATION_KEY = 999_983  # of the validation's draws: the same whenever it is asked


@dataclass(frozen=True, eq=False)
class HyperStep:
    """What happened in a step.

    Args:
        number: of the step, from 0.
        loss: weighted sum before the update.
        terms: mean of each term that counted.
        term_norms: norm of each weighted term's gradient in the predicted factors; empty in most steps.
        grad_norm: of all parameters, before clipping.
        lr_scale: the schedule's factor on the learning rates.
        proxies: after the step, where it was validated.
    """

    number: int
    loss: float
    terms: Mapping[str, float]
    term_norms: Mapping[str, float]
    grad_norm: float
    lr_scale: float
    proxies: Proxies | None


class HyperTrainer:
    """Trains a hypernetwork on a corpus; on a CPU a run that was saved and loaded goes on bit for bit.

        trainer = HyperTrainer(base, corpus, HyperConfig(), HyperSettings())
        for step in trainer.run():
            ...
        hypernet = trainer.best()

    Several processes (`accelerate launch`) share each step's gradients; what one draws depends on the seed, the
    step and its rank alone.

    Raises:
        AdapterMismatchError: the corpus is of another base.
        InputError: it lacks training or held-out prompts or subjects.
    """

    def __init__(self, base: Base, corpus: Corpus, config: HyperConfig, settings: HyperSettings) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        self.base, self.corpus, self.config, self.settings = base, corpus, config, settings
        check_corpus(base, corpus)
        train, held = split_prompts(corpus)
        self._adapter = lru_cache(maxsize=CACHED)(corpus.adapter)
        hypernet = started(base, corpus, train, config, settings.seed)
        self._mean = Factors.stack([hypernet.mean()]).to(base.device)
        if base.device.index is not None:  # where a process is alone, accelerate takes the current one
            torch.cuda.set_device(base.device)
        self._accelerator = Accelerator(  # the base has its own arithmetic, and the network is small: float32
            cpu=base.device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self._hypernet = hypernet.to(base.device)
        self._hypernet.trust.requires_grad_(settings.trust > 0)  # processes wait for each other's gradients
        optimizer = torch.optim.AdamW(parameter_groups(self._hypernet, settings))
        self._model, self._optimizer = self._accelerator.prepare(self._hypernet, optimizer)
        self._set_up_stages(train, held)
        self._ema = {name: value.detach().clone() for name, value in self._hypernet.named_parameters()}
        self._best = {name: value.clone() for name, value in self._ema.items()}
        self.step, self.best_score, self._stale = 0, float("-inf"), 0

    def _set_up_stages(self, train: list[CorpusPrompt], held: list[CorpusPrompt]) -> None:
        """Training draws from training subjects, validation from held-out ones."""
        base, settings, spec = self.base, self.settings, self.corpus.spec
        self._recipe = recipe_settings(self.corpus.recipe)
        self._rule = recipe_rule(self.corpus.recipe)
        t_range = self._recipe.t_range(len(base.schedule))
        subjects = [subject for subject in self.corpus.subjects if not subject.held_out]
        strangers = [subject for subject in self.corpus.subjects if subject.held_out]
        strength = self._recipe.subject_scale
        fresh = self.corpus.fresh_prompts if settings.tune_steps else ()  # these have no pictures of their own
        slots = min(settings.prompts, max(len(train), len(fresh)))
        self._stage = Stage(base, spec, subjects, slots, strength)
        pictures = lru_cache(maxsize=CACHED)(self.corpus.pictures)
        self._draws = Draws(train, subjects, t_range, base.device, pictures)
        self._fresh_draws = Draws(fresh, subjects, t_range, base.device) if fresh else self._draws
        self._validation_stage = Stage(base, spec, strangers, settings.prompts, strength)
        draws = Draws(held, strangers, t_range, base.device, pictures)
        chosen = held[:: max(1, len(held) // settings.validation_prompts)][: settings.validation_prompts]
        self._validation = [
            draws.of([VALIDATION_KEY, i], part, VALIDATION_SAMPLES)
            for i, part in enumerate(in_batches(chosen, settings.prompts))
        ]

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or nothing has become better for long enough."""
        patience = self.settings.patience
        return self.step >= self.settings.steps or bool(patience and self._stale >= patience)

    def run(self) -> Iterator[HyperStep]:
        """Train until `finished`, yielding after each step; the base is as before when the loop ends.

        Raises:
            NonFiniteLossError: the loss became nan or infinite; parameters are as before that step.
        """
        while not self.finished:
            yield self._advance()

    def best(self) -> Hypernetwork:
        """A copy with the averaged weights that had the best score, on the CPU."""
        hypernet = Hypernetwork(self.corpus.spec, self.base.text_shape, self.config, self._recipe.subject_scale)
        hypernet.load_state_dict({**self._hypernet.state_dict(), **self._best})
        return hypernet.eval().requires_grad_(False)

    def validate(self) -> Proxies:
        """The averaged weights on held-out prompts and subjects."""
        return self._measured(self._ema)

    def outcome(self) -> Proxies:
        """The same of the weights that `best` gives."""
        return self._measured(self._best)

    def _measured(self, weights: Mapping[str, Tensor]) -> Proxies:
        stage = self._validation_stage
        with swapped(self._hypernet, weights), stage.attached():
            batches = [stage.samples(batch) for batch in self._validation]
            target = [self._target(batch) for batch in self._validation]
            return Exam(stage, self._rule, self._recipe, self._mean).measure(batches, self._predicted, target)

    def save(self, path: Path) -> None:
        """Write everything that `load` needs to one safetensors file, atomically; the main process does."""
        if self._accelerator.is_main_process:
            checkpoint.save(path, self.state_dict(), self._identity)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`, made with the same base, corpus and settings.

        Raises:
            InputError: the file is missing, damaged, or of another run.
        """
        self.load_state_dict(checkpoint.load(path, self._identity))

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that changes; what a step draws depends on its number alone."""
        counters = {"step": self.step, "best_score": self.best_score, "stale": self._stale}
        return {
            **{name: torch.tensor(value, dtype=torch.float64) for name, value in counters.items()},
            **{f"model.{name}": value.clone() for name, value in self._hypernet.state_dict().items()},
            **{f"ema.{name}": value.clone() for name, value in self._ema.items()},
            **{f"best.{name}": value.clone() for name, value in self._best.items()},
            **{f"adam.{name}": value.clone() for name, value in self._adam().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.step, self._stale = int(state["step"]), int(state["stale"])
        self.best_score = float(state["best_score"])
        device = self.base.device

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): v.to(device) for key, v in state.items() if key.startswith(prefix)}

        self._hypernet.load_state_dict(part("model."))
        self._ema, self._best = part("ema."), part("best.")
        saved = part("adam.")
        for name, parameter in self._hypernet.named_parameters():
            own = {key.removeprefix(f"{name}/"): v for key, v in saved.items() if key.startswith(f"{name}/")}
            if own:
                self._optimizer.state[parameter] = {**own, "step": own["step"].cpu()}

    def _advance(self) -> HyperStep:
        settings, number = self.settings, self.step
        scale = settings.lr_scale(number)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        self._optimizer.zero_grad()
        with self._stage.attached():
            terms, term_norms, loss = self._backward(number)
        norm = float(self._accelerator.clip_grad_norm_(self._model.parameters(), settings.clip))
        if not np.isfinite(norm) or not np.isfinite(loss):
            raise NonFiniteLossError(number, 0)
        self._optimizer.step()
        with torch.no_grad():
            for name, parameter in self._hypernet.named_parameters():
                self._ema[name].lerp_(parameter, max(1 - settings.ema, 1 / (1 + number * EMA_SHARE)))
        self.step += 1
        due = self.step % settings.validate_every == 0 or self.step == settings.steps
        proxies = self._validated() if due else None
        return HyperStep(number, loss, terms, term_norms, norm, scale, proxies)

    def _backward(self, number: int) -> tuple[dict[str, float], dict[str, float], float]:
        """Each term, the norm of its gradient, and their sum; the gradients are on the parameters."""
        weights = self.settings.weights(number)
        key = [self.settings.seed, number, self._accelerator.process_index]
        tunes, guidance = self.settings.tunes(number), (self._rule, self._recipe)
        draws = self._fresh_draws if tunes else self._draws
        batch = draws.draw(key, self.settings.prompts, self.settings.samples)
        prediction: Prediction = self._model(self._read(batch, key if "trust" in weights else None))
        target = None if tunes else self._target(batch)
        terms = Terms(self._stage, batch, prediction, target, self._mean, *guidance, self.settings)(weights)
        weighted = {name: weights[name] * term for name, term in terms.items()}
        norms = gradient_norms(weighted, prediction) if number % MEASURE_EVERY == 0 else {}
        total = torch.stack(list(weighted.values())).sum()
        self._accelerator.backward(total)
        return {name: float(term.detach()) for name, term in terms.items()}, norms, float(total.detach())

    def _validated(self) -> Proxies:
        """Measure the averaged weights, and keep them if they are the best so far."""
        proxies = self.validate()
        if self.settings.tunes(self.step - 1) or not self.settings.tune_steps:  # the last part
            self._stale += 1
        if proxies.score > self.best_score:
            self.best_score, self._stale = proxies.score, 0
            self._best = {name: value.clone() for name, value in self._ema.items()}
        return proxies

    def _read(self, batch: HyperBatch, key: list[int] | None) -> TextState:
        """What the hypernetwork reads: the batch's prompts, and with a key nonsense after them."""
        text = encode_clean(self.base, [prompt.text for prompt in batch.prompts], batch.class_words)
        if key is None:
            return text
        with torch.no_grad():
            other = nonsense(np.random.default_rng([*key, 1]), max(2, len(batch.prompts) // 2))
            return TextState.cat([text, self.base.encode_prompts(["", *other[1:]])])

    @torch.no_grad()
    def _predicted(self, samples: Samples) -> Factors:
        prediction: Prediction = self._hypernet(self._read(samples.batch, None))
        return prediction.factors

    def _target(self, batch: HyperBatch) -> Factors:
        return Factors.stack([self._adapter(prompt.key) for prompt in batch.prompts]).to(self.base.device)

    def _adam(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        return {
            f"{name}/{key}": value
            for name, parameter in self._hypernet.named_parameters()
            for key, value in state.get(parameter, {}).items()
        }

    @property
    def _identity(self) -> dict[str, str]:
        """What a checkpoint's run must share with the one that loads it."""
        return {
            "base": self.base.fingerprint,
            "settings": json.dumps([asdict(self.config), self.settings.to_mapping()]),
            "corpus": corpus_hash(self.corpus),
        }
