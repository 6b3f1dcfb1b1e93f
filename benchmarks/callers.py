"""Callers of the HTTP server, good and bad, each with what the server may answer."""

from __future__ import annotations

import base64
import io
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image

from benchmarks import setting

PATIENCE_S = 600.0
PNG = b"\x89PNG\r\n\x1a\n"
BAD_BODIES = (
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"prompt": 7}',
    b'{"prompt": "a cat", "steps": -1}',
    b'{"prompt": "a cat", "unknown": true}',
    b'{"prompt": "a photo of [V]", "subject": "../../etc"}',
    b'{"prompt": "' + b"a" * 2**20 + b'"}',
)
SUBJECTS = 8  # names that are uploaded
KEPT = 2  # of these are never deleted, so that they are learned and drawn


@dataclass(frozen=True)
class Answer:
    """What one request came to.

    Args:
        kind: of request.
        outcome: "status 200" and the like, or how it ended otherwise.
        well: whether the server may answer so.
        status: of HTTP, 0 where the caller hung up.
        seconds: until then.
    """

    kind: str
    outcome: str
    well: bool
    status: int
    seconds: float


class Callers:
    """All who call one server.

    Args:
        address: of the server.
        steps: of every picture.
    """

    def __init__(self, address: str, steps: int) -> None:
        self._images, self._subjects = f"{address}/v1/images/generations", f"{address}/v1/subjects"
        self._body = {"prompt": setting.PROMPT, "steps": steps}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._web = httpx.Client(timeout=PATIENCE_S, limits=limits)

    def draw_lots(self, rng: random.Random) -> Callable[[], Answer]:
        """A request by chance, ready to be made on another thread."""
        seed, name = rng.randrange(2**31), f"s{rng.randrange(SUBJECTS)}"
        doomed = f"s{rng.randrange(KEPT, SUBJECTS)}"
        body, wait_s = rng.choice(BAD_BODIES), rng.uniform(0.01, 2.0)
        kinds: list[tuple[Callable[[], Answer], int]] = [
            (lambda: self.picture(seed), 60),
            (lambda: self.picture_of(name, seed), 10),
            (lambda: self.cancel(seed), 8),
            (lambda: self.hang_up(seed, wait_s), 8),
            (lambda: self.babble(body), 8),
            (lambda: self.upload(name, seed), 3),
            (lambda: self.delete(doomed), 3),
        ]
        return rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]

    def picture(self, seed: int = 0) -> Answer:
        """Ask, and wait for the picture."""
        return self._pictured("picture", {**self._body, "seed": seed}, (200, 429))

    def picture_of(self, name: str, seed: int) -> Answer:
        """Of a subject that may be there, being learned, or gone."""
        body = {**self._body, "prompt": setting.TARGET, "subject": name, "seed": seed}
        return self._pictured("picture of a subject", body, (200, 404, 409, 429))

    def cancel(self, seed: int) -> Answer:
        """Ask for previews, and hang up at the first sign of life."""
        body = {**self._body, "seed": seed, "stream": True, "partial_images": 1}

        def call() -> int:
            with self._web.stream("POST", self._images, json=body) as answer:
                next(answer.iter_raw(), b"")
                return answer.status_code

        return self._asked("hung up on a stream", call, (200, 429))

    def hang_up(self, seed: int, wait_s: float) -> Answer:
        """Ask, and be gone after a moment."""
        body, timeout = {**self._body, "seed": seed}, httpx.Timeout(PATIENCE_S, read=wait_s)

        def call() -> int:
            try:
                return self._web.post(self._images, json=body, timeout=timeout).status_code
            except httpx.ReadTimeout:
                return 0

        return self._asked("hung up", call, (0, 200, 429))

    def babble(self, body: bytes) -> Answer:
        """A body that is none."""
        headers = {"Content-Type": "application/json"}

        def call() -> int:
            return self._web.post(self._images, content=body, headers=headers).status_code

        return self._asked("bad body", call, (400, 404, 413, 422))

    def upload(self, name: str, seed: int) -> Answer:
        """A subject of one picture."""
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")

        def call() -> int:
            fields, files = {"name": name, "class_word": "cat"}, [("images", ("1.png", file.getvalue()))]
            return self._web.post(self._subjects, data=fields, files=files).status_code

        return self._asked("upload", call, (202, 409, 429))

    def delete(self, name: str) -> Answer:
        """A subject that may be there."""
        return self._asked("delete", lambda: self._web.delete(f"{self._subjects}/{name}").status_code, (200, 404))

    def _pictured(self, kind: str, body: dict[str, object], allowed: tuple[int, ...]) -> Answer:
        def call() -> int:
            answer = self._web.post(self._images, json=body)
            if answer.status_code == 200:
                drawn = [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]
                if len(drawn) != 1 or not drawn[0].startswith(PNG):
                    raise ValueError(f"{len(drawn)} pictures came, and one PNG was asked for")
            return answer.status_code

        return self._asked(kind, call, allowed)

    def _asked(self, kind: str, call: Callable[[], int], allowed: tuple[int, ...]) -> Answer:
        start = time.monotonic()
        try:
            status = call()
        except Exception as error:  # of the connection or the body: an answer that did not come whole
            return Answer(kind, f"{type(error).__name__}: {error}", False, 0, time.monotonic() - start)
        outcome = f"status {status}" if status else "nobody there"
        return Answer(kind, outcome, status in allowed, status, time.monotonic() - start)
