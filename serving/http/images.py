"""OpenAI's `POST /v1/images/generations`, with subjects and predicted adapters as extensions."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import JSONResponse, Response

from palp.errors import InputError
from palp.settings import MOST_SEED
from serving.contract import Cancelled, Details, Done, Failed, PictureRequest, Queued, Step
from serving.errors import DrainingError
from serving.http.drawing import Drawing
from serving.http.problems import Refusal, problem_of
from serving.http.service import Owner, Service, ServiceOf
from serving.http.sizes import SIZE, fit, png_size, side_of
from serving.http.sse import PAUSE, PAUSE_S, EventStream, sse, unless_gone

__all__ = ["check_limits", "router", "timing_headers"]

NO_TOKENS = {"image_tokens": 0, "text_tokens": 0}
USAGE = {"input_tokens": 0, "input_tokens_details": NO_TOKENS, "output_tokens": 0, "total_tokens": 0}

ADAPTER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

NULLABLE = ("n", "size", "response_format", "output_format", "quality", "background", "stream", "partial_images")

router = APIRouter(prefix="/v1/images", tags=["pictures"])
Scale = Annotated[float, Field(ge=-4, le=4)]


def _nullable(schema: dict[str, Any]) -> None:
    for name in NULLABLE:
        schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": "null"}]}


class ImageRequest(BaseModel):
    """Pictures to draw. The fields up to `user` are OpenAI's, and null is their default; the others are extensions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=_nullable)

    prompt: str = Field(min_length=1, max_length=4000, description="With [V] where the subject is to appear.")
    model: str | None = Field(None, max_length=64, description="The base, or the name of a subject.")
    n: int = Field(1, ge=1, le=64, description="Pictures, with seeds that follow on one another.")
    size: str = Field("auto", pattern=SIZE, description="auto is the base's own; others are square, and enlarged.")
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    quality: Literal["auto", "standard"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=20, description="Previews of each picture, in a stream.")
    user: str | None = Field(None, max_length=256, description="Not used.")
    subject: str | None = Field(None, max_length=64, description="Name of one of your subjects.")
    subject_scale: Scale = 1.0
    prompt_adapter: str = Field(
        "auto", pattern=ADAPTER_NAME, description="auto predicts one, off uses none; or one that the server keeps."
    )
    prompt_adapter_scale: Scale = 1.0
    seed: int | None = Field(None, ge=0, le=MOST_SEED, description="Of the first picture; random by default.")
    steps: int = Field(20, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=50, description="The base's own by default.")
    opening: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the steps in which a subject is drawn as a photo; the base's by default.",
    )
    negative_prompt: str = Field("", max_length=4000)
    scheduler: Literal["ddim", "dpm++2m", "euler"] = "ddim"
    refine: int = Field(0, ge=0, le=1000, description="Steps of training on from the predicted adapter before drawing.")
    priority: int = Field(0, ge=-10, le=10, description="Higher goes first.")
    progress: bool = Field(False, description="In a stream, events for the place in the queue and for each step too.")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None or name not in NULLABLE}


class PictureDetails(BaseModel):
    """How a picture came about: seconds by stage, and what the prediction thinks of itself."""

    seconds: dict[str, float]
    batch_size: float
    abstained: bool
    reliability: float | None


class Picture(BaseModel):
    """A picture as base64 of a PNG, which has notes on how to draw it again."""

    b64_json: str
    seed: int
    details: PictureDetails


class ImagesResponse(BaseModel):
    """OpenAI's answer."""

    created: int
    size: str
    output_format: Literal["png"]
    quality: Literal["auto"]
    background: Literal["opaque"]
    data: list[Picture]


@router.post("/generations", responses={200: {"model": ImagesResponse, "content": {"text/event-stream": {}}}})
async def generate(body: ImageRequest, request: Request, service: ServiceOf, owner: Owner) -> Response:
    """Draw pictures; with `stream`, as events while they are drawn."""
    request.state.prompt = body.prompt
    side = side_of(body.size, service.settings.max_side)
    wanted = await asyncio.to_thread(_requests, body, service, owner)
    drawing = service.draw(owner, wanted)
    if body.stream:
        return EventStream(_stream(drawing, side, body.progress), drawing.close)
    try:
        done = await unless_gone(request, drawing.finished())
    finally:
        drawing.close()
    pictures = await asyncio.to_thread(lambda: [fit(one.picture, side) for one in done])
    data = [_picture(png, one, asked) for png, one, asked in zip(pictures, done, wanted, strict=True)]
    return JSONResponse(
        _head(pictures[0], "created") | {"data": data}, headers=timing_headers([one.details for one in done])
    )


