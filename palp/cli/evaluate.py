"""`palp-hyper evaluate`: the paper's claims, measured on the embedded base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import Batch, Steps, given

Subjects = Annotated[int | None, typer.Option(min=1, help="Held-out subjects: 8, of 12; to sweep, 3 others, of 4.")]
Prompts = Annotated[int | None, typer.Option(min=2, help="With four elements or more: 10; to sweep, 3 others, of 4.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Pictures of each subject and prompt: 4; to sweep, 2.")]
Methods = Annotated[str | None, typer.Option(help="Some of the methods, such as subject,unguided,palp; default all.")]
Curve = Annotated[bool, typer.Option("--curve", help="Also measure on the way of the training; best from the start.")]
Sweep = Annotated[bool, typer.Option("--sweep", help="Instead choose settings, on other subjects and prompts.")]
ChoicesFile = Annotated[Path | None, typer.Option("--choices", help="Results of --sweep whose choices to use.")]
Docs = Annotated[Path, typer.Option("--out", help="Folder that results/ and images/ are written in.")]
Work = Annotated[Path, typer.Option(help="Folder of adapters and pictures; the same command again goes on from them.")]
Source = Annotated[str, typer.Option("--base", help="icons, or a folder of another base of the same picture world.")]


def evaluate(
    subjects: Subjects = None,
    prompts: Prompts = None,
    seeds: Seeds = None,
    methods: Methods = None,
    steps: Steps = None,
    batch: Batch = None,
    curve: Curve = False,
    sweep: Sweep = False,
    choices: ChoicesFile = None,
    out: Docs = Path("docs"),
    work: Work = Path("runs/evaluate"),
    source: Source = "icons",
) -> None:
    """Train and draw with every method on subjects never seen, and judge alignment and identity.

    Everything is about 500 adapters: half a day on two CPU cores, minutes on a GPU; --sweep takes three hours. In a
    quarter of an hour: --subjects 4 --prompts 2 --methods subject,subject_0.6,unguided,palp,residual_regional
    """
    from palp.base.icons.judges import load_judges
    from palp.cli.base import open_base
    from palp.cli.progress import training_bar
    from palp.evaluate.methods import METHODS, choose_methods
    from palp.evaluate.protocol import report_protocol, tuning_protocol
    from palp.evaluate.report import Files, run_sweep, write_evaluation
    from palp.evaluate.results import table
    from palp.evaluate.study import Study
    from palp.evaluate.sweep import read_choices

    chosen_methods = choose_methods(methods, METHODS)
    chosen = {} if choices is None else read_choices(choices)
    counts = {"subjects": subjects, "prompts": prompts, "seeds": seeds}
    asked = {name: count for name, count in counts.items() if count is not None}
    protocol = tuning_protocol(**asked) if sweep else report_protocol(**asked)
    sizes = given(steps=steps, batch=batch)
    base = open_base(source)
    study = Study(base, load_judges(base.device), protocol, work, training_bar, sizes, chosen)
    files = Files(out)
    rows = run_sweep(study, chosen_methods, files) if sweep else write_evaluation(study, chosen_methods, files, curve)
    typer.echo(table(rows))
    typer.echo(f"written to {out}")
