"""Subjects over HTTP: uploading, learning that can be watched, owners apart, and uploads of every bad kind."""

from __future__ import annotations

import base64
import io
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from palp.errors import InputError
from serving.http import HttpSettings
from serving.http.keys import Keys, add_key
from tests.http_engine import WEB, FakeEngine, picture_files, png, running, until, write_keys
from tests.test_http_images import events_of

URL = "/v1/subjects"
REX = {"name": "rex", "class_word": "dog"}
NAMED = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nrex\r\n--b--\r\n'


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def address(engine: FakeEngine) -> Iterator[str]:
    with running(engine, HttpSettings(max_files=4, max_pixels=10_000, max_upload_bytes=100_000)) as (url, _):
        yield url


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    path, keys = write_keys(tmp_path, "ann", "bob")
    with running(FakeEngine(), HttpSettings(keys=path, max_active=3)) as (url, _):
        yield url, {owner: {"Authorization": f"Bearer {key}"} for owner, key in keys.items()}


def upload(address: str, data: dict[str, str] = REX, files: Any = None, **more: Any) -> httpx.Response:
    return WEB.post(address + URL, data=data, files=files or picture_files(), **more)


def test_a_subject_is_uploaded_learned_shown_and_removed(address: str, engine: FakeEngine) -> None:
    added = upload(address)
    assert (added.status_code, added.json()["state"], added.json()["pictures"]) == (202, "waiting", 2)
    assert engine.subjects.pictures["", "rex"] == [content for _, (_, content, _) in picture_files()]
    events = events_of(WEB.get(f"{address}{URL}/rex/events").text)
    assert [name for name, _ in events][-1] == "subject.ready"
    shares = [data["progress"] for _, data in events]
    assert shares == sorted(shares)
    assert [one["name"] for one in WEB.get(address + URL).json()["data"]] == ["rex"]
    assert WEB.get(f"{address}{URL}/rex").json()["state"] == "ready"
    assert upload(address).json()["error"]["code"] == "subject_exists"
    assert WEB.delete(f"{address}{URL}/rex").json() == {"object": "subject.deleted", "name": "rex", "deleted": True}
    for path in (f"{URL}/rex", f"{URL}/rex/events"):
        assert WEB.get(address + path).json()["error"]["code"] == "subject_not_found"
    assert WEB.delete(f"{address}{URL}/rex").status_code == 404


