"""`python -m hypernet`, for launchers that start modules, such as accelerate."""

from hypernet.cli import app

app()
