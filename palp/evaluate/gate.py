"""Gate 0: does a prompt's adapter, learned on some subjects, serve subjects that it never met?

Nothing that predicts such adapters can be better than they are, so this is measured before anything is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from palp.evaluate.intervals import estimate
from palp.evaluate.methods import METHODS, Method, Need, Plan, other, residual, subject_need
from palp.evaluate.metrics import PROMPT_METRICS, Scores
from palp.evaluate.report import SCALING, Files, settings, write_plane
from palp.evaluate.results import Row, rows_as_json, write_results
from palp.evaluate.scaling_line import above_line
from palp.evaluate.study import Study
from palp.evaluate.summary import gains, summarise
from palp.guidance import RESIDUAL

__all__ = ["CONTROLS", "GATE_METHODS", "failing", "paired", "share_of_pairs", "write_gate"]

CONTROLS = ("base", "subject")  # no gate without them


def _independent(name: str) -> Need:
    """A subject's adapter as somebody else would train it: of another rank and seed."""
    return replace(subject_need(name), changes=(("rank", 8),), seed=1)


GATE_METHODS: Mapping[str, Method] = {
    **{
        name: METHODS[name]
        for name in (
            "base", "subject", "subject_early", "subject_0.8", "subject_0.6",
            "opened_whole", "opened", "opened_transferred", "unguided",
            "transferred", "transferred_other", "transferred_mean", "score_composition", "region_composition",
        )
    },
    "transferred_composed": Method("of other subjects, composed", residual("composed", transferred=True)),
    "transferred_palp": Method("of other subjects, PALP's loss", residual("palp", transferred=True)),
    "transferred_kv": Method(
        "of other subjects, text keys and values", residual(RESIDUAL, transferred=True, sites="cross-kv")
    ),
    "transferred_whole": Method(
        "of other subjects, over whole ones", residual(RESIDUAL, transferred=True, subject_scale=1.0)
    ),
    "transferred_pictures": Method(
        "of other subjects, on the base's pictures", residual(RESIDUAL, transferred=True, pictures="prompt")
    ),
    "transferred_pictures_other": Method(
        "…, another prompt's", residual(RESIDUAL, transferred=True, pictures="prompt", targets=other)
    ),
    "transferred_one": Method("of one other subject", residual(RESIDUAL, transferred=True, teachers=1)),
    "subject_alone": Method(
        "subject that was learned alone",
        lambda cell: Plan(((replace(subject_need(cell.subject), pictures="alone"), 1.0),)),
    ),
    "independent": Method(
        "subject of another rank and seed", lambda cell: Plan(((_independent(cell.subject), 1.0),))
    ),
    "independent_transferred": Method(
        "… with the prompt's adapter", residual(RESIDUAL, transferred=True, subject=_independent)
    ),
}  # fmt: skip


def write_gate(study: Study, methods: Mapping[str, Method], files: Files) -> dict[str, Row]:
    """Train, draw, score, and write gate0-icons.json and its plane; needs "base" and the scaled subject among them."""
    study.train(methods.values())
    scores = {name: study.scores(method) for name, method in methods.items()}
    rows = summarise(study, scores)
    hard = failing(scores, study)
    line = above_line(scores, SCALING, study.clusters("alignment"), ("alignment", "subject_on_prompt"))
    more = {
        "gains_over_subject": rows_as_json(gains(study, scores, "subject")),
        "above_the_scaling_line": {name: value.as_json() for name, value in line.items()},
        "where_the_subject_fails": rows_as_json(_subset(study, scores, hard)),
        "beside_a_second_thing": rows_as_json(_subset(study, scores, paired(study))),
        "without_one": rows_as_json(_subset(study, scores, ~paired(study))),
        "share_of_pairs_where_it_fails": share_of_pairs(hard, len(study.protocol.seeds)),
    }
    write_results(files.results("gate0-icons"), rows, "palp-hyper gate0", settings(study), more)
    write_plane(rows, methods, files.image("gate0-icons-plane"))
    return rows


def failing(scores: Mapping[str, Scores], study: Study) -> NDArray[np.bool_]:
    """Which pictures are of a (subject, prompt) that the subject's adapter loses to the base's class word.

    Pairs are chosen by the first half of the seeds, and of them only pictures of the other half are marked: chosen
    and measured on the same pictures, anything would seem to gain.
    """
    seeds = len(study.protocol.seeds)
    half = max(1, seeds // 2)
    lost = (scores["base"]["alignment"] - scores["subject"]["alignment"]).reshape(-1, seeds)[:, :half].mean(axis=1) > 0
    marked = np.zeros((len(lost), seeds), dtype=bool)
    marked[lost, half:] = True
    return marked.reshape(-1)


def paired(study: Study) -> NDArray[np.bool_]:
    """Which pictures are of a prompt that asks for a second thing."""
    protocol = study.protocol
    of_one = np.repeat([target.companion is not None for target in protocol.targets], len(protocol.seeds))
    return np.tile(of_one, len(protocol.subjects))


def share_of_pairs(marked: NDArray[np.bool_], seeds: int) -> float:
    """The share of (subject, prompt) with a marked picture, of so many pictures a pair."""
    return float(marked.reshape(-1, seeds).any(axis=1).mean())


def _subset(study: Study, scores: Mapping[str, Scores], kept: NDArray[np.bool_]) -> dict[str, Row]:
    clusters = [name for name, keep in zip(study.clusters("alignment"), kept, strict=True) if keep]
    if not clusters:
        return {}
    return {
        name: {metric: estimate(values[metric][kept], clusters) for metric in PROMPT_METRICS}
        for name, values in scores.items()
    }
