"""The `palp-hyper` command: the commands of `palp.cli`, and those of the hypernetwork."""

from hypernet.commands.demo import demo
from hypernet.commands.evaluate import evaluate_hypernet
from hypernet.commands.export import export
from hypernet.commands.train import train
from palp.cli import app

__all__ = ["app"]

app.command("demo")(demo)
app.command("train")(train)
app.command("evaluate-hypernet")(evaluate_hypernet)
app.command("export")(export)
