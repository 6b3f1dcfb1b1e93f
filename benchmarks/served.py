"""What is served, with and without the prediction, on subjects and prompts of gate 0: served-BASE.json.

`python -m benchmarks.served` draws each subject of gate 0's report with each of its prompts as the paper does it, and
as `palp-serve` does, and both again with what the shipped hypernetwork predicts. Subjects that gate 0 has learned in
the same `--work` are not learned again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import setting
from hypernet.predict import Predictor
from hypernet.shipped import shipped_predictor
from palp.adapter import Adapter
from palp.base import load_base
from palp.base.icons.grammar import Scene
from palp.base.icons.judges import load_judges
from palp.cli.progress import training_bar
from palp.compose import compose, strengths
from palp.draw import Picture, Sampling, draw
from palp.evaluate.intervals import estimate
from palp.evaluate.methods import subject_need
from palp.evaluate.metrics import PROMPT_METRICS, Examiner, Scores
from palp.evaluate.protocol import Protocol, class_word, gate_protocol, target_prompt
from palp.evaluate.report import Files
from palp.evaluate.results import Row, rows_as_json, table, write_results
from palp.evaluate.shelf import Shelf
from palp.recipes import guidance_scale, opening_of

ICONS = "icons"
OPENING = opening_of(ICONS)
Way = Callable[[Adapter, Scene, Adapter], tuple[Adapter, Adapter | None]]
"""From the subject's adapter, the target and the prediction to the adapter to draw with, and that of the opening."""


def plain(scale: float) -> Way:
    """As the paper draws, with the prediction at this scale."""
    return lambda subject, target, predicted: (_over(subject, predicted, scale, 1.0), None)


def served(scale: float) -> Way:
    """As `palp-serve` draws, with the prediction at this scale, of which an opening leaves `OPENING.rest`."""

    def way(subject: Adapter, target: Scene, predicted: Adapter) -> tuple[Adapter, Adapter | None]:
        prompt = target_prompt(target)
        first = subject if OPENING.opens(prompt) else None
        return _over(subject, predicted, scale, OPENING.strength(prompt)), first

    return way


WAYS: Mapping[str, Way] = {
    "subject": plain(0.0),
    "predicted": plain(1.0),
    "opened": served(0.0),
    "opened_predicted": served(1.0),
    "opened_predicted_whole": served(1 / OPENING.rest),
}


def _over(subject: Adapter, predicted: Adapter, scale: float, rest: float) -> Adapter:
    own, much = strengths(predicted, scale, rest)
    return compose([(subject, own), (predicted, much)] if scale else [(subject, own)])


def main(
    subjects: Annotated[int, typer.Option(help="Held-out subjects.")] = 6,
    prompts: Annotated[int, typer.Option(help="Prompts.")] = 12,
    seeds: Annotated[int, typer.Option(help="Pictures of each subject and prompt.")] = 2,
    work: Annotated[Path, typer.Option(help="Folder of adapters, as of gate0.")] = Path("runs/evaluate"),
    out: Annotated[Path, typer.Option(help="Folder that results/ is written in.")] = Path("docs"),
) -> None:
    """Draw, score, and write the rows with their gains over "subject" and over "opened", paired by picture."""
    base, protocol = load_base(ICONS), gate_protocol(subjects, prompts, seeds)
    predictor = shipped_predictor(base)
    assert predictor is not None, "no hypernetwork ships for the embedded base"
    shelf = Shelf(base, work / "adapters", {}, training_bar)
    shelf.fill([subject_need(name) for name in protocol.subjects])
    adapters = {name: shelf.adapter(subject_need(name)) for name in protocol.subjects}
    examiner = Examiner(load_judges(base.device), protocol)
    sampling = Sampling(guidance=guidance_scale(ICONS), opening=OPENING)
    scores: dict[str, Scores] = {}
    for name, way in WAYS.items():
        pictures = _pictures(protocol, adapters, predictor, way)
        drawn = draw(base, pictures, sampling).split(seeds)
        pairs = [(subject, target) for subject in protocol.subjects for target in protocol.targets]
        parts = [examiner.on_prompt(rows, *pair) for rows, pair in zip(drawn, pairs, strict=True)]
        scores[name] = {metric: np.concatenate([part[metric] for part in parts]) for metric in PROMPT_METRICS}
    clusters = [name for name in protocol.subjects for _ in range(prompts * seeds)]
    rows = _rows(scores, clusters)
    more = {f"gains_over_{over}": rows_as_json(_gains(scores, over, clusters)) for over in ("subject", "opened")}
    facts: dict[str, Any] = {"base": base.fingerprint, "subjects": list(protocol.subjects), "seeds": seeds}
    facts |= {"prompts": [target_prompt(target) for target in protocol.targets]}
    facts |= {"sampling": asdict(sampling)}
    write_results(Files(out).results(f"served-{ICONS}"), rows, "python -m benchmarks.served", facts, more)
    typer.echo(table(rows))


def _pictures(protocol: Protocol, adapters: Mapping[str, Adapter], predictor: Predictor, way: Way) -> list[Picture]:
    pictures = []
    for name, adapter in adapters.items():
        for target in protocol.targets:
            predicted = predictor.predict_adapter(target_prompt(target), class_word(name))
            with_both, first = way(adapter, target, predicted)
            pictures += [Picture(target_prompt(target), seed, with_both, first) for seed in protocol.seeds]
    return pictures


def _rows(scores: Mapping[str, Scores], clusters: list[str]) -> dict[str, Row]:
    return {
        name: {metric: estimate(values[metric], clusters) for metric in PROMPT_METRICS}
        for name, values in scores.items()
    }


def _gains(scores: Mapping[str, Scores], over: str, clusters: list[str]) -> dict[str, Row]:
    return {
        name: {metric: estimate(values[metric] - scores[over][metric], clusters) for metric in PROMPT_METRICS}
        for name, values in scores.items()
        if name != over
    }


if __name__ == "__main__":
    setting.run(main)
