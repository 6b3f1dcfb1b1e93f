"""A hypernetwork's predictions on all held-out prompts and subjects, beside those who predict without learning.

    python -m benchmarks.predictions runs/icons/hypernet runs/icons/corpus    # hypernet-predictions-NAME.json

No picture is drawn: G and S are of the change in the denoiser's output, and the recipe's own loss is measured, on the
same pictures, timesteps and noise for all. The mean, the neighbour and the corpus' own adapter are rows; another
prompt's is a column, since everyone has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import setting
from benchmarks.examination import Examination, gains, of_each, predicted_by, row
from hypernet.evaluate.rows import Cast
from hypernet.file import load_hypernet
from hypernet.learn import hypernet_file
from hypernet.predict import Predictor
from palp.base import load_base
from palp.corpus import open_corpus
from palp.evaluate.results import RESULTS, rows_as_json, table, write_results

Run = Annotated[Path, typer.Argument(help="A trained hypernetwork: its run folder or file.")]
Folder = Annotated[Path, typer.Argument(help="Its corpus, of palp-hyper build-corpus.")]


def main(run: Run, folder: Folder, source: setting.BaseOption = "icons", out: setting.Out = None) -> None:
    """Measure each."""
    base, corpus = load_base(source), open_corpus(folder)
    hypernet, origin = load_hypernet(hypernet_file(run))
    cast, mean = Cast(Predictor(base, hypernet.to(base.device)), corpus), hypernet.mean()
    exam = Examination(base, corpus)
    everyone = {
        "mean": of_each(base, lambda prompt, word: mean),
        "neighbour": of_each(base, cast.neighbour),
        "predicted": predicted_by(base, hypernet),
        "oracle": of_each(base, lambda prompt, word: corpus.adapter(prompt.key)),
    }
    found = {name: exam.changes(predict, mean) for name, predict in everyone.items()}
    rows = {name: row(one, exam.clusters) for name, one in found.items()}
    over = {name: gains(found["predicted"], exam.clusters, one) for name, one in found.items() if name != "predicted"}
    path = out or RESULTS / f"hypernet-predictions-{base.name}.json"
    about = {"base": base.fingerprint, "prompts": len(set(exam.clusters)), "training": dict(origin.training)}
    write_results(path, rows, "python -m benchmarks.predictions", about, {"predicted_over": rows_as_json(over)})
    print(table(rows))
    print(f"written to {path}")


if __name__ == "__main__":
    setting.run(main)
