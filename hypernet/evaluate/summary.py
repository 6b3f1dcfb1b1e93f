"""From one number a picture to the tables: means, G and S, by what is new about a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hypernet.evaluate.judge import METRICS
from hypernet.evaluate.rows import REQUIRED
from hypernet.evaluate.study import RowScores
from palp.errors import InputError
from palp.evaluate.intervals import Estimate, estimate, ratio
from palp.evaluate.results import Row

__all__ = ["check_rows", "failing", "figures", "means", "predicted_over"]

SCORE = "alignment"  # of which G and S are


def check_rows(rows: Mapping[str, object]) -> None:
    """Raise InputError unless the controls are there: no figure is shown without the mean and the neighbour."""
    if missing := [name for name in REQUIRED if name not in rows]:
        raise InputError(f"the table lacks the row {missing[0]}: measure {', '.join(REQUIRED)} together")


def means(scores: Mapping[str, RowScores], clusters: Sequence[str], kept: NDArray[np.bool_]) -> dict[str, Row]:
    """Mean of every metric of every row, over the pictures kept, with intervals by prompt cluster.

    Raises:
        InputError: a control is missing.
    """
    check_rows(scores)
    own = [cluster for cluster, keep in zip(clusters, kept, strict=True) if keep]
    return {
        name: {metric: estimate(values[metric][kept], own) for metric in METRICS} for name, values in scores.items()
    }


def predicted_over(scores: Mapping[str, RowScores], clusters: Sequence[str]) -> dict[str, Row]:
    """Predicted − row, picture by picture, of every metric and every other row: sharper than two intervals.

    Raises:
        InputError: a control is missing.
    """
    check_rows(scores)
    own = scores["predicted"]
    return {
        name: {metric: estimate(own[metric] - values[metric], clusters) for metric in METRICS}
        for name, values in scores.items()
        if name != "predicted"
    }


def failing(subject: RowScores, seeds: int) -> NDArray[np.bool_]:
    """Which pictures are of a (prompt, subject) where the subject's adapter alone misses something of the prompt.

    Pairs are chosen by the first half of their pictures, and of them only the other half is marked: chosen and
    measured on the same pictures, anything would seem to gain.
    """
    alignment = subject[SCORE].reshape(-1, seeds)
    missed = alignment[:, : seeds // 2].mean(axis=1) < 1
    marked = np.zeros(alignment.shape, dtype=bool)
    marked[missed, seeds // 2 :] = True
    return marked.reshape(-1)


def figures(
    scores: Mapping[str, RowScores],
    clusters: Sequence[str],
    kept: NDArray[np.bool_],
    metric: str = SCORE,
    alone: str = "subject",
) -> dict[str, Estimate]:
    """G of every row and S, with their parts.

    G = (row − alone) / (oracle − alone), S = (predicted − other) / (predicted − alone), each a ratio of sums
    over pictures, with intervals by prompt cluster. Numerators and denominators are there too: of a small
    denominator nothing follows. subject_fidelity_ratio: predicted / oracle, of the subject's likeness at the prompt.

    Args:
        alone: the row of the subject's adapter without a prompt's, as strong as it is beside one.

    Raises:
        InputError: a control is missing.
    """
    check_rows(scores)
    own = [cluster for cluster, keep in zip(clusters, kept, strict=True) if keep]

    def of(name: str, what: str = metric) -> NDArray[np.float64]:
        return scores[name][what][kept]

    room = of("oracle") - of(alone)
    found = {"G": ratio(of("predicted") - of(alone), room, own), "G_denominator": estimate(room, own)}
    found["G_numerator"] = estimate(of("predicted") - of(alone), own)
    for name in scores:
        if name not in (alone, "oracle", "predicted"):
            found[f"G_{NAMES.get(name, name)}"] = ratio(of(name) - of(alone), room, own)
    if "other" in scores:
        gain = of("predicted") - of("other")
        found["S"], found["S_numerator"] = ratio(gain, of("predicted") - of(alone), own), estimate(gain, own)
    found["subject_fidelity_ratio"] = ratio(of("predicted", "subject"), of("oracle", "subject"), own)
    found["photo_fidelity_ratio"] = ratio(of("predicted", "subject_on_photo"), of("oracle", "subject_on_photo"), own)
    found["diversity_ratio"] = ratio(of("predicted", "diversity"), of(alone, "diversity"), own)
    return found


NAMES = {"mean": "mean_adapter", "neighbour": "nearest_neighbour", "other": "shuffled"}
"""Rows that results files call otherwise."""
