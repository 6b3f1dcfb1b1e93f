"""The application: routes, what is around them, and the page."""

from __future__ import annotations

from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

import palp
from palp.errors import PalpError
from serving.contract import Engine
from serving.http import a1111, health, images, models, subjects
from serving.http.access import Access
from serving.http.guard import Guard
from serving.http.problems import RESPONSES, answer
from serving.http.service import Service
from serving.http.settings import HttpSettings

__all__ = ["create_app"]

PAGE = Path(__file__).parent / "page"


def create_app(engine: Engine, settings: HttpSettings) -> FastAPI:
    """An ASGI application around an engine, which stays the caller's to close.

    Its `state.service` holds what the routes share.

    Raises:
        InputError: the keys file cannot be used.
    """
    service = Service(engine, settings)
    app = FastAPI(
        title="palp-serve",
        version=palp.__version__,
        description="Pictures of your subjects that follow the whole prompt.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=RESPONSES,
        middleware=[Middleware(Access, service=service), Middleware(Guard, service=service)],
    )
    for kind in (PalpError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)
    app.state.service = service
    key = [] if service.keys is None else [Depends(HTTPBearer(auto_error=False))]  # for the document; Guard checks
    for module in (images, models, subjects, a1111):
        app.include_router(module.router, dependencies=key)
    app.include_router(health.router)
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    return app
