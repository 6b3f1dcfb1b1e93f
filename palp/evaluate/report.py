"""What an evaluation writes: results files, a contact sheet, the plane, the curve."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palp.evaluate.intervals import Estimate
from palp.evaluate.methods import METHODS, Method
from palp.evaluate.metrics import Scores
from palp.evaluate.plots import curves, plane
from palp.evaluate.protocol import learnable, target_prompt
from palp.evaluate.results import Row, rows_as_json, write_results
from palp.evaluate.study import RENDERED, Study
from palp.evaluate.summary import curve, gains, on_the_way, summarise
from palp.evaluate.sweep import sweep
from palp.sheets import contact_sheet, save_png, to_images

__all__ = ["RENDERED_LABEL", "SCALING", "Files", "run_sweep", "settings", "write_evaluation", "write_plane"]

CONTROLS = ("subject", "unguided")  # gains are over these
SCALING = ("subject", "subject_0.8", "subject_0.6", "base")  # the line that scaling the subject down draws
SHEET_COLUMNS = 9
RENDERED_LABEL = "the scene itself, rendered"
CURVE_PANELS = {"text": "text: picture and y_c", "subject_on_prompt": "subject, on the prompt"}


@dataclass(frozen=True)
class Files:
    """Where results and images go, under the documentation's folder."""

    docs: Path

    def results(self, name: str) -> Path:
        """`docs/results/NAME.json`."""
        return self.docs / "results" / f"{name}.json"

    def image(self, name: str) -> Path:
        """`docs/images/NAME.png`."""
        return self.docs / "images" / f"{name}.png"


def write_evaluation(
    study: Study, methods: Mapping[str, Method], files: Files, with_curve: bool = False
) -> dict[str, Row]:
    """Train, draw, score, and write palp-icons.json, its sheet and its plane; gains are paired by picture.

    Args:
        with_curve: also take adapters on the way, and write Fig. 6's curve: palp-icons-curve.json and .png.
    """
    study.train(methods.values(), on_the_way(methods) if with_curve else ())
    scores: dict[str, Scores] = {name: study.scores(method) for name, method in methods.items()}
    scores[RENDERED] = study.rendered_scores()
    rows = summarise(study, scores)
    more = {f"gains_over_{over}": rows_as_json(gains(study, scores, over)) for over in CONTROLS if over in scores}
    write_results(files.results("palp-icons"), rows, "palp-hyper evaluate", settings(study), more)
    _write_sheet(study, methods, files.image("palp-icons"))
    write_plane(rows, METHODS, files.image("palp-icons-plane"))
    if with_curve:
        _write_curve(study, methods, files)
    return rows


def _write_curve(study: Study, methods: Mapping[str, Method], files: Files) -> None:
    lines = curve(study, list(methods))
    rows = {f"{name}@{step}": row for name, line in lines.items() for step, row in line.items()}
    write_results(files.results("palp-icons-curve"), rows, "palp-hyper evaluate --curve", settings(study))
    panels: dict[str, dict[str, dict[int, Estimate]]] = {
        title: {METHODS[name].label: {step: row[metric] for step, row in line.items()} for name, line in lines.items()}
        for metric, title in CURVE_PANELS.items()
    }
    save_png(curves(panels, "optimiser steps"), files.image("palp-icons-curve"))


def run_sweep(study: Study, methods: Collection[str], files: Files) -> dict[str, Row]:
    """Choose settings, and write palp-icons-sweep.json."""
    rows, chosen = sweep(study, methods)
    more = {"chosen": chosen}
    write_results(files.results("palp-icons-sweep"), rows, "palp-hyper evaluate --sweep", settings(study), more)
    return rows


def settings(study: Study) -> dict[str, Any]:
    """What fixes the numbers, for the results file."""
    protocol, shelf, sampling = study.protocol, study.shelf, study.sampling
    return {
        "base": shelf.base.fingerprint,
        "subjects": list(protocol.subjects),
        "transfer_subjects": list(protocol.transfer),
        "prompts": [target_prompt(target) for target in protocol.targets],
        "seeds": len(protocol.seeds),
        "photo_seeds": len(protocol.photo_seeds),
        "sampling": asdict(sampling),
        "training": shelf.recipes(),
        "choices": {name: dict(setting) for name, setting in study.choices.items()},
        "intervals": "95 % bootstrap over subjects",
    }


def _write_sheet(study: Study, methods: Mapping[str, Method], path: Path) -> None:
    """Rows a picture learned from, methods, and the scene itself; columns prompts, of as many subjects as there is
    room for; the first seed."""
    subjects, targets = study.protocol.subjects, study.protocol.targets
    shown = subjects[: max(1, SHEET_COLUMNS // len(targets))]
    cells = [(subject, target) for subject in shown for target in targets]
    drawn = [
        [learnable(subject).pictures for subject, _ in cells],
        *([study.pictures(method, *cell) for cell in cells] for method in methods.values()),
        [study.rendered(*cell) for cell in cells],
    ]
    rows = [[to_images(pictures[:1])[0] for pictures in row] for row in drawn]
    labels = ["one of the pictures learned from", *(method.label for method in methods.values()), RENDERED_LABEL]
    columns = [f"{subject}: {target_prompt(target)}" for subject, target in cells]
    notes = {"subjects": ", ".join(shown), "base": study.shelf.base.fingerprint}
    save_png(contact_sheet(rows, labels, columns), path, notes)


def write_plane(rows: Mapping[str, Row], methods: Mapping[str, Method], path: Path) -> None:
    """Alignment × identity: a point a row, and the line that scaling the subject down draws."""

    def label(name: str) -> str:
        return methods[name].label if name in methods else name

    points = {label(name): (row["alignment"], row["subject_on_prompt"]) for name, row in rows.items()}
    line = [label(name) for name in SCALING if name in rows]
    save_png(plane(points, line, ("alignment: all elements of the prompt", "subject, on the prompt")), path)
