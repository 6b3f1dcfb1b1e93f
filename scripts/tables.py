"""Write the documents' tables of results from docs/results, each between its markers <!-- NAME --> and <!-- /NAME -->.

Use: python scripts/tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hypernet.evaluate.rows import ROWS
from palp.evaluate.gate import GATE_METHODS
from palp.evaluate.methods import METHODS
from palp.evaluate.report import RENDERED_LABEL
from palp.evaluate.study import RENDERED
from palp.evaluate.sweep import GRID, row_name

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
NONE = "–"
Rows: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]
FINE = ("text", "ideal_distance")

PICTURES = {
    "text": "target prompt",
    "alignment": "style, place, light",
    "subject_on_prompt": "subject, on the prompt",
    "subject_on_photo": "subject, on a photo",
    "ideal_distance": "distance to the ideal",
}
SYMBOLS = {"alpha": "α", "beta": "β", "guidance_weight": "λ", "gamma": "γ"}


@dataclass(frozen=True)
class Table:
    """Some rows and metrics of a results file, by name, with what the documents call them.

    Args:
        columns: title by metric of `rows`, or by "SECTION/METRIC" of another section, such as paired gains.
        rows: label by row; a row that the file does not have is left out.
        section: of the file, where the rows are.
        fine: metrics, of any section, whose differences are in the third digit.
    """

    columns: Mapping[str, str]
    rows: Mapping[str, str]
    section: str = "rows"
    fine: tuple[str, ...] = FINE


def _swept(name: str, setting: Mapping[str, float]) -> str:
    """PALP, α = 15, β = 7.5, λ = .01"""
    values = [f"{SYMBOLS[key]} = {f'{value:g}'.removeprefix('0')}" for key, value in setting.items()]
    return ", ".join([METHODS[name].label, *values])


COMPARISON = Table(
    {
        **PICTURES,
        "gains_over_subject/text": "target prompt, over the subject alone",
        "gains_over_unguided/text": "over λ = 0",
    },
    {**{name: method.label for name, method in METHODS.items()}, "palp": "**PALP**", RENDERED: RENDERED_LABEL},
)
GATE_LABELS = {name: method.label for name, method in GATE_METHODS.items()}
TABLES = {
    "base-icons": Table(
        {
            **{name: name for name in ("style", "place", "weather", "palette", "subject", "companion")},
            "vae_psnr_db": "autoencoder, dB",
        },
        {"generated": "generated", "rendered": "rendered"},
    ),
    "hypernet-icons": Table(
        {
            "alignment": "alignment",
            "text": "text (second judge)",
            "predicted_over/alignment": "predicted over it, alignment",
            "predicted_over/text": "text",
            "subject": "likeness to the subject",
        },
        {**{name: row.label for name, row in ROWS.items()}, "predicted": "**predicted**"},
        fine=(*FINE, "alignment"),
    ),
    "hypernet-icons-shares": Table(
        {"alignment": "by alignment", "text": "by text"},
        {
            "G_mean_adapter": ROWS["mean"].label,
            "G_nearest_neighbour": ROWS["neighbour"].label,
            "G_pca_ridge": ROWS["pca_ridge"].label,
            "G_multi_prompt": ROWS["multi_prompt"].label,
            "G_noise": ROWS["noise"].label,
            "G_random_string": f"{ROWS['random_string'].label} (served, it abstains)",
            "G_shuffled": ROWS["other"].label,
            "G": "**predicted**",
            "G_refined": ROWS["refined"].label,
            "S": "S: lost with another prompt's prediction",
        },
        fine=(),
    ),
    "hypernet-icons-parts": Table(
        {
            "G_denominator": "room: oracle over the subject alone",
            "G_numerator": "predicted over the subject alone",
            "S_numerator": "predicted over another prompt's",
        },
        {
            "paraphrase": "another wording",
            "combination": "a new pair of words",
            "word": "a new word",
            "longer": "longer than any",
            "elements_2": "two elements",
            "elements_3": "three",
            "elements_4": "four",
            "elements_5": "five",
            "where_the_subject_fails": "where the subject alone misses something",
        },
        "second_judge_by_part",
        ("G_denominator", "G_numerator", "S_numerator"),
    ),
    "hypernet-predictions-icons": Table(
        {
            "recipe_gain": "taken from the recipe's loss",
            "predicted_over/recipe_gain": "predicted over it",
            "recipe_gain_of_other": "another prompt's",
            "gain": "G in the denoiser's output",
            "specificity": "S",
        },
        {
            "mean": ROWS["mean"].label,
            "neighbour": ROWS["neighbour"].label,
            "predicted": "**predicted**",
            "oracle": ROWS["oracle"].label,
        },
        fine=("recipe_gain",),
    ),
    "hypernet-refining-icons": Table(
        {"0 steps": "at the start", **{f"{n} steps": f"after {n} steps" for n in (5, 10, 20, 40)}},
        {
            "from zero": "from zero",
            "from the prediction": "from the prediction, at an eighth of the rate",
            "from the prediction, at the recipe's rate": "from the prediction, at the recipe's rate",
        },
    ),
    "hypernet-losses-icons": Table(
        {
            "recipe_gain": "taken from the recipe's loss",
            "recipe_gain_of_other": "by another prompt's",
            "recipe_gain_of_corpus": "by the corpus' adapter",
            "gain": "G in the denoiser's output",
            "specificity": "S",
            "specificity_of_corpus": "S of the corpus",
        },
        {
            "corpus weights": "the corpus' weights alone",
            "corpus behaviour": "the corpus' behaviour alone",
            "corpus weights and behaviour": "weights, then behaviour",
            "recipe loss": "the recipe's loss with its margin, without a corpus",
            "together, not told apart": "all three, without the margin",
            "together": "all three",
        },
    ),
    "hypernet-corpus-icons": Table(
        {
            "gain": "G in the denoiser's output",
            "gain_of_neighbour": "G of the nearest neighbour",
            "gain_of_mean": "of the mean",
            "specificity": "S",
            "recipe_gain": "taken from the recipe's loss",
            "recipe_gain_of_neighbour": "by the neighbour",
            "recipe_gain_of_other": "by another prompt's",
        },
        {f"{count} prompts": f"{count} prompts" for count in (32, 64, 128, 256, 400)},
    ),
    "palp-icons": COMPARISON,
    "palp-icons-opened": COMPARISON,
    "palp-icons-rivals": COMPARISON,
    "gate0-icons": Table(
        {
            "alignment": "all elements",
            "gains_over_subject/alignment": "all elements, over the subject alone",
            **{name: PICTURES[name] for name in ("text", "subject_on_prompt", "subject_on_photo")},
        },
        GATE_LABELS,
        fine=(*FINE, "alignment"),
    ),
    "gate0-icons-company": Table(
        {
            "beside_a_second_thing/alignment": "beside a second thing: all elements",
            "beside_a_second_thing/text": "target prompt",
            "beside_a_second_thing/subject_on_prompt": "subject",
            "without_one/alignment": "without one: all elements",
            "without_one/text": "target prompt ",
            "without_one/subject_on_prompt": "subject ",
        },
        {
            "base": GATE_LABELS["base"],
            "subject_alone": "learned alone",
            "subject": "**learned beside things, too**",
            "subject_0.8": "… × 0.8",
            "subject_0.6": "… × 0.6",
            "opened_whole": "opened as a photo",
            "opened": "**opened, then at half its strength: as it is served**",
        },
        fine=(*FINE, "alignment"),
    ),
    "served-icons": Table(
        {
            "alignment": "all elements",
            "text": "target prompt",
            "subject_on_prompt": "subject, on the prompt",
            "gains_over_subject/alignment": "over the subject alone: elements",
            "gains_over_subject/text": "target prompt ",
            "gains_over_subject/subject_on_prompt": "subject",
            "gains_over_opened/text": "over the opened subject: target prompt",
            "gains_over_opened/subject_on_prompt": "subject ",
        },
        {
            "subject": "subject adapter",
            "predicted": "with the prediction",
            "opened": "opened",
            "opened_predicted": "**opened, with half of the prediction: as it is served**",
            "opened_predicted_whole": "opened, with the whole prediction",
        },
        fine=(*FINE, "alignment", "subject_on_prompt"),
    ),
    "gate0-icons-rivals": Table(PICTURES, GATE_LABELS),
    "palp-icons-sweep": Table(
        PICTURES,
        {
            "unguided": METHODS["unguided"].label,
            **{row_name(name, setting): _swept(name, setting) for name, grid in GRID.items() for setting in grid},
        },
    ),
}

FILES = {  # others' files
    **dict.fromkeys(("hypernet-icons-parts", "hypernet-icons-shares"), "hypernet-icons"),
    "gate0-icons-company": "gate0-icons",
}


def with_tables(text: str, results: Path = RESULTS) -> str:
    """The text with every table that it has markers for as `results` has it now.

    Raises:
        KeyError: markers of no table.
    """

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        content = json.loads((results / f"{FILES.get(name, name)}.json").read_text(encoding="utf-8"))
        content = _by_judge(content) if name == "hypernet-icons-shares" else content
        return f"<!-- {name} -->\n{markdown(TABLES[name], content)}\n<!-- /{name} -->"

    return re.sub(r"<!-- (\S+) -->\n.*?<!-- /\1 -->", replaced, text, flags=re.DOTALL)


def _by_judge(content: Mapping[str, Any]) -> dict[str, Rows]:
    """The figures of the two judges, a column each."""
    rows = TABLES["hypernet-icons-shares"].rows
    return {"rows": {row: {"alignment": content[row], "text": content["second_judge"][row]} for row in rows}}


def markdown(table: Table, results: Mapping[str, Rows]) -> str:
    """The table with a line a row: value [low, high]."""
    lines = ["| | " + " | ".join(table.columns.values()) + " |", "|---" * (len(table.columns) + 1) + "|"]
    for name, label in table.rows.items():
        if name in results[table.section]:
            cells = [_interval(results, table, name, column) for column in table.columns]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(results: Mapping[str, Rows], table: Table, name: str, column: str) -> str:
    section, _, metric = column.rpartition("/")
    row = results.get(section or table.section, {}).get(name, {})
    if metric not in row or row[metric]["value"] is None:
        return NONE
    value, low, high = (_short(row[metric][key], 3 if metric in table.fine else 2) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _short(value: float, digits: int) -> str:
    """So many digits after the point, one from ten on; .87 for 0.87."""
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
