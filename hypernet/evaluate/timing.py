"""How long a prediction takes, and what it stands beside: a denoising step, and training the adapter."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from hypernet.evaluate.rivals import refined_adapters
from hypernet.predict import Predictor
from hypernet.stage import recipe_settings
from palp.corpus import Corpus, CorpusPrompt
from palp.evaluate.intervals import Estimate, estimate

__all__ = ["timings"]

REPEATS = 10
TRAINED_STEPS = 3  # of one adapter, from which the whole training is reckoned


def timings(predictor: Predictor, corpus: Corpus, prompt: CorpusPrompt) -> dict[str, Estimate]:
    """predict_ms: prompt text to factors. denoise_step_ms: one call with guidance, of one picture. palp_s: training
    one adapter alone by the corpus' recipe, reckoned from a few steps.
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

    def training() -> None:
        refined_adapters(predictor, corpus, [prompt], TRAINED_STEPS, lambda done, total, loss: None)

    return {
        "predict_ms": _measure(lambda: predictor.predict([prompt.text], [word]), REPEATS, 1000),
        "denoise_step_ms": _measure(step, REPEATS, 1000),
        "palp_s": _measure(training, 2, steps / TRAINED_STEPS),
    }


def _measure(work: Callable[[], object], repeats: int, unit: float) -> Estimate:
    """Seconds times the unit, after one run for warming up."""
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return estimate(unit * np.asarray(seconds))
