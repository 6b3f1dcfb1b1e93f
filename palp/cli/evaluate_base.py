"""`palp-hyper evaluate-base`: how good the embedded base is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Where the results file goes; a sheet of pictures is put beside it.")]
Count = Annotated[int, typer.Option(min=1, help="Held-out captions to sample.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 2.5 by default.")]
Source = Annotated[str, typer.Option("--base", help="icons, or a folder of another base of the same picture world.")]


def evaluate_base(
    out: Out = Path("docs/results/base-icons.json"),
    count: Count = 512,
    guidance: Guidance = None,
    source: Source = "icons",
) -> None:
    """Judge the embedded base on captions of combinations it never saw (20 DDIM steps)."""
    from palp.base.icons import GUIDANCE
    from palp.base.icons.evaluate import evaluate_base, write_examples
    from palp.base.icons.judges import load_judges
    from palp.cli.base import open_base
    from palp.errors import OutputError
    from palp.evaluate.results import table, write_results

    if out.is_dir() or out.suffix.lower() == ".png":
        raise OutputError(f"the results cannot go to {out}: give a .json file, and the pictures are put beside it")
    base = open_base(source)
    scale = GUIDANCE if guidance is None else guidance
    report = evaluate_base(base, load_judges()[0], count, scale)
    rows = {"generated": report.generated, "rendered": report.rendered}
    settings = {
        "captions": count,
        "steps": 20,
        "scheduler": "ddim",
        "guidance": scale,
        "base": base.fingerprint,
    }
    write_results(out, rows, "palp-hyper evaluate-base", settings)
    write_examples(report, out.with_suffix(".png"))
    typer.echo(table(rows))
    typer.echo(f"written to {out} and {out.with_suffix('.png')}")
