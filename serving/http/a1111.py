"""What clients of A1111's web interface call: drawing, progress, interruption, and the lists they ask for first."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from palp.errors import InputError
from palp.settings import MOST_SEED
from serving.contract import PictureRequest
from serving.http.drawing import Drawing
from serving.http.images import check_limits, timing_headers
from serving.http.service import Owner, Service, ServiceOf
from serving.http.sizes import fit, side_of
from serving.http.sse import unless_gone

__all__ = ["router"]

Scheduler = Literal["ddim", "dpm++2m", "euler"]
SAMPLERS: dict[str, Scheduler] = {"DDIM": "ddim", "DPM++ 2M": "dpm++2m", "Euler": "euler"}
ALIASES: dict[str, Scheduler] = {"dpm++ 2m karras": "dpm++2m", "euler a": "euler"}  # the nearest we have
SUBJECT_TAG = re.compile(r"<lora:([A-Za-z0-9][A-Za-z0-9._-]*)(?::(-?[0-9.]+))?>")
PREVIEWS = 4
Count = Annotated[int, Field(ge=1, le=64)]

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])


class Override(BaseModel):
    """Of A1111's settings the one that a picture can have of its own."""

    model_config = ConfigDict(extra="ignore", strict=True)

    sd_model_checkpoint: str | None = Field(None, max_length=64)


class TextToImage(BaseModel):
    """A subject is named as `<lora:NAME:SCALE>` in the prompt, or as sd_model_checkpoint in override_settings.

    Fields that are not listed are for features that this server does not have; they are accepted and do nothing.
    """

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    prompt: str = Field("", max_length=4000)
    negative_prompt: str = Field("", max_length=4000)
    seed: int = Field(-1, ge=-1, le=MOST_SEED, description="-1 is a random one.")
    steps: int = Field(20, ge=1, le=1000)
    cfg_scale: float | None = Field(None, ge=0, le=50)
    width: int | None = Field(None, ge=1, le=10_000, description="The base's own by default.")
    height: int | None = Field(None, ge=1, le=10_000)
    batch_size: Count = 1
    n_iter: Count = 1
    sampler_name: str | None = Field(None, max_length=64)
    sampler_index: str | None = Field(None, max_length=64)
    override_settings: Override | None = None
    enable_hr: Literal[False] = False
    restore_faces: Literal[False] | None = None
    tiling: Literal[False] | None = None
    script_name: Literal[""] | None = None
    send_images: bool = True


class TextToImageResponse(BaseModel):
    """Base64 of PNGs, what was asked for, and JSON on what was done."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class ProgressState(BaseModel):
    """What is going on."""

    skipped: bool = False
    interrupted: bool
    job: str
    job_count: int
    job_no: int = 0
    sampling_step: int
    sampling_steps: int


class Progress(BaseModel):
    """How far the caller's pictures are, 0 to 1."""

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None
    textinfo: str | None = None


@router.post("/txt2img", responses={200: {"model": TextToImageResponse}})
async def draw(body: TextToImage, request: Request, service: ServiceOf, owner: Owner) -> Response:
    """Draw pictures."""
    request.state.prompt = body.prompt
    side = _side(body, service)
    drawing = service.draw(owner, _requests(body, service, owner))
    jobs = service.jobs.setdefault(owner, [])
    jobs.append(drawing)
    try:
        done = await unless_gone(request, drawing.finished())
    finally:
        drawing.close()
        jobs.remove(drawing)
    pictures = await asyncio.to_thread(lambda: [fit(one.picture, side) for one in done])
    images = [base64.b64encode(png).decode() for png in pictures] if body.send_images else []
    answer = {"images": images, "parameters": body.model_dump(), "info": _info(body, drawing)}
    return JSONResponse(answer, headers=timing_headers([one.details for one in done]))


@router.get("/progress")
def progress(service: ServiceOf, owner: Owner, skip_current_image: bool = False) -> Progress:
    """How far the caller's pictures are."""
    jobs = list(service.jobs.get(owner, ()))
    if not jobs:
        state = ProgressState(interrupted=False, job="", job_count=0, sampling_step=0, sampling_steps=0)
        return Progress(progress=0.0, eta_relative=0.0, state=state, current_image=None)
    first, fraction = jobs[0], jobs[0].fraction
    steps = first.requests[0].steps
    preview = None if skip_current_image else first.preview
    state = ProgressState(
        interrupted=first.interrupted,
        job="txt2img",
        job_count=sum(len(job.requests) for job in jobs),
        sampling_step=int(fraction * steps),
        sampling_steps=steps,
    )
    return Progress(
        progress=fraction,
        eta_relative=(time.monotonic() - first.started) * (1 - fraction) / fraction if fraction else 0.0,
        state=state,
        current_image=None if preview is None else base64.b64encode(preview).decode(),
    )


