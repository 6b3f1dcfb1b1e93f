"""Run the application until it is told to stop; then finish what was accepted."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from palp.errors import InputError
from serving.contract import Engine
from serving.http.app import create_app
from serving.http.connection import connection
from serving.http.logs import LOG, configure_logs
from serving.http.service import Service
from serving.http.settings import HttpSettings

__all__ = ["Server", "listen", "make_server", "serve"]

LAST_ANSWERS_S = 10  # for answers that are still being sent when the last picture is done


class Server(uvicorn.Server):
    """Told to stop, it goes on listening, refuses new work, and stops when the engine is done; told twice, at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
        else:
            self.drain()

    def drain(self) -> None:
        """Accept nothing more, and stop when all is done or the time is over."""
        self._service.draining = True
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        seconds = self._service.settings.drain_s
        done = self._service.engine.drain(seconds)
        LOG.info("drained", extra={"fields": {"all_done": done}})
        self.should_exit = True


def listen(settings: HttpSettings) -> socket.socket:
    """The socket to listen on.

    Raises:
        InputError: the address is not ours, or taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        raise InputError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error


def make_server(engine: Engine, settings: HttpSettings) -> Server:
    """A server that has yet to be run with a socket.

    Raises:
        InputError: the keys file cannot be used.
    """
    app = create_app(engine, settings)
    config = uvicorn.Config(
        app,
        http=connection(settings.head_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
    )
    return Server(config, app.state.service)


def serve(engine: Engine, settings: HttpSettings, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or Ctrl-C; the engine is closed in the end.

    Args:
        engine: who draws.
        settings: limits, and where to listen.
        on_ready: called with the address when the socket is open.

    Raises:
        InputError: the address is taken, or the keys file cannot be used.
    """
    try:
        server = make_server(engine, settings)
        with listen(settings) as opened:
            configure_logs()
            if settings.keys is None and not settings.local:
                LOG.warning("without keys, everybody who reaches this address is the same user")
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            on_ready(f"http://{host}:{opened.getsockname()[1]}")
            server.run(sockets=[opened])
    finally:
        engine.close()
