"""Server-sent events, and callers who go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["PAUSE", "PAUSE_S", "ClientGoneError", "EventStream", "sse", "unless_gone"]

PAUSE_S = 15.0  # proxies close a silent connection after half a minute or more
PAUSE = b": still here\n\n"
T = TypeVar("T")


class ClientGoneError(Exception):
    """The caller closed the connection, and nobody reads an answer."""


def sse(event: str, data: Mapping[str, Any]) -> bytes:
    """One event with JSON as its data."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


class EventStream(StreamingResponse):
    """Events as they come; `close` is called in the end, also when the caller leaves before the first."""

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is stopped when the caller goes away.

    Raises:
        ClientGoneError: the caller went away.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
