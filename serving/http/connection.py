"""uvicorn's connection, which waits for ever for a request's head, with an end to its patience."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.http.problems import Problem

__all__ = ["connection"]


def connection(head_timeout_s: float) -> type[asyncio.Protocol]:
    """A protocol for `uvicorn.Config`: a head that is not whole in so many seconds is answered 408, and closed.

    The time runs from the connection, and from the first byte of each later request; in between uvicorn's own
    keep-alive timer closes it.
    """

    class Connection(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it
            self._await_head()

        def data_received(self, data: bytes) -> None:
            if self._late is None and self.conn.their_state is h11.IDLE:
                self._await_head()
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            self._late = self.loop.call_later(head_timeout_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _give_up(self) -> None:
            self._late = None
            if self.conn.trailing_data[0]:  # else there is nobody to tell
                self._say_so()
            self.transport.close()

        def _say_so(self) -> None:
            text = f"the request's head was not here within {head_timeout_s:g} s: send it faster"
            body = json.dumps(Problem(408, text, code="slow_head").body()).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            headers.append((b"connection", b"close"))
            response = h11.Response(status_code=408, reason=b"Request Timeout", headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                if sent := self.conn.send(event):
                    self.transport.write(sent)

    return Connection