def test_watching_ends_when_a_subject_fails_or_is_removed(address: str, engine: FakeEngine) -> None:
    upload(address, {"name": "lost", "class_word": "hopeless"})
    name, data = events_of(WEB.get(f"{address}{URL}/lost/events").text)[-1]
    assert (name, data["error"]) == ("subject.failed", "the loss was not finite")
    picture = WEB.post(f"{address}/v1/images/generations", json={"prompt": "a [V]", "subject": "lost"})
    assert (picture.status_code, picture.json()["error"]["code"]) == (409, "subject_not_ready")
    engine.subjects.learn_s = 30.0
    upload(address, {"name": "brief", "class_word": "dog"})
    with WEB.stream("GET", f"{address}{URL}/brief/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: subject.waiting"
        engine.subjects.remove("", "brief")
        assert "event: subject.deleted" in list(lines)
    engine.subjects.learn_s = 0.1


@pytest.mark.parametrize(
    ("data", "files", "status", "param"),
    [
        ({"name": "../../evil", "class_word": "dog"}, None, 400, "name"),
        ({"name": "..", "class_word": "dog"}, None, 400, "name"),
        ({"name": "a/b", "class_word": "dog"}, None, 400, "name"),
        ({"name": "a\x00b", "class_word": "dog"}, None, 400, "name"),
        ({"name": "x" * 65, "class_word": "dog"}, None, 400, "name"),
        ({"class_word": "dog"}, None, 400, "name"),
        ({"name": "a", "class_word": ""}, None, 400, "class_word"),
        ({"name": "a", "class_word": "nonsense"}, None, 400, None),
        ({"name": "icons", "class_word": "dog"}, None, 400, None),
        ({"name": "a", "class_word": "dog", "extra": "1"}, None, 400, "extra"),
        ({"name": "a", "class_word": "dog"}, [("images", ("a.png", b"no picture", "image/png"))], 400, None),
        ({"name": "a", "class_word": "dog"}, [("images", ("a.png", png((1, 2, 3))[:60], "image/png"))], 400, None),
        ({"name": "a", "class_word": "dog"}, [("other", ("a.png", png((1, 2, 3)), "image/png"))], 400, "other"),
        ({"name": "a", "class_word": "dog"}, [("images", ("a.png", png((1, 2, 3), side=101), ""))], 413, "images"),
        ({"name": "a", "class_word": "dog"}, picture_files(5), 400, "images"),
        ({"name": "a", "class_word": "dog", "images": "text"}, None, 400, "images"),
    ],
)  # fmt: skip
def test_bad_uploads_are_refused_and_leave_nothing(
    address: str, engine: FakeEngine, data: dict[str, str], files: Any, status: int, param: str | None
) -> None:
    before = WEB.get(address + URL).json()
    answer = upload(address, data, files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert WEB.get(address + URL).json() == before


def test_a_picture_that_claims_a_gigantic_size_is_413(address: str) -> None:
    head = bytearray(png((1, 2, 3)))
    head[16:24] = (60_000).to_bytes(4, "big") * 2
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    assert upload(address, files=[("images", ("a.png", bytes(head), "image/png"))]).status_code == 413


def test_forms_that_are_none_are_4xx(address: str) -> None:
    for kind, body, status in (
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nbroken", 400),
        ("multipart/form-data; boundary=b", b"\xff" * 100, 400),
        ("multipart/form-data; boundary=b; charset=undefined", NAMED, 400),
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"name=a", 415),
    ):
        answer = WEB.post(address + URL, content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), body


def test_path_tricks_are_4xx(address: str) -> None:
    for path in ("..%2f..%2fetc", "%2e%2e", "a%00b", ".hidden", "x" * 200, "%ff"):
        for method in ("GET", "DELETE"):
            assert 400 <= WEB.request(method, f"{address}{URL}/{path}").status_code < 500
    for path in ("/page/..%2f..%2fapp.py", "/page/%2e%2e/app.py", "/page//etc/passwd"):
        assert WEB.get(address + path).status_code == 404


def send_raw(address: str, *parts: bytes, pause_s: float = 0.0) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_oversized_bodies_are_refused_before_they_are_read(address: str) -> None:
    head = b"POST /v1/subjects HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    announced = send_raw(address, head + b"Content-Length: 100001\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413 ")
    chunks = [
        head + b"Transfer-Encoding: chunked\r\n\r\n",
        b"c350\r\n" + b"x" * 50_000 + b"\r\n",
        b"c352\r\n" + b"x" * 50_002,
    ]
    assert b" 4" in send_raw(address, *chunks).split(b"\r\n")[0]


def test_who_goes_on_sending_a_refused_body_still_reads_the_answer(address: str) -> None:
    head = b"POST /v1/subjects HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    answer = send_raw(address, head + b"Content-Length: 500000\r\n\r\n", *[b"x" * 50_000] * 10, pause_s=0.02)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_slow_bodies_time_out() -> None:
    with running(FakeEngine(), HttpSettings(body_timeout_s=0.3)) as (address, _):
        head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        answer = send_raw(address, head + b"Content-Length: 100\r\n\r\n", b'{"pro', pause_s=0.1)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"slow_body" in answer


def test_owners_are_apart(keyed: tuple[str, dict[str, dict[str, str]]]) -> None:
    address, keys = keyed
    ann, bob = keys["ann"], keys["bob"]
    assert upload(address, headers=ann).status_code == 202
    until(lambda: WEB.get(f"{address}{URL}/rex", headers=ann).json()["state"] == "ready")
    for path in (f"{URL}/rex", f"{URL}/rex/events", "/v1/models/rex"):
        assert WEB.get(address + path, headers=bob).status_code == 404
    assert WEB.delete(f"{address}{URL}/rex", headers=bob).status_code == 404
    assert WEB.get(address + URL, headers=bob).json()["data"] == []
    body = {"prompt": "a [V]", "subject": "rex"}
    assert WEB.post(f"{address}/v1/images/generations", json=body, headers=bob).status_code == 404
    assert WEB.post(f"{address}/v1/images/generations", json=body, headers=ann).status_code == 200
    assert [one["name"] for one in WEB.get(f"{address}/sdapi/v1/loras", headers=bob).json()] == []
    assert upload(address, headers=bob).status_code == 202  # a name is free for each


def test_keys_are_asked_for_where_there_is_something_to_see(keyed: tuple[str, dict[str, dict[str, str]]]) -> None:
    address, keys = keyed
    for path in ("/v1/models", URL, "/metrics", "/sdapi/v1/progress", "/nothing"):
        for given in (None, b"Bearer wrong", b"Basic !", b"Basic \xe9", b"x"):
            answer = WEB.get(address + path, headers=None if given is None else {b"Authorization": given})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/page/page.js", "/health", "/ready", "/openapi.json"):
        assert WEB.get(address + path).status_code == 200
    key = keys["ann"]["Authorization"].removeprefix("Bearer ")
    basic = base64.b64encode(f"anybody:{key}".encode()).decode()
    assert WEB.get(f"{address}/v1/models", headers={"Authorization": f"Basic {basic}"}).status_code == 200


def test_each_key_has_its_own_limit(tmp_path: Path) -> None:
    path, made = write_keys(tmp_path, "ann", "bob")
    keys = {owner: {"Authorization": f"Bearer {key}"} for owner, key in made.items()}
    body = {"prompt": "a cat", "steps": 1}
    with running(FakeEngine(), HttpSettings(keys=path, max_active=3)) as (address, server):
        server.config.app.state.service.pictures.take("ann", 3)  # type: ignore[union-attr]
        url = f"{address}/v1/images/generations"
        answer = WEB.post(url, json=body, headers=keys["ann"])
        assert WEB.post(url, json=body | {"n": 3}, headers=keys["bob"]).status_code == 200
        never = WEB.post(url, json=body | {"n": 4}, headers=keys["bob"])
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"] == {
        "message": "you may have 3 pictures at once: wait until one is done, then try again",
        "type": "rate_limit_error",
        "param": None,
        "code": "too_many_at_once",
    }
    assert (never.status_code, never.json()["error"]["code"]) == (400, "invalid_value")


