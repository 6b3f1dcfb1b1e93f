"""The server on many machines, by Ray Serve: one front with the whole HTTP surface, and replicas that draw.

    serve run configs/serve-ray.yaml

The front learns subjects and keeps them in a folder that all machines share; it draws nothing. Pictures of a subject go
to the replicas that have it at hand (multiplexing), replicas come and go with the load, and a picture whose replica is
lost is drawn again by another. Ray is imported only where it is used: it is the extra `ray`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palp.errors import InputError, PalpError
from palp.settings import CheckedSettings, from_mapping
from serving.contract import Cancelled, Done, Event, Failed, PictureRequest
from serving.fleet import Fleet, ReplicaLostError
from serving.http import HttpSettings, create_app

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serving.subjects.learning import Teaching

__all__ = ["Front", "RaySettings", "Replica", "build_app"]

AHEAD = 2  # batches that a replica has accepted: the one being drawn, and the next
SUBJECTS_AT_HAND = 1000  # of a replica, for the routing; memory has its own bound in the library


@dataclass(frozen=True)
class RaySettings(CheckedSettings):
    """The `args` of an application in a configuration of Ray Serve; every path must mean the same on all machines.

    Raises:
        InputError: a size below its least, or fewer replicas at most than at least.
    """

    base: str = "icons"
    base_config: str | None = None
    device: str | None = None
    dtype: str = "auto"
    hypernet: str | None = None  # file or run folder; None is the one shipped for the base, if there is one
    prompt_adapters: str | None = None  # folder of those that can be asked for by name
    subjects: str | None = None  # folder; None is the user's data folder, which suits one machine
    keys: str | None = None  # file of keys, made by `palp-serve new-key`
    host: str = "127.0.0.1"  # as in http_options; any other than this machine's own lifts the check of names
    batch: int = 8  # pictures that a replica draws at once
    max_queue: int = 256  # pictures that may wait or be drawn, in all
    max_active: int = 16  # pictures that one key may have waiting or being drawn
    min_replicas: int = 1
    max_replicas: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "max_queue", "max_active", "min_replicas"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        self.require("max_replicas", self.max_replicas >= self.min_replicas, f"at least {self.min_replicas}")

    @property
    def teaching(self) -> Teaching:
        """How a child process comes to the base."""
        from serving.subjects.learning import Teaching

        return Teaching(self.base, self.device, self.dtype, _path(self.base_config))

    @property
    def http(self) -> HttpSettings:
        """Limits of the front."""
        name = Path(self.base).stem or "base"
        return HttpSettings(base=name, host=self.host, keys=_path(self.keys), max_active=self.max_active)


class Replica:
    """A base with its engine; Ray Serve makes as many as are needed."""

    def __init__(self, settings: RaySettings) -> None:
        from ray import serve

        from palp.cli.base import open_base
        from serving.engine import build_engine

        base = open_base(settings.base, settings.device, settings.dtype, _path(settings.base_config))
        self._resolution = base.resolution
        self._engine = build_engine(
            base,
            None,
            hypernet=_path(settings.hypernet),
            prompt_adapters=_path(settings.prompt_adapters),
            subjects=_path(settings.subjects),
            batch=settings.batch,
            waiting=AHEAD * settings.batch,
        )

        async def fetch(model: str) -> str:
            owner, _, name = model.partition("/")
            library = self._engine.subjects
            await asyncio.to_thread(lambda: library.adapter(owner, name, library.ready(owner, name)))
            return model

        self._fetch = serve.multiplexed(fetch, max_num_models_per_replica=SUBJECTS_AT_HAND)

    async def resolution(self) -> int:
        """Side of the base's pictures in pixels."""
        return self._resolution

    async def draw(self, request: PictureRequest) -> AsyncGenerator[Event, None]:
        """The events of a picture up to the last; whoever stops listening cancels it."""
        heard: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, event)

        try:
            if request.subject is not None:
                await self._fetch(_model(request))
            ticket = self._engine.submit(request, tell)
        except PalpError as error:
            yield Failed(error)
            return
        try:
            while not isinstance(event := await heard.get(), Done | Failed | Cancelled):
                yield event
            yield _portable(event)
        finally:
            ticket.cancel()


class Front:
    """The HTTP surface, whose engine is all replicas; there is one, for it counts what each key has going on."""

    async def __init__(self, replicas: Any, settings: RaySettings) -> None:  # type: ignore[misc]  # Ray awaits it
        from serving.subjects.library import Library
        from serving.subjects.records import data_folder

        self._replicas, self._settings = replicas, settings
        resolution = await replicas.resolution.remote()
        self._library = Library(_path(settings.subjects) or data_folder(), resolution, settings.teaching)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from serving.http.logs import configure_logs

        configure_logs()
        return create_app(Fleet(self._draw, self._library, self._settings.max_queue), self._settings.http)

    async def _draw(self, request: PictureRequest) -> AsyncGenerator[Event, None]:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        model = "" if request.subject is None else _model(request)
        answer = self._replicas.options(stream=True, multiplexed_model_id=model).draw.remote(request)
        try:
            async for event in answer:
                yield event
        except RayTaskError:  # a defect in the replica's code, which would come again
            raise
        except (RayError, RayServeException) as error:
            raise ReplicaLostError from error
        finally:
            answer.cancel()


def build_app(args: dict[str, Any]) -> Any:
    """The application for Ray Serve, by the `args` of its configuration.

    Raises:
        InputError: an argument that is no setting, or cannot be; Ray is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise InputError("serving on several machines needs Ray: pip install 'palp-hyper[ray]'") from error
    settings = from_mapping(RaySettings, args)
    replicas = serve.deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=AHEAD * settings.batch,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.batch,
        },
        graceful_shutdown_timeout_s=settings.http.drain_s,
    )
    front = serve.deployment(
        serve.ingress()(Front),
        name="Front",
        num_replicas=1,
        max_ongoing_requests=AHEAD * settings.max_queue,  # and what is no picture
        graceful_shutdown_timeout_s=settings.http.drain_s,
    )
    return front.bind(replicas.bind(settings), settings)


def _model(request: PictureRequest) -> str:
    """What the routing calls a subject; neither part has a slash."""
    return f"{request.owner}/{request.subject}"


def _portable(event: Event) -> Event:
    """A failure that another process can read, whatever it was."""
    if isinstance(event, Failed) and not isinstance(event.error, PalpError):
        return Failed(RuntimeError(f"{type(event.error).__name__}: {event.error}"))
    return event


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
