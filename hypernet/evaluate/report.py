"""What an evaluation of a hypernetwork writes: `hypernet-NAME.json` and the plane of alignment and likeness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypernet.evaluate.rows import ALONE, ROWS, SCALING, Cast, alone, stacked
from hypernet.evaluate.study import HyperStudy, RowScores
from hypernet.evaluate.summary import failing, figures, means, predicted_over
from hypernet.evaluate.timing import timings
from hypernet.evaluate.weights import paraphrase_measures, weight_measures
from hypernet.factors import Factors
from palp.corpus import CorpusPrompt
from palp.evaluate.plots import plane
from palp.evaluate.results import Row, rows_as_json, write_results
from palp.evaluate.scaling_line import above_line
from palp.sheets import save_png

__all__ = ["write_report"]

COMPARED = 256  # training adapters that the weight side looks at, at most


def write_report(
    study: HyperStudy, path: Path, image: Path, made_by: str, settings: dict[str, Any], spent: float = 0.0
) -> dict[str, Row]:
    """Draw, score and write; returns the rows over all held-out prompts.

    Args:
        spent: seconds that corpus and training took.

    Raises:
        InputError: a control is missing.
    """
    wanted = {"refined": study.cast.refines, ALONE: alone(study.cast) == ALONE}
    names = [name for name in ROWS if wanted.get(name, True)]
    scores: dict[str, RowScores] = {name: study.scores(name) for name in names}
    clusters = study.per_picture([prompt.cluster for prompt in study.prompts])
    everything = np.ones(len(clusters), dtype=bool)
    rows = means(scores, clusters, everything)
    more = {
        **_overall(study, scores, clusters, spent),
        "predicted_over": rows_as_json(predicted_over(scores, clusters)),
        "weights": rows_as_json({"weights": _weights(study.cast, study.prompts)})["weights"],
        **_parts(study, scores, clusters),
    }
    if "refined" in scores:
        more[f"refine_{settings['refine']}_vs_palp"] = more["G_refined"]
    write_results(path, rows, made_by, settings, more)
    points = {ROWS[name].label: (row["alignment"], row["subject"]) for name, row in rows.items()}
    line = [ROWS[name].label for name in SCALING]
    save_png(plane(points, line, ("alignment with the prompt", "likeness to the subject")), image)
    return rows


def _overall(
    study: HyperStudy, scores: Mapping[str, RowScores], clusters: Sequence[str], spent: float
) -> dict[str, Any]:
    """G and S by both judges, over the subject as strong as beside a prompt's adapter and over the whole one; times."""
    everything, own = np.ones(len(clusters), dtype=bool), alone(study.cast)

    def by(metric: str, held_against: str) -> Row:
        return figures(scores, clusters, everything, metric, held_against)

    found = {**by("alignment", own), **timings(study.cast.predictor, study.cast.corpus, study.prompts[0], spent)}
    whole = {"alignment": by("alignment", "subject"), "text": by("text", "subject")}
    return {
        **{name: value.as_json() for name, value in found.items()},
        "second_judge": rows_as_json({"text": by("text", own)})["text"],
        "alone": own,
        "over_the_whole_subject": rows_as_json(whole),
        "above_the_scaling_line": _above_line(scores, clusters),
    }


def _parts(study: HyperStudy, scores: Mapping[str, RowScores], clusters: Sequence[str]) -> dict[str, Any]:
    """The table and its figures again: by what is new, by number of elements, and where the subject alone fails."""
    splits = np.array(study.per_picture([prompt.split for prompt in study.prompts]))
    lengths = np.array(study.per_picture([len(prompt.elements) for prompt in study.prompts]))
    own = alone(study.cast)
    hard = failing(scores[own], study.seeds)
    by_novelty = {split: splits == split for split in dict.fromkeys(splits.tolist())}
    by_elements = {str(length): lengths == length for length in sorted(set(lengths.tolist()))}
    fails = {"where_the_subject_fails": hard} if hard.any() else {}
    marked = by_novelty | {f"elements_{length}": kept for length, kept in by_elements.items()} | fails

    def tables(parts: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
        return {name: rows_as_json(means(scores, clusters, kept)) for name, kept in parts.items()}

    def by_part(metric: str) -> dict[str, Any]:
        return rows_as_json({name: figures(scores, clusters, kept, metric, own) for name, kept in marked.items()})

    return {
        "by_novelty": tables(by_novelty),
        "by_elements": tables(by_elements),
        **tables(fails),
        "figures_by_part": by_part("alignment"),
        "second_judge_by_part": by_part("text"),
    }


def _above_line(scores: Mapping[str, RowScores], clusters: Sequence[str]) -> dict[str, Any]:
    """By each judge, how far a row's likeness lies above what scaling the subject down keeps at the same alignment."""
    return {
        metric: {
            name: value.as_json() for name, value in above_line(scores, SCALING, clusters, (metric, "subject")).items()
        }
        for metric in ("alignment", "text")
    }


def _weights(cast: Cast, prompts: Sequence[CorpusPrompt]) -> Row:
    word = next(subject.class_word for subject in cast.corpus.subjects if subject.held_out)
    predicted, oracle = stacked(cast, prompts, word)
    chosen = cast.train[:: max(1, len(cast.train) // COMPARED)][:COMPARED]
    training = Factors.stack([cast.oracle(prompt.key) for prompt in chosen])
    found = weight_measures(predicted, oracle, training, [prompt.cluster for prompt in prompts])
    pairs = cast.paraphrases()
    if len(pairs) > 1:
        said, known = (stacked(cast, side, word)[0] for side in zip(*pairs, strict=True))
        found |= paraphrase_measures(said, known, training, [prompt.cluster for _, prompt in pairs])
    return found
