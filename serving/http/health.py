"""For those who look after the server: is it alive, does it take requests, what does it do."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from serving.errors import DrainingError
from serving.http.service import ServiceOf

__all__ = ["router"]

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


@router.get("/health")
async def health() -> Health:
    """The process is alive, also while it stops."""
    return Health()


@router.get("/ready")
async def ready(service: ServiceOf) -> Health:
    """Requests are taken; 503 while the server stops."""
    if service.draining:
        raise DrainingError
    return Health()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: ServiceOf) -> Response:
    """In Prometheus' text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")
