"""The engine over HTTP: OpenAI's and A1111's ways to ask, subjects, metrics, and a web page. It knows no tensors.

    app = create_app(engine, HttpSettings())     # any ASGI server runs it
    serve(engine, HttpSettings())                # … or this, which also drains on SIGTERM
"""

from serving.http.app import create_app
from serving.http.server import serve
from serving.http.settings import HttpSettings

__all__ = ["HttpSettings", "create_app", "serve"]
