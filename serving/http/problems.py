"""Errors as callers of OpenAI's interface expect them: a status, and one object that says what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from palp.errors import AdapterMismatchError, InputError, OutputError, PalpError
from serving.errors import (
    DeadlineError,
    DrainingError,
    QueueFullError,
    SubjectExistsError,
    SubjectNotReadyError,
    UnknownPromptAdapterError,
    UnknownSubjectError,
)
from serving.http.limits import LimitError

__all__ = ["RESPONSES", "ErrorObject", "Problem", "Refusal", "answer", "problem_of"]

INVALID, LIMITED, SERVER = "invalid_request_error", "rate_limit_error", "server_error"
DRAIN_RETRY_S = 5.0

KINDS: tuple[tuple[type[Exception], int, str, str], ...] = (  # the first that fits
    (UnknownSubjectError, 404, INVALID, "subject_not_found"),
    (UnknownPromptAdapterError, 404, INVALID, "prompt_adapter_not_found"),
    (SubjectNotReadyError, 409, INVALID, "subject_not_ready"),
    (SubjectExistsError, 409, INVALID, "subject_exists"),
    (AdapterMismatchError, 409, INVALID, "subject_of_another_base"),
    (InputError, 400, INVALID, "invalid_value"),
    (QueueFullError, 429, LIMITED, "queue_full"),
    (LimitError, 429, LIMITED, "too_many_at_once"),
    (DrainingError, 503, SERVER, "draining"),
    (DeadlineError, 504, SERVER, "deadline_exceeded"),
    (OutputError, 507, SERVER, "not_written"),
    (PalpError, 500, SERVER, "failed"),
)
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 422: "invalid_value"}
FIELD_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
}


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorObject, "description": text}
    for status, text in (
        (400, "a value that cannot be used"),
        (401, "no key, or an unknown one"),
        (403, "from a page of another site"),
        (404, "no such subject, model or prompt adapter"),
        (408, "head or body came too slowly"),
        (409, "the subject is not in that state"),
        (413, "too large"),
        ("4XX", "any other mistake of the caller's"),
        (429, "too much at once; Retry-After says when to try again"),
        (503, "stopping; Retry-After says when to try again"),
        (504, "not done in time"),
        ("5XX", "a defect of ours"),
    )
}


class Refusal(HTTPException):
    """Refused before any work; FastAPI lets it through also while it reads a body."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(status, message)
        self.code, self.param = code, param


@dataclass(frozen=True)
class Problem:
    """An error on its way to the caller; `retry_after_s` where trying again can help."""

    status: int
    message: str
    type: str = INVALID
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    headers: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer; escaped to ASCII, for a caller's broken characters can be in the message."""
        headers = dict(self.headers or {})
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps(self.body()), self.status, headers, "application/json")


def problem_of(error: Exception) -> Problem:
    """What to tell the caller about an error; nothing of the inside where it is a defect of ours."""
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, Refusal):
        return Problem(error.status_code, error.detail, INVALID, error.code, error.param)
    if isinstance(error, StarletteHTTPException):
        code = HTTP_CODES.get(error.status_code, "invalid_request")
        return Problem(error.status_code, str(error.detail), INVALID, code, headers=error.headers)
    for kind, status, type_, code in KINDS:
        if isinstance(error, kind):
            retry = DRAIN_RETRY_S if status == 503 else getattr(error, "retry_after_s", None)
            return Problem(status, str(error), type_, code, retry_after_s=retry)
    return Problem(500, "something went wrong on our side; the log has it under this request's id", SERVER, "internal")


def answer(_request: object, error: Exception) -> Response:
    """As an exception handler of the application."""
    return problem_of(error).response()


def _invalid(error: RequestValidationError) -> Problem:
    first = error.errors()[0]
    kind = str(first["type"])
    place = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    param = None if kind == "json_invalid" or not place else ".".join(place)
    message = f"{param}: {first['msg']}" if param else f"the request is not as expected: {first['msg']}"
    return Problem(400, message, INVALID, FIELD_CODES.get(kind, "invalid_value"), param)
