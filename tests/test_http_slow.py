"""Callers who send slowly: heads and bodies have their time, and what is under way is not cut."""

from __future__ import annotations

import json
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from serving.http import HttpSettings
from tests.http_engine import WEB, FakeEngine, running, until

HEAD_S = 1.0
DRIPS = 60  # bytes of a head, sent so slowly that its time is over long before them
OK = b"HTTP/1.1 200 "


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes; a reset is a close too, while we still send."""
    answer = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def drip(connection: socket.socket) -> bytes:
    """Send a head byte by byte until the other side has had enough; what it said."""
    for byte in b"GET /health HTTP/1.1\r\nX-Slow: ".ljust(DRIPS, b"x"):
        connection.sendall(bytes([byte]))
        if select.select([connection], [], [], 4 * HEAD_S / DRIPS)[0]:
            break
    return received(connection)


@pytest.mark.parametrize("later", [False, True])
def test_a_slow_head_is_408_and_closed(later: bool) -> None:
    with running(FakeEngine(), HttpSettings(head_timeout_s=HEAD_S)) as (address, _):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            if later:  # the second request of a connection
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536)
                assert answer.startswith(OK)
            head, body = drip(connection).split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["code"] == "slow_head"


def test_a_connection_that_says_nothing_is_closed() -> None:
    with running(FakeEngine(), HttpSettings(head_timeout_s=HEAD_S)) as (address, _):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            assert received(connection) == b""


def test_a_long_picture_outlives_the_time_for_heads() -> None:
    engine = FakeEngine()
    engine.hold_at = 1
    with running(engine, HttpSettings(head_timeout_s=HEAD_S)) as (address, _), ThreadPoolExecutor(1) as pool:
        body = {"prompt": "a cat", "steps": 3}
        job = pool.submit(WEB.post, f"{address}/v1/images/generations", json=body)
        until(lambda: engine.busy)
        time.sleep(2 * HEAD_S)
        engine.hold_at = None
        assert job.result(60).status_code == 200