@router.post("/interrupt")
async def interrupt(service: ServiceOf, owner: Owner) -> dict[str, str]:
    """Stop the caller's pictures at the next step; those that are done are still answered."""
    for job in service.jobs.get(owner, ()):
        job.interrupt()
    return {}


@router.get("/sd-models")
def models(service: ServiceOf, owner: Owner) -> list[dict[str, str | None]]:
    """The base and the caller's subjects."""
    names = [service.settings.base, *_subjects(service, owner)]
    unknown = dict.fromkeys(("hash", "sha256", "config"))
    return [{"title": name, "model_name": name, "filename": name, **unknown} for name in names]


@router.get("/loras")
def loras(service: ServiceOf, owner: Owner) -> list[dict[str, Any]]:
    """The caller's subjects."""
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in _subjects(service, owner)]


@router.get("/samplers")
def samplers() -> list[dict[str, Any]]:
    """What steps can be taken by."""
    return [{"name": name, "aliases": [ours], "options": {}} for name, ours in SAMPLERS.items()]


@router.get("/options")
def options(service: ServiceOf) -> dict[str, Any]:
    """Settings that clients look at; they cannot be changed for all callers."""
    return {"sd_model_checkpoint": service.settings.base, "samples_format": "png", "live_previews_enable": True}


@router.post("/options")
def set_options(wanted: dict[str, Any], service: ServiceOf) -> None:
    """Accepts what is so already; nothing can be changed for all callers, and a change is refused."""
    known = options(service)
    for name, value in wanted.items():
        if name not in known:
            raise InputError(f"there is no option {name[:80]!r}: there are {', '.join(known)}")
        if value != known[name]:
            raise InputError(
                f"{name} is {known[name]!r} for all callers, and is not changed: name a subject in a picture's "
                "override_settings, or as <lora:NAME:SCALE> in its prompt"
            )


def _subjects(service: Service, owner: str) -> list[str]:
    return [subject.name for subject in service.engine.subjects.list(owner) if subject.state == "ready"]


def _side(body: TextToImage, service: Service) -> int | None:
    if body.width is None and body.height is None:
        return None
    return side_of(f"{body.width or body.height}x{body.height or body.width}", service.settings.max_side)


def _requests(body: TextToImage, service: Service, owner: str) -> list[PictureRequest]:
    count = body.batch_size * body.n_iter
    check_limits(service, count, body.steps)
    seed = secrets.randbelow(2**31) if body.seed == -1 else body.seed
    if seed > MOST_SEED - (count - 1):
        raise InputError(f"seed is {seed}, and leaves no room for {count} pictures: choose a smaller one")
    subject, scale, prompt = _subject(body, service)
    return [
        PictureRequest(
            prompt=prompt,
            negative_prompt=body.negative_prompt,
            subject=subject,
            owner=owner,
            subject_scale=scale,
            seed=seed + index,
            steps=body.steps,
            guidance=body.cfg_scale,
            scheduler=_scheduler(body.sampler_name or body.sampler_index),
            previews=min(PREVIEWS, body.steps),
            deadline_s=service.settings.deadline_s,
        )
        for index in range(count)
    ]


def _subject(body: TextToImage, service: Service) -> tuple[str | None, float, str]:
    """The subject, its scale, and the prompt without the tag that named it."""
    tags = SUBJECT_TAG.findall(body.prompt)
    if len(tags) > 1:
        raise InputError("the prompt names several <lora:…>: one subject can be drawn at a time")
    prompt = " ".join(SUBJECT_TAG.sub(" ", body.prompt).split())
    if "<lora:" in prompt:
        raise InputError("the prompt has a <lora:…> that names no subject: write it as <lora:NAME:SCALE>")
    if tags:
        name, scale = tags[0]
        try:
            return name, float(scale or 1), prompt
        except ValueError:
            raise InputError(f"the scale of {name} is {scale!r}, and must be a number such as 0.8") from None
    model = None if body.override_settings is None else body.override_settings.sd_model_checkpoint
    return (None if model in ("", service.settings.base) else model), 1.0, prompt


def _scheduler(name: str | None) -> Scheduler:
    if not name:
        return "ddim"
    known = {ours: ours for ours in SAMPLERS.values()} | {label.lower(): ours for label, ours in SAMPLERS.items()}
    found = (known | ALIASES).get(name.lower())
    if found is None:
        raise InputError(f"the sampler is {name!r}, and must be one of {', '.join(SAMPLERS)}")
    return found


def _info(body: TextToImage, drawing: Drawing) -> str:
    seeds = [request.seed for request in drawing.requests]
    info = {"prompt": body.prompt, "negative_prompt": body.negative_prompt, "seed": seeds[0], "all_seeds": seeds}
    more = {"steps": body.steps, "cfg_scale": body.cfg_scale, "interrupted": drawing.interrupted}
    return json.dumps(info | more)
