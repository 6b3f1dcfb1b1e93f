"""The server as a process: commands, health, metrics, logs, foreign pages, and stopping."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from palp.errors import InputError
from serving.http import HttpSettings
from serving.http.keys import Keys
from serving.http.logs import LOG, configure_logs
from serving.http.server import listen
from tests.commands import PALP_SERVE, refuses, succeeds
from tests.http_engine import WEB, FakeEngine, running, until

IMAGES = "/v1/images/generations"
ROOT = Path(__file__).parent.parent
SERVED = """
import sys
from serving.http import HttpSettings, serve
from tests.http_engine import FakeEngine
serve(FakeEngine(step_s=0.02), HttpSettings(port=0), lambda url: print(url, flush=True))
print("closed", flush=True)
"""


def test_health_metrics_and_page() -> None:
    with running(FakeEngine()) as (address, _):
        assert WEB.get(f"{address}/health").json() == WEB.get(f"{address}/ready").json() == {"status": "ok"}
        assert WEB.post(address + IMAGES, json={"prompt": "a cat", "steps": 3}).status_code == 200
        WEB.get(f"{address}/v1/subjects/nobody")
        WEB.request("BREW", f"{address}/nowhere")
        metrics = WEB.get(f"{address}/metrics").text
        for line in (
            'palp_http_requests_total{method="POST",route="/v1/images/generations",status="200"} 1.0',
            'palp_http_requests_total{method="GET",route="/v1/subjects/{name}",status="404"} 1.0',
            'palp_http_requests_total{method="other",route="other",status="404"} 1.0',
            "palp_engine_queue 0.0",
            "palp_engine_slots 4.0",
            "palp_step_seconds_count 3.0",
            "palp_batch_size_count 3.0",
            "palp_predict_seconds_count 0.0",
        ):
            assert line in metrics.splitlines()
        page = WEB.get(address)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "<title>palp</title>" in page.text
        for line in page.text.split('"'):
            if line.startswith("/page/"):
                assert WEB.get(address + line).status_code == 200
        assert "unsafe" not in page.headers["content-security-policy"]
        for path in ("/", "/page/page.js"):
            assert (WEB.head(address + path).status_code, WEB.head(address + path).content) == (200, b"")
            for asked in ("bytes=0-1", "bytes=9999999-", "nonsense"):
                assert WEB.get(address + path, headers={"Range": asked}).status_code == 200


def test_pages_of_other_sites_are_kept_out() -> None:
    with running(FakeEngine()) as (address, _):
        for headers, status in (
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": address}, 200),
            ({"Host": "evil.example"}, 403),
            ({"Host": "[::1"}, 400),
        ):
            answer = WEB.post(address + IMAGES, json={"prompt": "a cat", "steps": 1}, headers=headers)
            assert answer.status_code == status
        plain = WEB.post(address + IMAGES, content='{"prompt": "a"}', headers={"Content-Type": "text/plain"})
        assert plain.status_code == 400


@pytest.mark.parametrize("log_prompts", [False, True])
def test_logs_are_json_and_hold_prompts_only_when_asked(log_prompts: bool, capsys: pytest.CaptureFixture[str]) -> None:
    before = LOG.handlers, LOG.propagate, LOG.level
    try:
        with running(FakeEngine(), HttpSettings(log_prompts=log_prompts)) as (address, _):
            configure_logs()
            for prompt in ("a secret cat", "boom"):
                WEB.post(address + IMAGES, json={"prompt": prompt}, headers={"X-Request-Id": "r-1"})
            until(lambda: len(LOG.handlers) == 1)
            logging.getLogger("serving.subjects.learner").error("stumbled")
    finally:
        LOG.handlers, LOG.propagate = before[0], before[1]
        LOG.setLevel(before[2])
        for name in ("serving", "uvicorn"):
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "stumbled" in [line["event"] for line in lines]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["status"], line["request_id"]) for line in requests] == [(200, "r-1"), (500, "r-1")]
    assert requests[0].get("prompt") == ("a secret cat" if log_prompts else None)
    assert any("ZeroDivisionError" in line.get("traceback", "") for line in lines)
    assert ("secret cat" in json.dumps(lines)) == log_prompts


def test_draining_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    engine = FakeEngine()
    engine.hold_at = 10
    with running(engine) as (address, server), ThreadPoolExecutor(1) as pool:
        job = pool.submit(WEB.post, address + IMAGES, json={"prompt": "a cat", "steps": 100})
        until(lambda: engine.busy)
        server.drain()
        refused = WEB.post(address + IMAGES, json={"prompt": "a dog"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert (WEB.get(f"{address}/ready").status_code, WEB.get(f"{address}/health").status_code) == (503, 200)
        engine.hold_at = None
        assert job.result(60).status_code == 200
        until(lambda: server.should_exit)


def test_sigterm_drains_and_ends_the_process_well() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVED],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    statuses: list[int] = []
    body = {"prompt": "a cat", "steps": 150}
    job = threading.Thread(target=lambda: statuses.append(WEB.post(address + IMAGES, json=body).status_code))
    job.start()
    until(lambda: "palp_engine_active 1.0" in WEB.get(f"{address}/metrics").text)
    process.send_signal(signal.SIGTERM)
    job.join(60)
    out, err = process.communicate(timeout=60)
    assert (statuses, process.returncode, out) == ([200], 0, "closed\n"), err
    assert any(json.loads(line)["event"] == "drained" for line in err.splitlines())


def test_new_key_prints_a_key_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = succeeds(PALP_SERVE, "new-key", "ann", "--keys", path).strip()
    assert Keys.read(path).owner(f"Bearer {key}") == "ann"
    assert "has a key" in refuses(PALP_SERVE, "new-key", "ann", "--keys", path)


def test_settings_and_addresses_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"max_side is 0"):
        HttpSettings(max_side=0)
    with listen(HttpSettings(port=0)) as taken, pytest.raises(InputError, match=r"cannot listen on 127.0.0.1"):
        listen(HttpSettings(port=taken.getsockname()[1]))
    assert [HttpSettings(host=host).local for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "a.example")] == [
        True,
        True,
        True,
        False,
        False,
    ]
