"""`/v1/subjects`: pictures in, a learning that can be watched, and a subject to draw."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from palp.errors import InputError
from serving.contract import SubjectInfo
from serving.errors import UnknownSubjectError
from serving.http.problems import Refusal, problem_of
from serving.http.service import Owner, Service, ServiceOf
from serving.http.sizes import check_upload
from serving.http.sse import PAUSE, PAUSE_S, EventStream, sse

__all__ = ["NAME", "router"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
CLASS_WORD = r"^[^\W_][\w '-]{0,63}$"
LOOK_EVERY_S = 0.2
FIELDS = {"name", "class_word", "images"}
FORM = {
    "type": "object",
    "required": ["name", "class_word", "images"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": NAME},
        "class_word": {"type": "string", "pattern": CLASS_WORD, "description": "What the base calls such a thing."},
        "images": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
    },
}

router = APIRouter(prefix="/v1/subjects", tags=["subjects"])
Name = Annotated[str, Path(pattern=NAME)]


class SubjectView(BaseModel):
    """A subject, and how far its learning is, 0 to 1."""

    object: Literal["subject"] = "subject"
    name: str
    class_word: str
    state: Literal["waiting", "learning", "ready", "failed"]
    progress: float
    pictures: int
    created: int
    error: str | None


class SubjectList(BaseModel):
    """All of the caller's, oldest first."""

    object: Literal["list"] = "list"
    data: list[SubjectView]


class Removed(BaseModel):
    """What is gone."""

    object: Literal["subject.deleted"] = "subject.deleted"
    name: str
    deleted: Literal[True] = True


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
)
async def add_subject(request: Request, service: ServiceOf, owner: Owner) -> SubjectView:
    """Upload pictures of a subject; the learning begins as soon as there is room."""
    service.uploads.take(owner)
    try:
        return await _add(request, service, owner)
    finally:
        service.uploads.give(owner)


@router.get("")
def list_subjects(service: ServiceOf, owner: Owner) -> SubjectList:
    """All of yours."""
    return SubjectList(data=[_view(one) for one in service.engine.subjects.list(owner)])


@router.get("/{name}")
def show_subject(name: Name, service: ServiceOf, owner: Owner) -> SubjectView:
    """One of yours."""
    return _view(service.engine.subjects.show(owner, name))


@router.delete("/{name}")
def remove_subject(name: Name, service: ServiceOf, owner: Owner) -> Removed:
    """Forget a subject, and stop its learning."""
    service.engine.subjects.remove(owner, name)
    return Removed(name=name)


@router.get(
    "/{name}/events",
    status_code=200,
    responses={200: {"content": {"text/event-stream": {}}}},
    response_class=EventStream,
)
async def watch_subject(name: Name, service: ServiceOf, owner: Owner) -> EventStream:
    """Events while a subject is learned: subject.waiting, subject.learning, then subject.ready or subject.failed."""
    await asyncio.to_thread(service.engine.subjects.show, owner, name)  # 404 before the stream begins
    return EventStream(_watch(service, owner, name), lambda: None)


async def _watch(service: Service, owner: str, name: str) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    last, sent = None, loop.time()
    try:
        while not service.draining:
            info = await asyncio.to_thread(service.engine.subjects.show, owner, name)
            if info != last:
                yield sse(f"subject.{info.state}", _view(info).model_dump())
                last, sent = info, loop.time()
            elif loop.time() - sent > PAUSE_S:
                yield PAUSE
                sent = loop.time()
            if info.state in ("ready", "failed"):
                return
            await asyncio.sleep(LOOK_EVERY_S)
    except UnknownSubjectError:
        yield sse("subject.deleted", Removed(name=name).model_dump())
    except Exception as error:  # the head is sent, so the error is an event
        yield sse("error", problem_of(error).body())


async def _add(request: Request, service: Service, owner: str) -> SubjectView:
    settings, library = service.settings, service.engine.subjects
    if len(await asyncio.to_thread(library.list, owner)) >= settings.max_subjects:
        raise Refusal(409, "too_many_subjects", f"you have {settings.max_subjects} subjects, which is all: remove one")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refusal(415, "not_a_form", "send the pictures as multipart/form-data")
    try:
        async with request.form(max_files=settings.max_files, max_fields=8, max_part_size=4096) as form:
            name, class_word = _text(form, "name", NAME), _text(form, "class_word", CLASS_WORD)
            pictures = await _pictures(form, settings.max_pixels)
    except StarletteHTTPException as error:
        if not str(error.detail).startswith("Too many files"):
            raise
        text = f"there are more than {settings.max_files} pictures: choose the best"
        raise Refusal(400, "too_many_pictures", text, "images") from error
    except (FormParserError, UnicodeError) as error:
        raise Refusal(400, "invalid_form", f"the form cannot be read: {error}") from error
    if name == settings.base:
        raise InputError(f"the name {name!r} is the base's: choose another")
    return _view(await asyncio.to_thread(library.add, owner, name, class_word, pictures))


def _text(form: FormData, field: str, pattern: str) -> str:
    value = form.get(field)
    if not isinstance(value, str) or len(form.getlist(field)) != 1 or re.fullmatch(pattern, value) is None:
        raise Refusal(400, "invalid_value", f"{field} must be one text of the form {pattern}", field)
    return value


async def _pictures(form: FormData, most_pixels: int) -> list[bytes]:
    if unknown := sorted(set(form) - FIELDS):
        raise Refusal(400, "unknown_parameter", f"the form has a field {unknown[0]!r}, which is unknown", unknown[0])
    files = [item for item in form.getlist("images") if isinstance(item, UploadFile)]
    if not files or len(files) != len(form.getlist("images")):
        raise Refusal(400, "missing_required_parameter", "images must be one or more files of pictures", "images")
    pictures = []
    for number, file in enumerate(files, start=1):
        pictures.append(await file.read())
        check_upload(f"picture {number}", pictures[-1], most_pixels)
    return pictures


def _view(info: SubjectInfo) -> SubjectView:
    fields: dict[str, Any] = {field: getattr(info, field) for field in ("name", "class_word", "state", "progress")}
    return SubjectView(**fields, pictures=info.pictures, created=int(info.created), error=info.error)
