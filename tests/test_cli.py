"""The command lines: quick help, one sentence an error, the right exit code."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import hypernet.cli
import palp
import serving.cli
from palp.cli.progress import steps_bar
from palp.cli.shell import create_app
from palp.errors import InputError, NonFiniteLossError

HEAVY = ("torch", "diffusers", "transformers", "peft", "scipy", "onnxruntime")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["palp.cli", "hypernet.cli", "serving.cli"])
def test_importing_a_command_line_imports_nothing_heavy(module: str) -> None:
    done = python(f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(("app", "name"), [(hypernet.cli.app, "palp-hyper"), (serving.cli.app, "palp-serve")])
def test_version_and_help(app: typer.Typer, name: str) -> None:
    version = CliRunner().invoke(app, ["--version"])
    assert (version.exit_code, version.stdout) == (0, f"{name} {palp.__version__}\n")
    pages = [CliRunner().invoke(app, arguments) for arguments in (["--help"], ["-h"], [])]
    assert [page.exit_code for page in pages] == [0, 0, 2]
    assert len({page.stdout.strip() for page in pages}) == 1
    assert "Show the version and exit." in pages[0].stdout


@pytest.mark.parametrize("app", [hypernet.cli.app, serving.cli.app])
def test_no_help_has_what_rich_would_take_for_markup_and_hide(app: typer.Typer) -> None:
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands.extend(getattr(command, "commands", {}).values())
        for option in command.params:
            assert "[default" not in (getattr(option, "help", None) or ""), (command.name, option.name)
    assert len(commands) > 5


def app_that_raises(error: BaseException) -> typer.Typer:
    app = create_app("x", "A command line for this test.")

    @app.command()
    def fail() -> None:
        raise error

    return app


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LONG = OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("got 0 pictures, expected 1 or more"), 2, "error: got 0 pictures, expected 1 or more\n"),
        (FULL, 2, "error: no space is left on the disk: free some space, or choose another folder\n"),
        (LONG, 2, f"error: the path {'x' * 100}… cannot be used (File name too long): give another one\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_errors_of_the_user_are_a_sentence_and_a_code(error: BaseException, code: int, message: str) -> None:
    done = CliRunner().invoke(app_that_raises(error), ["fail"])
    assert (done.exit_code, done.stderr, done.stdout) == (code, message, "")


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    error = ZeroDivisionError("a defect")
    assert CliRunner().invoke(app_that_raises(error), ["fail"]).exception is error


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import os\n"
        "from palp.cli.shell import create_app\n"
        "app = create_app('x', 'help')\n"
        "@app.command()\n"
        "def write():\n"
        "    print('a line')\n"
        "read, write_end = os.pipe(); os.dup2(write_end, 1); os.close(write_end); os.close(read)\n"
        "app(['write'])\n"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_non_finite_loss_names_step_and_slot() -> None:
    error = NonFiniteLossError(step=12, slot=3)
    assert (error.step, error.slot) == (12, 3)
    assert "slot 3 was not finite in step 12" in str(error)


def test_a_warning_stands_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with steps_bar("drawing", 2) as advance:
        advance()
        logging.getLogger("palp.x").warning("prompt cut")
        advance()
    lines = [line.strip() for line in capsys.readouterr().err.replace("\r", "\n").split("\n")]
    assert "prompt cut" in lines
