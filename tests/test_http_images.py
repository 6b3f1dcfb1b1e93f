"""OpenAI's interface: the official client unchanged, streams, errors, and callers who go away."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from serving.contract import PictureRequest
from serving.http import HttpSettings
from tests.http_engine import SIDE, WEB, FakeEngine, colour_of, picture_files, running, until

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def address(engine: FakeEngine) -> Iterator[str]:
    with running(engine) as (url, _):
        WEB.post(f"{url}/v1/subjects", data={"name": "rex", "class_word": "dog"}, files=picture_files())
        until(lambda: engine.subjects.show("", "rex").state == "ready")
        yield url


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made


def image_of(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n") if not block.startswith(":")]
    return [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in blocks]


def test_openai_client_gets_the_picture_of_the_request(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a photo of [V]", model="rex", n=2, extra_body={"seed": 5, "steps": 3})
    assert answer.data is not None
    expected = [PictureRequest("a photo of [V]", subject="rex", seed=seed, steps=3) for seed in (5, 6)]
    for picture, request in zip(answer.data, expected, strict=True):
        image = image_of(picture.b64_json)
        assert (image.size, image.getpixel((0, 0))) == ((SIDE, SIDE), colour_of(request))
    assert (answer.size, answer.output_format) == (f"{SIDE}x{SIDE}", "png")
    assert [model.id for model in client.models.list()] == ["icons", "rex"]
    assert client.models.retrieve("rex").id == "rex"


def test_openai_client_streams_previews_then_the_picture(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="a cat", stream=True, partial_images=3, extra_body={"seed": 1, "steps": 8})
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]  # type: ignore[union-attr]
    assert image_of(events[-1].b64_json).getpixel((0, 0)) == colour_of(PictureRequest("a cat", seed=1, steps=8))


def test_openai_client_may_send_null_for_what_is_optional(client: openai.OpenAI) -> None:
    names = ("n", "size", "response_format", "output_format", "quality", "background", "stream", "partial_images")
    nothing: Any = dict.fromkeys((*names, "model", "user"))
    answer = client.images.generate(prompt="a cat", extra_body={"seed": 2**63 - 1, "steps": 1}, **nothing)
    assert answer.data is not None
    assert image_of(answer.data[0].b64_json).size == (SIDE, SIDE)


def test_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a cat", model="nobody")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match=r"does not name the subject"):
        client.images.generate(prompt="a cat", model="rex")
    with pytest.raises(openai.APIError, match=r"something went wrong on our side"):
        list(client.images.generate(prompt="boom", stream=True))


def test_progress_events_are_for_those_who_ask(address: str) -> None:
    body = {"prompt": "a cat", "stream": True, "progress": True, "steps": 4, "n": 2, "partial_images": 1}
    answer = WEB.post(address + URL, json=body)
    events = events_of(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    for index in (0, 1):
        mine = [(name, data) for name, data in events if data["index"] == index]
        assert [name for name, _ in mine if "partial" not in name] == [
            "image_generation.queued",
            *["image_generation.progress"] * 4,
            "image_generation.completed",
        ]
        assert set(mine[-1][1]["details"]) == {"seconds", "batch_size", "abstained", "reliability"}


def test_sizes_are_square_and_keep_the_notes(address: str) -> None:
    answer = WEB.post(address + URL, json={"prompt": "a ☂ umbrella", "size": "64x64", "seed": 3})
    image = image_of(answer.json()["data"][0]["b64_json"])
    assert isinstance(image, PngImageFile)
    assert (image.size, image.text["prompt"], answer.json()["size"]) == ((64, 64), "a ☂ umbrella", "64x64")
    for size in ("64x32", "9999x9999", "0x0", "large"):
        assert WEB.post(address + URL, json={"prompt": "a", "size": size}).status_code == 400


def test_headers_tell_the_request_and_its_times(address: str) -> None:
    answer = WEB.post(address + URL, json={"prompt": "a cat"}, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    stages = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert stages == ["queue", "predict", "compose", "denoise", "decode"]
    assert float(answer.headers["x-batch-size"]) >= 1
    bad = WEB.post(address + URL, json={"prompt": "a cat"}, headers={"X-Request-Id": "bad id"})
    assert bad.headers["x-request-id"] != "bad id"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "a", "stepps": 3}, "stepps", "unknown_parameter"),
        ({"prompt": "a", "n": "2"}, "n", "invalid_value"),
        ({"prompt": "a", "n": 9}, None, "invalid_value"),
        ({"prompt": "a", "steps": 151}, None, "invalid_value"),
        ({"prompt": "a", "priority": 1}, None, "invalid_value"),
        ({"prompt": "a", "seed": -1}, "seed", "invalid_value"),
        ({"prompt": "a", "seed": 2**63 - 1, "n": 2}, None, "invalid_value"),
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": "a", "steps": None}, "steps", "invalid_value"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "invalid_value"),
        ({"prompt": "a", "subject": "x", "model": "rex"}, None, "invalid_value"),
        ({"prompt": "a", "subject": "../../etc/passwd"}, None, "subject_not_found"),
        ({"prompt": "a", "prompt_adapter": "snow"}, None, "prompt_adapter_not_found"),
        ({"prompt": "a", "prompt_adapter": "../beach"}, "prompt_adapter", "invalid_value"),
        ({"prompt": "a", "prompt_adapter": ""}, "prompt_adapter", "invalid_value"),
        ([], None, "invalid_value"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(address: str, body: object, param: str | None, code: str) -> None:
    answer = WEB.post(address + URL, json=body)
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert answer.status_code == (404 if code.endswith("not_found") else 400)


def test_a_stored_prompt_adapter_is_asked_for_by_name(engine: FakeEngine, address: str) -> None:
    answer = WEB.post(address + URL, json={"prompt": "a cat", "prompt_adapter": "beach", "prompt_adapter_scale": 0.5})
    assert answer.status_code == 200, answer.text
    asked = engine.ends[-1][0]
    assert (asked.prompt_adapter, asked.prompt_adapter_scale) == ("beach", 0.5)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"\\ud800": 1}',
        b"[" * 5000,
        b'{"prompt":"a","guidance":1e999}',
    ],
)
def test_malformed_json_is_400(address: str, body: bytes) -> None:
    answer = WEB.post(address + URL, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, set(answer.json()["error"])) == (400, {"message", "type", "param", "code"})


def test_defects_tell_nothing_of_the_inside(address: str) -> None:
    answer = WEB.post(address + URL, json={"prompt": "boom"})
    assert answer.status_code == 500
    assert "secrets" not in answer.text


def test_unknown_paths_and_methods_are_error_objects(address: str) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/v1/models", 405), ("GET", URL, 405)):
        answer = WEB.request(method, address + path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_has_nothing_drawn(stream: bool) -> None:
    engine = FakeEngine()
    engine.hold_at = 100
    with running(engine) as (address, server):
        body = {"prompt": "a cat", "steps": 150, "n": 2, "stream": stream, "partial_images": 5}
        if stream:
            with WEB.stream("POST", address + URL, json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                WEB.post(address + URL, json=body, timeout=httpx.Timeout(30, read=0.3))
        until(lambda: engine.busy == 0)
        assert [end for _, end in engine.ends] == ["Cancelled", "Cancelled"]
        assert not server.config.app.state.service.pictures._taken  # type: ignore[union-attr]


def test_a_full_queue_is_429_and_leaves_nothing_behind() -> None:
    engine = FakeEngine(step_s=0.02, slots=1, max_queue=2)
    with running(engine) as (address, _):
        answer = WEB.post(address + URL, json={"prompt": "a cat", "n": 8, "steps": 20})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert answer.json()["error"]["code"] == "queue_full"
        until(lambda: engine.busy == 0)
        assert {end for _, end in engine.ends} == {"Cancelled"}


def test_a_picture_that_takes_too_long_is_504() -> None:
    with running(FakeEngine(step_s=0.05), HttpSettings(deadline_s=0.1)) as (address, _):
        started = time.monotonic()
        answer = WEB.post(address + URL, json={"prompt": "a cat", "steps": 150})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert time.monotonic() - started < 5
