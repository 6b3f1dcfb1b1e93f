"""Choosing what the paper leaves open, on subjects and prompts that no report shows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from palp.errors import InputError
from palp.evaluate.methods import METHODS, Choices
from palp.evaluate.results import Row
from palp.evaluate.study import Study
from palp.evaluate.summary import summarise

__all__ = ["GRID", "choose", "read_choices", "row_name", "sweep"]

GRID: Mapping[str, tuple[Mapping[str, float], ...]] = {  # by method; for palp and its rivals λ · α is 0.1 to 1.5
    "palp": (
        {"alpha": 15.0, "beta": 7.5, "guidance_weight": 0.01},
        {"alpha": 15.0, "beta": 7.5, "guidance_weight": 0.03},
        {"alpha": 15.0, "beta": 7.5, "guidance_weight": 0.1},
        {"alpha": 7.5, "beta": 1.0, "guidance_weight": 0.03},
        {"alpha": 4.0, "beta": 1.0, "guidance_weight": 0.1},
    ),
    "sds": tuple({"alpha": 7.5, "guidance_weight": weight} for weight in (0.01, 0.03, 0.1)),
    "nfsd": tuple({"alpha": 7.5, "guidance_weight": weight} for weight in (0.01, 0.03, 0.1)),
    "residual_palp": tuple({"alpha": 15.0, "beta": 7.5, "guidance_weight": weight} for weight in (0.1, 0.3)),
    "residual_composed": tuple({"gamma": gamma} for gamma in (0.5, 0.75, 1.0, 1.5)),
    "residual_regional": tuple({"gamma": gamma} for gamma in (1.0, 1.5, 2.0)),
    "region_composition": tuple({"gamma": gamma} for gamma in (1.0, 1.5)),
    "score_composition": tuple({"gamma": gamma} for gamma in (0.25, 0.5, 0.75, 1.0)),
}
FIDELITY_KEPT = 0.97  # of the control's subject_on_photo, at least


def sweep(study: Study, methods: Collection[str]) -> tuple[dict[str, Row], dict[str, Mapping[str, float]]]:
    """Rows of every setting in the grid and of the control, λ = 0; and the setting chosen for each of the methods.

    Raises:
        InputError: none of the methods has settings to choose from.
    """
    if not GRID.keys() & methods:
        raise InputError(f"none of {', '.join(methods)} has settings to sweep: name some of {', '.join(GRID)}")
    needs = [
        need
        for name in GRID
        if name in methods
        for setting in GRID[name]
        for need in study.with_choices({name: setting}).needs([METHODS[name]])
    ]
    study.shelf.fill([*study.needs([METHODS["unguided"]]), *needs])  # all at once: settings of guidance share a bank
    control = summarise(study, {"unguided": study.scores(METHODS["unguided"])})
    rows, chosen = dict(control), {}
    for name, candidates in ((name, GRID[name]) for name in GRID if name in methods):
        found = [_row(study, name, setting) for setting in candidates]
        rows |= {row_name(name, setting): row for setting, row in zip(candidates, found, strict=True)}
        chosen[name] = candidates[choose(found, control["unguided"])]
    return rows, chosen


def choose(candidates: list[Row], control: Row) -> int:
    """The candidate with the largest alignment × subject_on_prompt, of those that keep the subject.

    A subject is kept where subject_on_photo is at least 97 % of the control's; if no candidate keeps it, the one
    that keeps most is chosen.
    """
    kept = [row["subject_on_photo"].value / control["subject_on_photo"].value for row in candidates]
    worth = [row["alignment"].value * row["subject_on_prompt"].value for row in candidates]
    able = [index for index, share in enumerate(kept) if share >= FIDELITY_KEPT]
    if not able:
        return kept.index(max(kept))
    return max(able, key=lambda index: worth[index])


def read_choices(path: Path) -> Choices:
    """What a sweep's results file has chosen.

    Raises:
        InputError: it is missing, or no such file.
    """
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))["chosen"]
        return {str(name): dict(setting) for name, setting in chosen.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} has no choices of a sweep: make it with palp-hyper evaluate --sweep") from error


def row_name(method: str, setting: Mapping[str, float]) -> str:
    """What the results call a method with a setting of the grid."""
    return " ".join([method, *(f"{key}={value:g}" for key, value in setting.items())])


def _row(study: Study, name: str, setting: Mapping[str, Any]) -> Row:
    candidate = study.with_choices({name: setting})
    return summarise(candidate, {name: candidate.scores(METHODS[name])})[name]
