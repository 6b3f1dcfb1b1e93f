"""An engine that keeps the contract and draws flat pictures, and servers around it."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from palp.errors import InputError, PictureError
from serving.contract import (
    Cancelled,
    Details,
    Done,
    Event,
    Failed,
    Listener,
    PictureRequest,
    Queued,
    Step,
    SubjectInfo,
    Ticket,
)
from serving.errors import (
    DeadlineError,
    DrainingError,
    QueueFullError,
    SubjectExistsError,
    SubjectNotReadyError,
    UnknownPromptAdapterError,
    UnknownSubjectError,
)
from serving.http import HttpSettings
from serving.http.keys import add_key
from serving.http.server import Server, listen, make_server

SIDE = 32
STORED = ("beach",)  # the prompt adapters that it keeps
WEB = httpx.Client(timeout=60, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0))
"""One client for all, for each that is made reads the certificates of the system."""


def png(colour: tuple[int, int, int], notes: Mapping[str, str] | None = None, side: int = SIDE) -> bytes:
    """A flat picture."""
    chunks, buffer = PngInfo(), io.BytesIO()
    for key, text in (notes or {}).items():
        chunks.add_itxt(key, text)
    Image.new("RGB", (side, side), colour).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def colour_of(request: PictureRequest) -> tuple[int, int, int]:
    """By all that a picture depends on."""
    parts = (request.prompt, request.subject, request.owner, request.seed, request.prompt_adapter, request.steps)
    red, green, blue = hashlib.sha256(repr(parts).encode()).digest()[:3]
    return red, green, blue


class FakeLibrary:
    """Subjects in memory, learned one at a time in so many seconds."""

    def __init__(self, learn_s: float) -> None:
        self.learn_s = learn_s
        self.pictures: dict[tuple[str, str], list[bytes]] = {}
        self._infos: dict[tuple[str, str], SubjectInfo] = {}
        self._lock = threading.Lock()

    def add(self, owner: str, name: str, class_word: str, pictures: Sequence[bytes]) -> SubjectInfo:
        if class_word == "nonsense":
            raise InputError("the class word 'nonsense' is not known: choose what the base calls such a thing")
        for picture in pictures:
            try:
                Image.open(io.BytesIO(picture)).load()
            except OSError as error:
                raise PictureError("a picture cannot be read: send another") from error
        with self._lock:
            if (owner, name) in self._infos:
                raise SubjectExistsError(name)
            info = SubjectInfo(name, class_word, "waiting", 0.0, len(pictures), time.time())
            self._infos[owner, name], self.pictures[owner, name] = info, list(pictures)
        threading.Thread(target=self._learn, args=(owner, name), daemon=True).start()
        return info

    def list(self, owner: str) -> list[SubjectInfo]:
        with self._lock:
            return sorted((i for (o, _), i in self._infos.items() if o == owner), key=lambda info: info.created)

    def show(self, owner: str, name: str) -> SubjectInfo:
        with self._lock:
            if (owner, name) not in self._infos:
                raise UnknownSubjectError(name)
            return self._infos[owner, name]

    def remove(self, owner: str, name: str) -> None:
        self.show(owner, name)
        with self._lock:
            del self._infos[owner, name], self.pictures[owner, name]

    def _learn(self, owner: str, name: str) -> None:
        for tenth in range(1, 11):
            time.sleep(self.learn_s / 10)
            with self._lock:
                if (info := self._infos.get((owner, name))) is None:
                    return
                fails = info.class_word == "hopeless" and tenth == 5
                state, error = ("failed", "the loss was not finite") if fails else ("learning", None)
                state = "ready" if tenth == 10 else state
                self._infos[owner, name] = replace(info, state=state, progress=tenth / 10, error=error)  # type: ignore[arg-type]
                if fails:
                    return


@dataclass(eq=False)
class FakeTicket:
    request: PictureRequest
    listener: Listener
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    cancelled: bool = False
    ended: bool = False
    step: int = 0
    since: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        self.cancelled = True


class FakeEngine:
    """Draws up to `slots` pictures together, a step every `step_s`; `ends` has every request and its last event."""

    def __init__(
        self, step_s: float = 0.002, slots: int = 4, max_queue: int = 8, learn_s: float = 0.1, faults: str = "boom"
    ) -> None:
        self.subjects = FakeLibrary(learn_s)
        self.step_s, self.slots, self.max_queue, self.faults = step_s, slots, max_queue, faults
        self.hold_at: int | None = None  # no picture goes beyond this step
        self.ends: list[tuple[PictureRequest, str]] = []
        self._waiting: list[FakeTicket] = []
        self._active: list[FakeTicket] = []
        self._observers: list[Callable[[str, float], None]] = []
        self._lock = threading.Condition()
        self._draining = self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, request: PictureRequest, listener: Listener) -> Ticket:
        if request.prompt_adapter not in ("auto", "off", *STORED):
            raise UnknownPromptAdapterError(request.prompt_adapter, STORED)
        if request.subject is not None:
            state = self.subjects.show(request.owner, request.subject).state
            if state != "ready":
                raise SubjectNotReadyError(request.subject, state)
            if "[V]" not in request.prompt:
                raise InputError(f"the prompt {request.prompt!r} does not name the subject: write [V]")
        with self._lock:
            if self._draining or self._closed:
                raise DrainingError
            if len(self._waiting) >= self.max_queue:
                raise QueueFullError(len(self._waiting), 1.5)
            ticket = FakeTicket(request, listener)
            self._tell(ticket, Queued(len(self._waiting)))
            self._waiting.append(ticket)
            self._waiting.sort(key=lambda one: -one.request.priority)
            self._lock.notify_all()
        return ticket

    def stats(self) -> Mapping[str, float]:
        with self._lock:
            sizes = {"queue": len(self._waiting), "active": len(self._active), "slots": self.slots}
        return {**sizes, "cached_predictions": 0, "resident_subjects": 0}

    def observe(self, observer: Callable[[str, float], None]) -> None:
        self._observers.append(observer)

    def drain(self, timeout_s: float) -> bool:
        with self._lock:
            self._draining = True
            return self._lock.wait_for(lambda: not self._waiting and not self._active, timeout_s)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

    @property
    def busy(self) -> int:
        """Pictures that have not ended."""
        with self._lock:
            return len(self._waiting) + len(self._active)

    def picture(self, request: PictureRequest, share: float) -> bytes:
        """The picture when this share of the steps is done: from white to its colour."""
        red, green, blue = (round(255 + (value - 255) * share) for value in colour_of(request))
        return png((red, green, blue), {"prompt": request.prompt, "seed": str(request.seed)})

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._active or self._closed)
                if self._closed:
                    for ticket in self._waiting + self._active:
                        self._tell(ticket, Cancelled())
                    self._waiting, self._active = [], []
                    self._lock.notify_all()
                    return
                while self._waiting and len(self._active) < self.slots:
                    self._active.append(self._waiting.pop(0))
                active = list(self._active)
            time.sleep(self.step_s)
            for name, value in (("batch_size", len(active)), ("step_s", self.step_s)):
                for observer in self._observers:
                    observer(name, float(value))
            for ticket in active:
                self._advance(ticket)
            with self._lock:
                for ticket in [one for one in self._waiting if one.cancelled]:
                    self._tell(ticket, Cancelled())
                self._waiting = [one for one in self._waiting if not one.ended]
                self._active = [one for one in self._active if not one.ended]
                self._lock.notify_all()

    def _advance(self, ticket: FakeTicket) -> None:
        request = ticket.request
        if ticket.cancelled:
            self._tell(ticket, Cancelled())
        elif request.deadline_s is not None and time.monotonic() - ticket.since > request.deadline_s:
            self._tell(ticket, Failed(DeadlineError(request.deadline_s)))
        elif self.faults in request.prompt:
            self._tell(ticket, Failed(ZeroDivisionError("a defect with secrets in it")))
        elif self.hold_at is None or ticket.step < self.hold_at:
            ticket.step += 1
            due = request.previews and ticket.step % max(1, request.steps // (request.previews + 1)) == 0
            last = ticket.step == request.steps
            preview = self.picture(request, ticket.step / request.steps) if due and not last else None
            self._tell(ticket, Step(ticket.step, request.steps, preview))
            if last:
                seconds = dict.fromkeys(("queue", "predict", "compose", "denoise", "decode"), self.step_s)
                details = Details(seconds, 1.0, abstained="abstain" in request.prompt, reliability=0.9)
                self._tell(ticket, Done(self.picture(request, 1.0), details))

    def _tell(self, ticket: FakeTicket, event: Event) -> None:
        if isinstance(event, Done | Failed | Cancelled):
            ticket.ended = True
            self.ends.append((ticket.request, type(event).__name__))
        ticket.listener(event)


@contextmanager
def running(engine: FakeEngine, settings: HttpSettings | None = None) -> Iterator[tuple[str, Server]]:
    """A live server on a free port: its address, and itself."""
    chosen = replace(settings or HttpSettings(), port=0)
    server = make_server(engine, chosen)
    with listen(chosen) as opened:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}", server
        server.should_exit = True
        thread.join(30)
    engine.close()
    assert not thread.is_alive()


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something, and fail when it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def write_keys(folder: Path, *owners: str) -> tuple[Path, dict[str, str]]:
    """A keys file, and the keys."""
    path = folder / "keys"
    return path, {owner: add_key(path, owner) for owner in owners}


def picture_files(count: int = 2) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Pictures for an upload."""
    return [("images", (f"{n}.png", png((40 * n, 80, 120)), "image/png")) for n in range(count)]
