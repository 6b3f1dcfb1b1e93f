"""`palp-hyper corpus verify | stats | merge | sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palp.cli.options import Json, print_json

Folder = Annotated[Path, typer.Argument(help="Folder of a corpus.")]

corpus = typer.Typer(name="corpus", help="Look into corpora of prompt adapters, and put them together.")


@corpus.command()
def verify(folder: Folder) -> None:
    """Read everything, and say what is missing, doubled or damaged."""
    from palp.corpus.manifest import problems
    from palp.corpus.reader import finished
    from palp.errors import CorpusError

    found = list(problems(finished(folder)))
    for sentence in found[1:]:
        typer.echo(sentence, err=True)
    if found:
        raise CorpusError(found[0])
    typer.echo(f"{folder} is whole")


@corpus.command()
def stats(folder: Folder, as_json: Json = False) -> None:
    """Show counts, gains, norms, reasons of rejection, and how alike twins are."""
    from palp.corpus.reader import open_corpus
    from palp.corpus.stats import stats as figures

    values = figures(open_corpus(folder))
    if as_json:
        print_json(values)
    else:
        for name, value in values.items():
            typer.echo(f"{name}: {value}")


@corpus.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of all parts.")],
    out: Annotated[Path, typer.Option(help="Folder of the whole corpus.")],
) -> None:
    """Put parts that were built in folders of their own together."""
    from palp.corpus.merge import merge as merge_parts

    merge_parts(folders, out)
    typer.echo(f"corpus: {out}")


@corpus.command()
def sheet(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="PNG file.")],
    count: Annotated[int, typer.Option(min=1, help="Prompts to show.")] = 32,
) -> None:
    """Draw a contact sheet of the previews."""
    from palp.corpus.reader import open_corpus
    from palp.corpus.stats import sheet as draw_sheet
    from palp.sheets import save_png

    save_png(draw_sheet(open_corpus(folder), count), out)
    typer.echo(f"written to {out}")
