"""The `palp-serve` command; commands are added as `palp.cli` describes."""

from palp.cli.shell import create_app
from serving.commands.bench import bench
from serving.commands.subjects import subjects
from serving.generate import generate
from serving.up import new_key, up

__all__ = ["app"]

app = create_app("palp-serve", "Serve pictures from many adapters on one frozen base.")
app.command("generate")(generate)
app.command("up")(up)
app.command("new-key")(new_key)
app.command("bench")(bench)
app.add_typer(subjects)
