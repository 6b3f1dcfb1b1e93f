"""The `palp-serve` command; commands are added as `palp.cli` describes."""

from palp.cli.shell import create_app
from serving.commands.bench import bench
from serving.commands.subjects import subjects
from serving.generate import generate

__all__ = ["app"]

app = create_app("palp-serve", "Serve pictures from many adapters on one frozen base.")
app.command("generate")(generate)
app.command("bench")(bench)
app.add_typer(subjects)
