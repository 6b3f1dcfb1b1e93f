"""The engine over HTTP: OpenAI's and A1111's ways to ask, subjects, metrics, and a web page. It knows no tensors.

`create_app(engine, HttpSettings())` is an ASGI application; `serve` runs it, and drains on SIGTERM.
"""

from serving.http.app import create_app
from serving.http.server import serve
from serving.http.settings import HttpSettings

__all__ = ["HttpSettings", "create_app", "serve"]
