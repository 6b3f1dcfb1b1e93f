"""From one number a picture to the table: means, gains over a control, and Fig. 6's curve."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from palp.evaluate.intervals import Estimate, estimate
from palp.evaluate.methods import METHODS, Method
from palp.evaluate.metrics import PHOTO_METRICS, PROMPT_METRICS, Scores
from palp.evaluate.results import Row
from palp.evaluate.study import Study

__all__ = ["CURVE_METHODS", "CURVE_SHARES", "curve", "gains", "on_the_way", "summarise"]

METRICS = (*PROMPT_METRICS, *PHOTO_METRICS)
CURVE_METHODS = ("subject", "sds", "nfsd", "palp", "residual_regional")
CURVE_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a training's steps


def summarise(study: Study, scores: Mapping[str, Scores]) -> dict[str, Row]:
    """Mean of every metric of every row, with 95 % intervals over subjects."""
    return {
        name: {metric: estimate(values[metric], study.clusters(metric)) for metric in METRICS}
        for name, values in scores.items()
    }


def gains(study: Study, scores: Mapping[str, Scores], over: str) -> dict[str, Row]:
    """Mean difference to the row `over`, picture by picture, with 95 % intervals over subjects."""
    control = scores[over]
    return {
        name: {metric: _paired(study, metric, values, control) for metric in METRICS}
        for name, values in scores.items()
        if name != over
    }


def _paired(study: Study, metric: str, values: Scores, control: Scores) -> Estimate:
    return estimate(values[metric] - control[metric], study.clusters(metric))


def on_the_way(names: Collection[str]) -> list[tuple[Method, float]]:
    """The methods of Fig. 6 among these, each with every share of its training but the last."""
    return [(METHODS[name], share) for name in CURVE_METHODS if name in names for share in CURVE_SHARES[:-1]]


def curve(study: Study, names: Collection[str]) -> dict[str, dict[int, Row]]:
    """Rows by method and optimiser step, as far as these methods are on the curve. Fig. 6."""
    rows: dict[str, dict[int, Row]] = {}
    for name in (name for name in CURVE_METHODS if name in names):
        method = METHODS[name]
        by_step = {study.steps(method, share): study.scores(method, share) for share in CURVE_SHARES}
        rows[name] = {step: summarise(study, {name: scores})[name] for step, scores in by_step.items()}
    return rows