def timing_headers(details: Sequence[Details]) -> dict[str, str]:
    """The longest of each stage in milliseconds, and the mean batch size."""
    stages = dict.fromkeys(stage for one in details for stage in one.seconds)
    longest = {stage: max(one.seconds.get(stage, 0.0) for one in details) for stage in stages}
    timing = ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in longest.items())
    size = sum(one.batch_size for one in details) / max(1, len(details))
    return {"Server-Timing": timing, "X-Batch-Size": f"{size:.2f}"}


def check_limits(service: Service, count: int, steps: int, refine: int = 0, priority: int = 0) -> None:
    """Raise InputError where a request asks for more than the settings allow."""
    settings = service.settings
    for name, value, most in (
        ("the number of pictures", count, settings.max_n),
        ("steps", steps, settings.max_steps),
        ("refine", refine, settings.max_refine),
        ("priority", priority, settings.max_priority),
    ):
        if value > most:
            raise InputError(f"{name} is {value}, and may be {most} at most on this server")


def _requests(body: ImageRequest, service: Service, owner: str) -> list[PictureRequest]:
    check_limits(service, body.n, body.steps, body.refine, body.priority)
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    if seed > MOST_SEED - (body.n - 1):
        raise InputError(f"seed is {seed}, and leaves no room for {body.n} pictures: choose a smaller one")
    subject = _subject(body, service, owner)
    return [
        PictureRequest(
            prompt=body.prompt,
            negative_prompt=body.negative_prompt,
            subject=subject,
            owner=owner,
            prompt_adapter=body.prompt_adapter,
            subject_scale=body.subject_scale,
            prompt_adapter_scale=body.prompt_adapter_scale,
            refine=body.refine,
            seed=seed + index,
            steps=body.steps,
            guidance=body.guidance,
            opening=body.opening,
            scheduler=body.scheduler,
            previews=body.partial_images if body.stream else 0,
            priority=body.priority,
            deadline_s=service.settings.deadline_s,
        )
        for index in range(body.n)
    ]


def _subject(body: ImageRequest, service: Service, owner: str) -> str | None:
    """A subject can be named as such, or as the model."""
    if body.model in (None, service.settings.base):
        return body.subject
    if body.subject not in (None, body.model):
        raise InputError(f"model is {body.model!r} and subject {body.subject!r}: name one of them alone")
    if all(known.name != body.model for known in service.engine.subjects.list(owner)):
        raise Refusal(404, "model_not_found", f"there is no model {body.model!r}: see /v1/models", "model")
    return body.model


async def _stream(drawing: Drawing, side: int | None, progress: bool) -> AsyncIterator[bytes]:
    previews = [0] * len(drawing.requests)
    try:
        async for heard in drawing.events(PAUSE_S):
            if heard is None:
                yield PAUSE
                continue
            index, event = heard
            if isinstance(event, Queued) and progress:
                yield sse("image_generation.queued", {"index": index, "ahead": event.ahead})
            elif isinstance(event, Step):
                if progress:
                    yield sse("image_generation.progress", {"index": index, "step": event.step, "steps": event.steps})
                if event.preview is not None:
                    fields = {"index": index, "partial_image_index": previews[index]}
                    previews[index] += 1
                    yield await _image_event("partial_image", event.preview, side, fields)
            elif isinstance(event, Done):
                last: dict[str, Any] = {"index": index, "seed": drawing.requests[index].seed}
                last |= {"details": _details(event.details), "usage": USAGE}
                yield await _image_event("completed", event.picture, side, last)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Cancelled):
                raise DrainingError
    except Exception as error:  # the head is sent, so the error is an event
        yield sse("error", problem_of(error).body())


async def _image_event(kind: str, picture: bytes, side: int | None, fields: Mapping[str, Any]) -> bytes:
    png = await asyncio.to_thread(fit, picture, side)
    name = f"image_generation.{kind}"
    encoded = {"type": name, "b64_json": base64.b64encode(png).decode()}
    return sse(name, encoded | _head(png, "created_at") | dict(fields))


def _head(png: bytes, created: str) -> dict[str, Any]:
    width, height = png_size(png)
    look = {"output_format": "png", "quality": "auto", "background": "opaque"}
    return {created: int(time.time()), "size": f"{width}x{height}", **look}


def _picture(png: bytes, done: Done, asked: PictureRequest) -> dict[str, Any]:
    return {"b64_json": base64.b64encode(png).decode(), "seed": asked.seed, "details": _details(done.details)}


def _details(details: Details) -> dict[str, Any]:
    return {
        "seconds": dict(details.seconds),
        "batch_size": details.batch_size,
        "abstained": details.abstained,
        "reliability": details.reliability,
    }
