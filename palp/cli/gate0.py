"""`palp-hyper gate0`: whether a prompt's adapter serves subjects it never met, on the embedded base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import Steps

Subjects = Annotated[int, typer.Option(min=1, help="Held-out subjects, at most 12.")]
Prompts = Annotated[int, typer.Option(min=2, help="Prompts, at most 24.")]
Seeds = Annotated[int, typer.Option(min=2, help="Pictures of each subject and prompt.")]
ChoicesFile = Annotated[Path | None, typer.Option("--choices", help="Results of evaluate --sweep to use.")]
Docs = Annotated[Path, typer.Option("--out", help="Folder that results/ and images/ are written in.")]
Work = Annotated[Path, typer.Option(help="Folder of adapters and pictures; the same command again goes on from them.")]


def gate0(
    subjects: Subjects = 8,
    prompts: Prompts = 24,
    seeds: Seeds = 4,
    steps: Steps = None,
    choices: ChoicesFile = None,
    out: Docs = Path("docs"),
    work: Work = Path("runs/evaluate"),
) -> None:
    """Learn each prompt on a few subjects, draw others with it, and compare with every control.

    Some 150 adapters and 14,000 pictures: more than an hour on two CPU cores, minutes on a GPU. Adapters and pictures
    are shared with `palp-hyper evaluate`.
    """
    from palp.base.icons.judges import load_judges
    from palp.cli.base import open_base
    from palp.cli.progress import training_bar
    from palp.evaluate.gate import GATE_METHODS, write_gate
    from palp.evaluate.protocol import gate_protocol
    from palp.evaluate.report import Files
    from palp.evaluate.results import table
    from palp.evaluate.study import Study
    from palp.evaluate.sweep import read_choices

    chosen = {} if choices is None else read_choices(choices)
    protocol = gate_protocol(subjects, prompts, seeds)
    study = Study(open_base("icons"), load_judges(), protocol, work, training_bar, {"steps": steps}, chosen)
    typer.echo(table(write_gate(study, GATE_METHODS, Files(out))))
    typer.echo(f"written to {out}")
