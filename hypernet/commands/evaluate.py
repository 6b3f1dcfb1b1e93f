"""`palp-hyper evaluate-hypernet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import BaseConfig, BaseName, Device, Dtype

Run = Annotated[Path, typer.Argument(help="Run folder of palp-hyper train, or its hypernet.safetensors.")]
CorpusFolder = Annotated[Path, typer.Argument(help="The corpus it was trained on.")]
Prompts = Annotated[int, typer.Option(min=2, help="Held-out prompts to draw, evenly over all kinds of novelty.")]
Subjects = Annotated[int | None, typer.Option(min=1, help="Held-out subjects to draw them on; default all.")]
Spent = Annotated[float, typer.Option(min=0, help="Seconds that corpus and training took, for break_even_prompts.")]
Seeds = Annotated[int, typer.Option(min=2, help="Pictures of each prompt and subject.")]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps of every picture.")]
Refine = Annotated[int, typer.Option(min=0, help="Steps to train predictions on for the row 'refined'; 0 for none.")]
MultiSteps = Annotated[int, typer.Option(min=1, help="Steps of the one adapter for all prompts.")]
Docs = Annotated[Path, typer.Option("--out", help="Folder that results/ and images/ are written in.")]
Work = Annotated[Path, typer.Option(help="Folder of scores and adapters; the same command again goes on from them.")]


def evaluate_hypernet(
    run: Run,
    corpus: CorpusFolder,
    prompts: Prompts = 24,
    subjects: Subjects = None,
    seeds: Seeds = 4,
    steps: Steps = 20,
    refine: Refine = 20,
    multi_steps: MultiSteps = 1000,
    spent: Spent = 0.0,
    out: Docs = Path("docs"),
    work: Work = Path("runs/evaluate-hypernet"),
    base: BaseName = "icons",
    base_config: BaseConfig = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Draw held-out prompts on held-out subjects with the prediction and with all its controls, and judge them."""
    import torch

    from hypernet.evaluate.judge import WorldJudge, check_words
    from hypernet.evaluate.report import write_report
    from hypernet.evaluate.setting import open_study
    from hypernet.file import load_hypernet
    from hypernet.learn import hypernet_file
    from palp.base.icons.judges import load_judges
    from palp.cli.base import open_base
    from palp.cli.progress import training_bar
    from palp.corpus import open_corpus
    from palp.evaluate.protocol import character
    from palp.evaluate.results import table

    path = hypernet_file(run)
    hypernet, origin = load_hypernet(path)
    model = open_base(base, device, dtype, base_config)
    data = open_corpus(corpus)
    for subject in data.subjects:
        if subject.held_out:
            character(subject.name)  # the judge draws what it should look like
    for prompt in data.prompts:
        check_words(prompt)
    sizes = {"prompts": prompts, "seeds": seeds, "refine": refine, "multi_steps": multi_steps, "steps": steps}
    judge = WorldJudge(load_judges(model.device))
    study = open_study(model, hypernet, data, judge, work, training_bar, **sizes, subjects=subjects)
    results, image = out / "results" / f"hypernet-{model.name}.json", out / "images" / f"hypernet-{model.name}.png"
    about = {
        "base": model.fingerprint,
        "device": model.device.type,
        "training": dict(origin.training),
        "recipe": dict(origin.recipe),
    }
    settings = {**sizes, "subjects": len(study.subjects), "spent_s": spent, "threads": torch.get_num_threads(), **about}
    rows = write_report(study, results, image, "palp-hyper evaluate-hypernet", settings, spent)
    typer.echo(table(rows))
    typer.echo(f"written to {results} and {image}")
