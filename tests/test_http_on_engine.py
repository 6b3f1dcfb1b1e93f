"""The HTTP server on the engine itself: a picture comes, seeds tell, and its library is the one of the command line."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from palp.adapter import Adapter, AdapterSpec
from palp.base import Base
from palp.draw import Picture, Sampling, draw
from palp.sheets import to_images
from serving.engine import BatchEngine, build_engine
from serving.http import HttpSettings, create_app
from serving.subjects.learning import Teaching
from tests.adapters import random_adapter
from tests.engines import pixels
from tests.tiny import tiny_base

PROMPT = "a sketch of a cat"


def beach(base: Base) -> Adapter:
    """The prompt adapter that the server keeps."""
    return random_adapter(AdapterSpec(base.fingerprint, base.sites(), 2, 3.0), 1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchEngine]:
    base, library, kept = tiny_base("sd1"), tmp_path_factory.mktemp("library"), tmp_path_factory.mktemp("kept")
    beach(base).save(kept / "beach.safetensors")
    built = build_engine(base, Teaching(), prompt_adapters=kept, subjects=library, batch=2, waiting=4)
    yield built
    built.close()
    built.subjects.close()


@pytest.fixture(scope="module")
def client(engine: BatchEngine) -> TestClient:
    return TestClient(create_app(engine, HttpSettings()), base_url="http://localhost")


def test_pictures_over_http_are_those_of_the_base(engine: BatchEngine, client: TestClient) -> None:
    asked = {"prompt": PROMPT, "n": 2, "seed": 5, "steps": 3, "guidance": 2.0}
    answer = client.post("/v1/images/generations", json=asked)
    assert answer.status_code == 200, answer.text
    drawn = [pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"]]
    wanted = draw(engine.base, [Picture(PROMPT, seed) for seed in (5, 6)], Sampling(3, 2.0))
    for got, image in zip(drawn, to_images(wanted), strict=True):
        assert np.abs(got.astype(int) - np.asarray(image).astype(int)).max() <= 1  # rounding to 8 bits
    assert np.abs(drawn[0].astype(int) - drawn[1].astype(int)).max() > 1


def test_a_stored_prompt_adapter_is_drawn_over_http(engine: BatchEngine, client: TestClient) -> None:
    asked = {"prompt": PROMPT, "prompt_adapter": "beach", "seed": 5, "steps": 3, "guidance": 2.0}
    answer = client.post("/v1/images/generations", json=asked)
    assert answer.status_code == 200, answer.text
    got = pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    [image] = to_images(draw(engine.base, [Picture(PROMPT, 5, beach(engine.base))], Sampling(3, 2.0)))
    assert np.abs(got - np.asarray(image).astype(int)).max() <= 1  # rounding to 8 bits
    assert client.post("/v1/images/generations", json=asked | {"prompt_adapter": "snow"}).status_code == 404


def test_what_the_engine_refuses_is_a_sentence_and_not_a_defect(client: TestClient) -> None:
    for wrong in ({"subject": "nobody", "prompt": "a photo of [V]"}, {"prompt": "a photo of [V]"}):
        answer = client.post("/v1/images/generations", json={"steps": 2, **wrong})
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["message"]


def test_metrics_count_the_engines_steps(client: TestClient) -> None:
    before = _steps(client)
    assert client.post("/v1/images/generations", json={"prompt": PROMPT, "steps": 2}).status_code == 200
    assert _steps(client) == before + 2


def _steps(client: TestClient) -> float:
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    return float(lines["palp_step_seconds_count"])


def test_subjects_land_in_the_library_on_disk(engine: BatchEngine, client: TestClient) -> None:
    picture = Path(__file__).parents[1] / "examples/subjects/dodo/1.png"
    answer = client.post(
        "/v1/subjects", data={"name": "dodo", "class_word": "duck"}, files=[("images", ("1.png", picture.read_bytes()))]
    )
    assert answer.status_code in (200, 201, 202), answer.text
    assert [info.name for info in engine.subjects.list("")] == ["dodo"]
    assert client.delete("/v1/subjects/dodo").status_code in (200, 204)
    assert engine.subjects.list("") == []
