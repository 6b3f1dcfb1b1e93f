"""Around everything: the request's id, headers of safety, the log, the metrics, and errors of any kind."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.logs import LOG
from serving.http.problems import problem_of
from serving.http.service import Service
from serving.http.sse import ClientGoneError

__all__ = ["Access"]

REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
GONE = 499  # for the log: nobody got an answer
LINGER_S, LINGER_BYTES = 1.0, 2**20  # how much of an unwanted body is thrown away, so that its sender reads the answer
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFETY = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Access:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"range"]  # answers are whole
        asked = Headers(scope=scope)
        given, announced = asked.get("x-request-id", ""), {"content-length", "transfer-encoding"} & set(asked)
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "owner": "", "whole": False}
        started, status = time.perf_counter(), GONE

        def refused() -> bool:
            return bool(announced) and not scope["state"]["whole"]

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**SAFETY, "X-Request-Id": request_id})
                headers.setdefault("Cache-Control", "no-store")
                if refused():
                    headers["Connection"] = "close"  # the rest of the body is not wanted
            if message["type"] != "http.response.body" or message.get("more_body", False) or not refused():
                await send(message)
                return
            await send({**message, "more_body": True})
            await _linger(receive)
            await send({"type": "http.response.body"})

        try:
            await self.app(scope, receive, send_with_headers)
        except (ClientGoneError, ClientDisconnect):
            pass
        except Exception as error:
            problem = problem_of(error)
            if problem.status == 500:
                LOG.exception("defect", extra={"fields": {"request_id": request_id}})
            if status == GONE:
                await problem.response()(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", None) or "other"
        self._service.metrics.request(scope["method"], path, status, seconds)
        state = scope["state"]
        fields = {"request_id": state["request_id"], "method": scope["method"], "route": path, "status": status}
        fields |= {"ms": round(seconds * 1000, 1), "owner": state["owner"]}
        if self._service.settings.log_prompts and "prompt" in state:
            fields["prompt"] = state["prompt"]
        LOG.info("request", extra={"fields": fields})


async def _linger(receive: Receive) -> None:
    """Read on for a moment: a connection closed over unread bytes is reset, and takes the answer with it."""
    got = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while got < LINGER_BYTES:
                message = await receive()
                got += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
