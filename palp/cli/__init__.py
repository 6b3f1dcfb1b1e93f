"""The command line of palp-hyper: thin shells around the stages, one module a command.

To add a command, write its function in `palp/cli/<command>.py` and register it here:

    # palp/cli/train.py
    def train(subject: Annotated[Path, typer.Argument(help="A folder of pictures.")], …) -> None:
        '''Learn a subject for one prompt.'''  # the line that --help shows
        from palp.base import load_base  # torch and diffusers are imported inside, so that --help is quick

    # palp/cli/__init__.py
    from palp.cli.train import train
    app.command("train")(train)

A command raises `PalpError`s and prints results; `palp.cli.shell` makes the sentences and exit codes.
"""

from palp.cli.build_corpus import build_corpus
from palp.cli.corpus import corpus
from palp.cli.evaluate import evaluate
from palp.cli.evaluate_base import evaluate_base
from palp.cli.gate0 import gate0
from palp.cli.inspect import inspect
from palp.cli.personalize import personalize
from palp.cli.pretrain_base import pretrain_base
from palp.cli.shell import create_app
from palp.cli.train_subject import train_subject

__all__ = ["app"]

app = create_app(
    "palp-hyper",
    "Personalise a text-to-image model so that it draws your subject and still follows your prompt.",
)
app.command("train-subject")(train_subject)
app.command("personalize")(personalize)
app.command("inspect")(inspect)
app.command("pretrain-base")(pretrain_base)
app.command("evaluate-base")(evaluate_base)
app.command("evaluate")(evaluate)
app.command("gate0")(gate0)
app.command("build-corpus")(build_corpus)
app.add_typer(corpus)
