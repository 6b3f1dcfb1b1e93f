"""OpenAI's `/v1/models`: the base, and each of the caller's subjects that is ready."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from serving.http.problems import Refusal
from serving.http.service import Owner, Service, ServiceOf

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"])


class Model(BaseModel):
    """What pictures can be asked of."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("")
def list_models(service: ServiceOf, owner: Owner) -> ModelList:
    """The base and the subjects that are ready."""
    return ModelList(data=_models(service, owner))


@router.get("/{model}")
def show_model(model: str, service: ServiceOf, owner: Owner) -> Model:
    """One of them."""
    for known in _models(service, owner):
        if known.id == model:
            return known
    raise Refusal(404, "model_not_found", "there is no such model: see /v1/models", "model")


def _models(service: Service, owner: str) -> list[Model]:
    subjects = [subject for subject in service.engine.subjects.list(owner) if subject.state == "ready"]
    base = Model(id=service.settings.base, created=0, owned_by="palp-hyper")
    return [base, *(Model(id=one.name, created=int(one.created), owned_by=owner or "you") for one in subjects)]
