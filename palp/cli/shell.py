"""What every command line of the project shares: errors in one sentence, exit codes, `--version`.

Exit codes: 0 done · 1 a defect of ours, with its traceback · 2 something the user can mend, in one sentence
on standard error · 130 Ctrl-C · 141 the reader of our output went away.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

import palp
from palp.atomic import disk_is_full
from palp.errors import PalpError

__all__ = ["create_app"]

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE
UNUSABLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS}
SHOWN = 100  # characters of a path that cannot be used


def create_app(name: str, help_text: str) -> typer.Typer:
    """An empty command line; commands are added with `app.command("verb")(function)`."""
    app = typer.Typer(
        name=name,
        help=help_text,
        cls=_Group,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def print_version(wanted: bool) -> bool:
        if wanted:
            typer.echo(f"{name} {palp.__version__}")
            raise typer.Exit
        return wanted

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", callback=print_version, is_eager=True, help="Show the version and exit."
        ),
    ) -> None:
        """The options before the command."""

    return app


class _Group(TyperGroup):
    """Commands whose errors end as one sentence; here, so that CliRunner in tests sees what users see."""

    def invoke(self, ctx: Any) -> Any:  # typer keeps the type of its context private
        with run():
            return super().invoke(ctx)


@contextmanager
def run() -> Iterator[None]:
    """Turn what a user can cause into a sentence and an exit code; let our own defects through."""
    try:
        yield
        sys.stdout.flush()  # a reader that went away shows here, and not while Python shuts down
    except PalpError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _discard_output()
        raise typer.Exit(BROKEN_PIPE) from None
    except Exception as error:
        if disk_is_full(error):
            _stop("no space is left on the disk: free some space, or choose another folder")
        if not (isinstance(error, OSError) and error.errno in UNUSABLE and error.filename):
            raise
        _stop(f"the path {_short(error.filename)} cannot be used ({error.strerror}): give another one")


def _short(path: str | bytes) -> str:
    name = os.fsdecode(path)
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def _discard_output() -> None:
    """Send what is still buffered nowhere, or Python complains of the closed pipe when it shuts down."""
    with suppress(OSError):  # a stream in memory has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(sentence: str) -> None:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(USER_ERROR)
