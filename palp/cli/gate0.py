"""`palp-hyper gate0`: whether a prompt's adapter serves subjects it never met, on the embedded base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import Steps, given

Subjects = Annotated[int, typer.Option(min=1, help="Held-out subjects, at most 12.")]
Prompts = Annotated[int, typer.Option(min=2, help="Prompts, at most 24.")]
Seeds = Annotated[int, typer.Option(min=2, help="Pictures of each subject and prompt.")]
Methods = Annotated[str | None, typer.Option(help="Some rows, base and subject among them; default all.")]
ChoicesFile = Annotated[Path | None, typer.Option("--choices", help="Results of evaluate --sweep to use.")]
Docs = Annotated[Path, typer.Option("--out", help="Folder that results/ and images/ are written in.")]
Work = Annotated[Path, typer.Option(help="Folder of adapters and pictures; the same command again goes on from them.")]


def gate0(
    subjects: Subjects = 8,
    prompts: Prompts = 24,
    seeds: Seeds = 4,
    methods: Methods = None,
    steps: Steps = None,
    choices: ChoicesFile = None,
    out: Docs = Path("docs"),
    work: Work = Path("runs/evaluate"),
) -> None:
    """Learn each prompt on a few subjects, draw others with it, and compare with every control.

    Some 150 adapters and 14,000 pictures: more than an hour on two CPU cores, minutes on a GPU. Adapters and pictures
    are shared with `palp-hyper evaluate`. In a quarter of an hour: --subjects 4 --prompts 8 --seeds 2 --methods
    base,subject,subject_0.8,subject_0.6,transferred,transferred_whole
    """
    from palp.base.icons.judges import load_judges
    from palp.cli.base import open_base
    from palp.cli.progress import training_bar
    from palp.evaluate.gate import CONTROLS, GATE_METHODS, write_gate
    from palp.evaluate.methods import choose_methods
    from palp.evaluate.protocol import gate_protocol
    from palp.evaluate.report import Files
    from palp.evaluate.results import table
    from palp.evaluate.study import Study
    from palp.evaluate.sweep import read_choices

    rows = choose_methods(methods, GATE_METHODS, CONTROLS)
    chosen = {} if choices is None else read_choices(choices)
    protocol = gate_protocol(subjects, prompts, seeds)
    base = open_base("icons")
    study = Study(base, load_judges(base.device), protocol, work, training_bar, given(steps=steps), chosen)
    typer.echo(table(write_gate(study, rows, Files(out))))
    typer.echo(f"written to {out}")
