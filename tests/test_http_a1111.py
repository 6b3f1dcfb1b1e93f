"""What A1111 clients do: ask for the lists, draw, look at the progress, interrupt."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from serving.contract import PictureRequest
from tests.http_engine import WEB, FakeEngine, colour_of, picture_files, running, until

USUAL = {  # what clients send with every request, whether asked for or not
    "enable_hr": False,
    "denoising_strength": 0.7,
    "styles": [],
    "subseed": -1,
    "restore_faces": False,
    "tiling": False,
    "eta": 1.0,
    "script_args": [],
    "script_name": None,
    "save_images": False,
    "alwayson_scripts": {},
    "width": 64,
    "height": 64,
    "cfg_scale": 4.0,
}


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def address(engine: FakeEngine) -> Iterator[str]:
    with running(engine) as (url, _):
        WEB.post(f"{url}/v1/subjects", data={"name": "rex", "class_word": "dog"}, files=picture_files())
        until(lambda: engine.subjects.show("", "rex").state == "ready")
        yield url


def draw(address: str, **fields: Any) -> dict[str, Any]:
    answer = WEB.post(f"{address}/sdapi/v1/txt2img", json=USUAL | fields)
    assert answer.status_code == 200, answer.text
    assert "denoise;dur=" in answer.headers["server-timing"] or not answer.json()["images"]
    found: dict[str, Any] = answer.json()
    return found


def test_what_clients_ask_first(address: str) -> None:
    def get(path: str) -> Any:
        return WEB.get(f"{address}/sdapi/v1/{path}").json()

    assert [model["model_name"] for model in get("sd-models")] == ["icons", "rex"]
    assert [lora["name"] for lora in get("loras")] == ["rex"]
    assert [sampler["name"] for sampler in get("samplers")] == ["DDIM", "DPM++ 2M", "Euler"]
    assert get("options")["sd_model_checkpoint"] == "icons"
    assert (get("progress")["progress"], get("progress")["state"]["job_count"]) == (0, 0)
    assert WEB.post(f"{address}/sdapi/v1/interrupt").json() == {}


def test_options_stay_as_they_are_for_everybody(address: str) -> None:
    def post(wanted: Any) -> Any:
        return WEB.post(f"{address}/sdapi/v1/options", json=wanted)

    known = WEB.get(f"{address}/sdapi/v1/options").json()
    for unchanged in ({}, {"sd_model_checkpoint": "icons"}, known):
        assert (post(unchanged).status_code, post(unchanged).json()) == (200, None)
    for wanted, sentence in (
        ({"sd_model_checkpoint": "rex"}, "override_settings"),
        ({"samples_format": "jpg"}, "'png' for all callers"),
        ({"sd_model_checkpoint": "icons", "sd_vae": "None"}, "there is no option 'sd_vae'"),
    ):
        answer = post(wanted)
        assert (answer.status_code, sentence in answer.json()["error"]["message"]) == (400, True), answer.text
    assert post(["sd_model_checkpoint"]).status_code == 400
    assert WEB.get(f"{address}/sdapi/v1/options").json() == known


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a sketch of [V] <lora:rex:0.5>"},
        {"prompt": "a sketch of [V]", "override_settings": {"sd_model_checkpoint": "rex"}},
    ],
)
def test_a_subject_is_drawn(address: str, engine: FakeEngine, fields: dict[str, Any]) -> None:
    answer = draw(address, seed=7, steps=5, n_iter=2, sampler_name="DPM++ 2M", **fields)
    info = json.loads(answer["info"])
    assert (info["seed"], info["all_seeds"]) == (7, [7, 8])
    for seed, encoded in zip((7, 8), answer["images"], strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        request = PictureRequest("a sketch of [V]", subject="rex", seed=seed, steps=5)
        assert (image.size, image.getpixel((0, 0))) == ((64, 64), colour_of(request))
    asked = engine.ends[-1][0]
    assert (asked.scheduler, asked.guidance) == ("dpm++2m", 4.0)
    assert asked.subject_scale == (0.5 if "lora" in fields["prompt"] else 1.0)


def test_what_cannot_be_done_is_refused(address: str) -> None:
    for fields, status in (
        ({"prompt": "a", "enable_hr": True}, 400),
        ({"prompt": "a", "sampler_name": "Heun"}, 400),
        ({"prompt": "a", "height": 128}, 400),
        ({"prompt": "a", "batch_size": 9}, 400),
        ({"prompt": "[V] <lora:rex:.>"}, 400),
        ({"prompt": "[V] <lora:rex> <lora:rex>"}, 400),
        ({"prompt": "[V] <lora:nobody>"}, 404),
        ({"prompt": "a <lora:my rex:1>"}, 400),
        ({"prompt": "[V] <lora:rex> <lora:rex:1e0>"}, 400),
        ({"prompt": "a", "seed": 2**63 - 1, "batch_size": 2}, 400),
        ({"prompt": "a", "override_settings": {"sd_model_checkpoint": 1}}, 400),
    ):
        answer = WEB.post(f"{address}/sdapi/v1/txt2img", json=USUAL | fields)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), fields


@pytest.mark.parametrize("value", [b"NaN", b"1e999", b'"\\ud800"'])
def test_what_is_not_echoed_may_be_anything(address: str, value: bytes) -> None:
    for field in (b"clip_stop", b"sd_model_checkpoint"):
        body = b'{"prompt": "a", "steps": 1, "override_settings": {"%s": %s}}' % (field, value)
        answer = WEB.post(f"{address}/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == (200 if field == b"clip_stop" else 400), answer.text


def test_the_largest_seed_is_drawn(address: str) -> None:
    assert json.loads(draw(address, prompt="a", steps=1, seed=2**63 - 1)["info"])["seed"] == 2**63 - 1


def test_progress_and_interruption() -> None:
    engine = FakeEngine()
    engine.hold_at = 100
    with running(engine) as (address, _), ThreadPoolExecutor(1) as pool:
        job = pool.submit(draw, address, prompt="a cat", steps=150, batch_size=2)
        seen: dict[str, Any] = {}

        def shown() -> bool:
            seen.update(WEB.get(f"{address}/sdapi/v1/progress").json())
            return seen["current_image"] is not None

        until(shown)
        assert 0 < seen["progress"] < 1
        assert (seen["state"]["job_count"], seen["state"]["sampling_steps"]) == (2, 150)
        assert WEB.get(f"{address}/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
        WEB.post(f"{address}/sdapi/v1/interrupt")
        answer = job.result(60)
        assert (answer["images"], json.loads(answer["info"])["interrupted"]) == ([], True)
        assert [end for _, end in engine.ends] == ["Cancelled"] * 2
