"""Running commands in this process, on a tiny base and noise for pictures."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import hypernet.cli
import serving.cli

PALP_HYPER, PALP_SERVE = hypernet.cli.app, serving.cli.app


def invoke(app: typer.Typer, *arguments: object) -> Result:
    """Run a command; a traceback is a failure."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError("".join(traceback.format_exception(done.exception)))
    return done


def succeeds(app: typer.Typer, *arguments: object) -> str:
    """What a command that goes well prints."""
    done = invoke(app, *arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def refuses(app: typer.Typer, *arguments: object) -> str:
    """The one sentence of a command that is refused; it prints nothing else."""
    done = invoke(app, *arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.exit_code, done.stdout, len(errors)) == (2, "", 1), done.stderr
    return errors[0]


def write_pictures(folder: Path, count: int = 2, seed: int = 0) -> Path:
    """So many pictures of 16 x 16 noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        values = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


def files_in(folder: Path) -> set[str]:
    """Names of all files under a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
