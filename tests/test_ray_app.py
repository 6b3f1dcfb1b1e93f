"""The server on Ray Serve: two replicas on this machine, one of them killed under load. Needs the extra `ray`."""

from __future__ import annotations

import base64
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from palp.base import Base, load_base
from serving.engine import BatchEngine, EngineSettings
from serving.http import HttpSettings, create_app
from serving.ray_app import build_app
from serving.subjects.library import Library
from tests.engines import library_of, pixels
from tests.http_engine import until

ray: Any = pytest.importorskip("ray")
serve: Any = pytest.importorskip("ray.serve")

pytestmark = pytest.mark.filterwarnings("default")  # of Ray's own code

ROOT = Path(__file__).parents[1]
IMAGES = "/v1/images/generations"
SUBJECTS = (None, "s0", "s1")
PATIENCE_S = 600.0  # for replicas to start on a machine that is busy


@dataclass(frozen=True)
class Served:
    """The server on Ray, and one engine of the same base and subjects, over the same HTTP surface."""

    web: httpx.Client
    alone: TestClient


@pytest.fixture(scope="module")
def served(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("subjects")
    base = load_base(str(tiny_folder), "cpu", "float32")
    library = library_of(base, root)
    engine = _engine(base, library)
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    port = _free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    where = {"base": str(tiny_folder), "device": "cpu", "dtype": "float32", "subjects": str(root)}
    sizes = {"batch": 2, "max_active": 64, "min_replicas": 2, "max_replicas": 2}
    serve.run(build_app(where | sizes), name="palp", route_prefix="/")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as web:
        settings = HttpSettings(base=tiny_folder.name)
        yield Served(web, TestClient(create_app(engine, settings), base_url="http://localhost"))
    serve.shutdown()
    ray.shutdown()
    engine.close()


def _engine(base: Base, library: Library) -> BatchEngine:
    return BatchEngine(base, library, None, EngineSettings(max_batch=2, slots=8))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def _body(number: int) -> dict[str, Any]:
    subject = SUBJECTS[number % len(SUBJECTS)]
    prompt = "a sketch of a cat" if subject is None else "a sketch of [V]"
    return {"prompt": prompt, "subject": subject, "seed": number, "steps": 20, "guidance": 2.0}


def _pictures(answer: Any) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"]]


def _same(got: Any, wanted: Any) -> None:
    for left, right in zip(_pictures(got), _pictures(wanted), strict=True):
        assert np.abs(left - right).max() <= 1  # 1e-4 in float32, rounded to 8 bits


def test_a_replica_killed_under_load_loses_no_picture_and_spoils_none(served: Served) -> None:
    bodies = [_body(number) for number in range(12)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        jobs = [pool.submit(served.web.post, IMAGES, json=body) for body in bodies]
        until(lambda: sum(job.done() for job in jobs) >= 3, PATIENCE_S)
        victim = _replicas()[0]
        os.kill(victim, signal.SIGKILL)
        answers = [job.result(PATIENCE_S) for job in jobs]
    for answer, body in zip(answers, bodies, strict=True):
        _same(answer, served.alone.post(IMAGES, json=body))
    assert victim not in _replicas()
    retries = [line for line in served.web.get("/metrics").text.splitlines() if line.startswith("palp_engine_retries")]
    assert float(retries[0].split()[1]) >= 1, "no picture was under way where the replica was killed"


def test_the_whole_surface_is_there(served: Served) -> None:
    web, alone = served.web, served.alone
    for path in ("/v1/models", "/v1/subjects", "/sdapi/v1/sd-models", "/sdapi/v1/loras", "/health", "/ready"):
        assert web.get(path).json() == alone.get(path).json()
    assert "<title>palp</title>" in web.get("/").text
    drawn = {"prompt": "<lora:s0:0.5> a sketch of [V]", "steps": 2, "seed": 1}
    got, wanted = (client.post("/sdapi/v1/txt2img", json=drawn).json()["images"] for client in (web, alone))
    assert np.abs(pixels(base64.b64decode(got[0])) - pixels(base64.b64decode(wanted[0]))).max() <= 1
    body = {**_body(1), "steps": 4, "stream": True, "partial_images": 1, "progress": True}
    with web.stream("POST", IMAGES, json=body) as answer:
        events = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
    assert [events[0], events[-1]] == ["image_generation.queued", "image_generation.completed"]
    assert events.count("image_generation.partial_image") == 1
    for wrong in (
        {"prompt": "a photo of [V]", "steps": 2},
        {"prompt": "a cat", "subject": "s0", "steps": 2},
        {"prompt": "a photo of [V]", "subject": "nobody"},
        {"prompt": "a cat", "unknown": 1},
    ):
        got, wanted = web.post(IMAGES, json=wrong), alone.post(IMAGES, json=wrong)
        assert (got.status_code, got.json()) == (wanted.status_code, wanted.json())


def test_a_subject_can_be_added_and_removed(served: Served) -> None:
    picture = (ROOT / "examples/subjects/dodo/1.png").read_bytes()
    form = {"name": "dodo", "class_word": "cat"}
    assert served.web.post("/v1/subjects", data=form, files=[("images", ("1.png", picture))]).status_code == 202
    assert "dodo" in [entry["name"] for entry in served.web.get("/v1/subjects").json()["data"]]
    assert served.web.delete("/v1/subjects/dodo").status_code == 200


def _replicas() -> list[int]:
    """Process numbers of the replicas of this test's own cluster."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # processes come and go
            if b":Replica" in (entry / "cmdline").read_bytes() and os.getpid() in _ancestors(int(entry.name)):
                found.append(int(entry.name))
    return sorted(found)


def _ancestors(pid: int) -> list[int]:
    line = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        line.append(pid)
    return line
