"""What all routes share: the engine, the settings, and who has what going on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request

from serving.contract import Engine, PictureRequest
from serving.http.drawing import Drawing
from serving.http.keys import Keys
from serving.http.limits import Places
from serving.http.metrics import Metrics
from serving.http.settings import HttpSettings

__all__ = ["Owner", "Service", "ServiceOf"]


class Service:
    """One server's state; all of it belongs to the server's loop.

    Raises:
        InputError: the keys file cannot be used.
    """

    def __init__(self, engine: Engine, settings: HttpSettings) -> None:
        self.engine, self.settings = engine, settings
        self.keys = None if settings.keys is None else Keys.read(settings.keys)
        self.metrics = Metrics(engine)
        self.pictures = Places("pictures", settings.max_active, settings.retry_after_s)
        self.uploads = Places("uploads", settings.max_uploads, settings.retry_after_s)
        self.jobs: dict[str, list[Drawing]] = {}  # of A1111 clients, whose progress has no other name than the owner
        self.draining = False

    def draw(self, owner: str, requests: Sequence[PictureRequest]) -> Drawing:
        """Hand pictures to the engine; the caller closes the drawing.

        Raises: LimitError, and as `Engine.submit`.
        """
        count = len(requests)
        self.pictures.take(owner, count)
        return Drawing(self.engine, requests, lambda: self.pictures.give(owner, count))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


ServiceOf = Annotated[Service, Depends(_service)]
Owner = Annotated[str, Depends(_owner)]
"""Whose key came with the request; "" where there are no keys."""
