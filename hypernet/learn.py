"""One training of a hypernetwork in its run folder: begun, gone on with after a kill, or found finished.

settings.json            what was asked for, versions, commit
checkpoint.safetensors   state of the training; gone when it is finished
samples/STEP.png         held-out prompts on a held-out subject, with the mean and the corpus' own adapter beside
hypernet.safetensors     the best averaged weights; when it is there the run is finished
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch

from hypernet.config import HyperConfig
from hypernet.file import Origin, save_hypernet
from hypernet.material import corpus_hash, settle_trust, split_prompts
from hypernet.predict import Predictor
from hypernet.proxies import Proxies
from hypernet.settings import HyperSettings
from hypernet.train import HyperStep, HyperTrainer
from palp.base import Base
from palp.compose import over_subject
from palp.corpus import Corpus, CorpusPrompt, CorpusSubject
from palp.draw import Picture, Sampling, draw
from palp.errors import InputError
from palp.learn import Watch
from palp.logs import open_logs
from palp.recipes import guidance_scale
from palp.runs import RunFolder, open_run
from palp.sheets import contact_sheet, save_png, to_images

__all__ = ["hypernet_file", "learn_hypernet"]

Validated: TypeAlias = Callable[[int, Proxies], None]
"""Called after each validation with the steps done and what was measured."""

CHECKPOINT_S = 60.0  # seconds of work that a kill may cost
SHEET_PROMPTS = 4


def hypernet_file(run: Path) -> Path:
    """The result in a run folder, or the file itself.

    Raises:
        InputError: neither is there.
    """
    path = run / "hypernet.safetensors" if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"there is no hypernetwork in {run}: train one with palp-hyper train")
    return path


def learn_hypernet(
    base: Base,
    corpus: Corpus,
    config: HyperConfig,
    settings: HyperSettings,
    out: Path,
    watch: Watch | None = None,
    validated: Validated | None = None,
) -> Path:
    """Train a hypernetwork to its end in the run folder `out`, from its last checkpoint; returns its file.

    Raises:
        InputError: the folder holds another run, or the corpus has too little in it.
        AdapterMismatchError: the corpus is of another base.
        NonFiniteLossError: the loss became nan or infinite.
        OutputError: the folder cannot be written.
    """
    watch, path = watch or Watch(), out / "hypernet.safetensors"
    asked = _resolved(base, corpus, config, settings)
    if path.is_file():
        open_run(out, asked)
        return path
    trainer = HyperTrainer(base, corpus, config, settings)
    with open_logs(watch.tensorboard) as log:
        run = open_run(out, asked)
        if run.checkpoint.is_file():
            trainer.load(run.checkpoint)
        _train(trainer, run, watch, validated, log)
    outcome = {**asdict(trainer.outcome()), "steps": trainer.step, "best_score": trainer.best_score}
    origin = Origin(dict(corpus.recipe), {"settings": asked, "outcome": outcome})
    hypernet = trainer.best()
    if settings.trust:
        settle_trust(base, corpus, hypernet, settings.seed)
    save_hypernet(hypernet.cpu(), origin, path, torch.float16)
    run.checkpoint.unlink(missing_ok=True)
    return path


def _resolved(base: Base, corpus: Corpus, config: HyperConfig, settings: HyperSettings) -> dict[str, Any]:
    """Everything that fixes a run's result, as JSON values."""
    head = {"base": base.fingerprint, "arithmetic": base.arithmetic, "corpus": corpus_hash(corpus)}
    return {**head, **asdict(config), **settings.to_mapping()}


def _train(trainer: HyperTrainer, run: RunFolder, watch: Watch, validated: Validated | None, log: Any) -> None:
    saved_at, total = time.monotonic(), trainer.settings.steps
    for step in trainer.run():
        done = step.number + 1
        if watch.report is not None:
            watch.report(done, total, step.loss)
        if log is not None:
            _log(log, step)
        if step.proxies is not None and validated is not None:
            validated(done, step.proxies)
        if watch.samples_every and done % watch.samples_every == 0:
            _draw_sheet(trainer, run.sample(done))
        if time.monotonic() - saved_at > CHECKPOINT_S and not trainer.finished:
            trainer.save(run.checkpoint)
            saved_at = time.monotonic()


def _log(log: Any, step: HyperStep) -> None:
    values = {"loss": step.loss, "grad_norm": step.grad_norm, "lr_scale": step.lr_scale}
    values |= {f"term/{name}": value for name, value in step.terms.items()}
    values |= {f"gradient/{name}": value for name, value in step.term_norms.items()}
    if step.proxies is not None:
        values |= {f"held_out/{name}": value for name, value in asdict(step.proxies).items()}
        values["held_out/score"] = step.proxies.score
    for name, value in values.items():
        log.add_scalar(name, value, step.number)


def _draw_sheet(trainer: HyperTrainer, path: Path) -> None:
    """A row for each held-out prompt: the subject alone, with the mean, the prediction, and the corpus' adapter."""
    base, corpus = trainer.base, trainer.corpus
    prompts = split_prompts(corpus)[1][:SHEET_PROMPTS]
    subject = next(subject for subject in corpus.subjects if subject.held_out)
    predictor = Predictor(base, trainer.best())
    pictures = [picture for prompt in prompts for picture in _row(predictor, corpus, prompt, subject)]
    images = to_images(draw(base, pictures, Sampling(guidance=guidance_scale(base.name))))
    rows = [images[start : start + 4] for start in range(0, len(images), 4)]
    columns = ["subject alone", "with the mean", "predicted", "corpus"]
    save_png(contact_sheet(rows, [prompt.text for prompt in prompts], columns), path)


def _row(predictor: Predictor, corpus: Corpus, prompt: CorpusPrompt, subject: CorpusSubject) -> list[Picture]:
    adapters = [
        predictor.hypernet.mean(),
        predictor.predict_adapter(prompt.text, subject.class_word),
        corpus.adapter(prompt.key),
    ]
    summed = [over_subject(subject.adapter, adapter) for adapter in adapters]
    return [Picture(prompt.text, 0, adapter) for adapter in (subject.adapter, *summed)]