def test_uploads_at_once_are_limited() -> None:
    with running(FakeEngine(), HttpSettings(max_uploads=1, max_subjects=1)) as (address, server):
        host, port = address.removeprefix("http://").split(":")
        head = b"POST /v1/subjects HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head + b"Content-Length: 1000\r\n\r\n--b")
            until(lambda: server.config.app.state.service.uploads._taken)  # type: ignore[union-attr]
            assert upload(address).status_code == 429
        until(lambda: upload(address).status_code == 202)
        assert upload(address, {"name": "two", "class_word": "dog"}).json()["error"]["code"] == "too_many_subjects"


def test_keys_files(tmp_path: Path) -> None:
    path, keys = write_keys(tmp_path, "ann", "bob")
    assert all(key not in path.read_text() for key in keys.values())
    ring = Keys.read(path)
    assert {owner: ring.owner(f"Bearer {key}") for owner, key in keys.items()} == {"ann": "ann", "bob": "bob"}
    with pytest.raises(InputError, match=r"has a key"):
        add_key(path, "ann")
    with pytest.raises(InputError, match=r"letters, digits"):
        add_key(path, "../ann")
    for text, message in (("", "no keys"), ("ann 1234", "line 1"), ("# nobody\n", "no keys")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            Keys.read(path)
    with pytest.raises(InputError, match=r"cannot be read"):
        Keys.read(tmp_path / "nothing")


def test_uploaded_pictures_of_other_formats_are_taken(address: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, format="JPEG")
    answer = upload(address, {"name": "jpeg", "class_word": "dog"}, [("images", ("a", buffer.getvalue(), ""))])
    assert answer.status_code == 202
