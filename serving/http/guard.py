"""What is checked before a body is read, and while: host, origin, key, stopping, the body's size and pace."""

from __future__ import annotations

import asyncio
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import DrainingError
from serving.http.problems import Refusal
from serving.http.service import Service

__all__ = ["Guard"]

OPEN = {"/", "/favicon.ico", "/health", "/ready", "/openapi.json"}
PAGE = "/page/"
UPLOAD = "/v1/subjects"
INTERRUPT = "/sdapi/v1/interrupt"
LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}


class Guard:
    """ASGI middleware; raises `Refusal` and `DrainingError`, which `Access` answers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        self._check_origin(headers, method)
        if path not in OPEN and not path.startswith(PAGE):
            scope["state"]["owner"] = self._owner(headers)
        if self._service.draining and method == "POST" and path != INTERRUPT:
            raise DrainingError
        settings = self._service.settings
        upload = method == "POST" and path == UPLOAD
        most = settings.max_upload_bytes if upload else settings.max_json_bytes
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise _too_large(most)
        await self.app(scope, _Body(receive, scope, most, settings.body_timeout_s), send)

    def _check_origin(self, headers: Headers, method: str) -> None:
        """Keep pages of other sites out, also those whose name leads to this machine; keys do that themselves."""
        host = _address(f"//{headers.get('host', '')}")
        if self._service.keys is None and self._service.settings.local and host.hostname not in LOCAL_NAMES:
            raise Refusal(403, "unknown_host", "without keys this server answers to localhost alone")
        origin = headers.get("origin")
        if origin and method not in ("GET", "HEAD") and _address(origin).netloc != host.netloc:
            raise Refusal(403, "cross_site", "a page of another site may not ask for this")

    def _owner(self, headers: Headers) -> str:
        if self._service.keys is None:
            return ""
        owner = self._service.keys.owner(headers.get("authorization"))
        if owner is None:
            raise Refusal(401, "invalid_api_key", "the key is missing or unknown: send Authorization: Bearer KEY")
        return owner


class _Body:
    """The body as it comes, but no more than so many bytes, and no longer than so many seconds."""

    def __init__(self, receive: Receive, scope: Scope, most: int, seconds: float) -> None:
        self._scope = scope
        self._receive, self._most, self._seconds = receive, most, seconds
        self._end = asyncio.get_running_loop().time() + seconds
        self._got, self._whole = 0, False

    async def __call__(self) -> Message:
        if self._whole:  # what follows is the caller's leaving, for which there is no hurry
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            text = f"the body was not here within {self._seconds:g} s: send it faster, or make it smaller"
            raise Refusal(408, "slow_body", text) from None
        self._got += len(message.get("body", b""))
        if self._got > self._most:
            raise _too_large(self._most)
        self._whole = self._scope["state"]["whole"] = not message.get("more_body", False)
        return message


def _address(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise Refusal(400, "invalid_host", "the Host or Origin header cannot be read as an address") from None


def _too_large(most: int) -> Refusal:
    return Refusal(413, "body_too_large", f"the body has more than {most} bytes: make it smaller")
