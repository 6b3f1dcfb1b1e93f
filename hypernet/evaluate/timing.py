"""How long a prediction takes, and what it stands beside: a denoising step, and training the adapter."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from hypernet.evaluate.rivals import refiner
from hypernet.predict import Predictor
from hypernet.stage import recipe_settings
from palp.base.device import finish
from palp.corpus import Corpus, CorpusPrompt
from palp.evaluate.intervals import Estimate, estimate

__all__ = ["timings"]

REPEATS = 10


def timings(predictor: Predictor, corpus: Corpus, prompt: CorpusPrompt, spent: float) -> dict[str, Estimate]:
    """predict_ms: prompt text to factors. denoise_step_ms: one call with guidance, of one picture. palp_s: training
    one adapter alone by the corpus' recipe, so many times one step of it. break_even_prompts: so many adapters trained
    alone take as long as `spent`, the seconds of corpus and training, and as predicting them.
    """
    base, word = predictor.base, corpus.subjects[0].class_word
    with torch.no_grad():
        text = base.encode_prompts(["", prompt.text.replace("[V]", word)])
    x = torch.randn(2, *base.latent_shape, device=base.device)
    t = torch.full((2,), len(base.schedule) // 2, device=base.device)

    @torch.no_grad()
    def step() -> None:
        base.predict(x, t, text)

    steps = recipe_settings(corpus.recipe).steps
    training = refiner(predictor, corpus, [prompt], REPEATS + 1).run()
    predict_ms = _measure(lambda: predictor.predict([prompt.text], [word]), base.device, REPEATS, 1000)
    step_ms = _measure(step, base.device, REPEATS, 1000)
    palp_s = _measure(lambda: next(training), base.device, REPEATS, steps)
    next(training, None)  # to its end, which takes the banks off the base
    return {
        "predict_ms": estimate(predict_ms),
        "denoise_step_ms": estimate(step_ms),
        "palp_s": estimate(palp_s),
        "break_even_prompts": estimate([spent / (trained - predict_ms.mean() / 1000) for trained in palp_s]),
    }


def _measure(work: Callable[[], object], device: torch.device, repeats: int, unit: float) -> NDArray[np.float64]:
    """Seconds times the unit of every run, after one for warming up."""
    work()
    finish(device)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        finish(device)
        seconds.append(time.perf_counter() - begin)
    return unit * np.asarray(seconds)
