"""Settings to start from, for each form of training; the command line's options go over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from palp.base.icons import GUIDANCE
from palp.opening import Opening
from palp.train import TrainSettings

__all__ = ["Form", "guidance_scale", "opening_of", "recipe"]

Form: TypeAlias = Literal["subject", "joint", "residual"]

PAPER: Mapping[Form, Mapping[str, Any]] = {  # rank, rate and steps of the paper; its batch of 32 on one GPU
    "subject": {"rank": 32, "lr": 5e-5, "lr_placeholder": 5e-4, "steps": 500, "batch": 8},
    "joint": {"rank": 32, "lr": 5e-5, "lr_placeholder": 5e-4, "steps": 500, "batch": 8},
    "residual": {"rank": 16, "lr": 1e-4, "steps": 500, "batch": 8, "schedule": "cosine", "gamma": 1.0},
}
LEARNED = {
    "sites": "cross-kv-ff", "rank": 32, "vectors": 4, "lr": 1e-3, "lr_placeholder": 5e-3, "steps": 400,
    "schedule": "cosine", "warmup": 10,
}  # fmt: skip
SMALL: Mapping[Form, Mapping[str, Any]] = {  # the embedded base: 8 x 8 latents, learned in a minute
    "subject": LEARNED,
    "joint": {**LEARNED, "guidance_weight": 0.01},
    "residual": {
        "sites": "cross-kv-ff", "rank": 8, "lr": 1.5e-3, "steps": 80, "schedule": "cosine", "warmup": 10,
        "gamma": 1.5, "subject_scale": 0.8,
    },
}  # fmt: skip


def recipe(base: str, form: Form, changes: Mapping[str, Any] | None = None) -> TrainSettings:
    """The settings for a form of training on a base, with changes.

    Args:
        base: its name; "icons" is the embedded one.

    Raises:
        InputError: a change that is no setting, or a value out of its range.
    """
    wanted = dict(changes or {})
    values = {**(SMALL if base == "icons" else PAPER)[form], **wanted}
    if values.get("optimizer") == "prodigy":  # it finds the step size itself, and lr is a factor on it
        lr = wanted.get("lr", 1.0)
        values |= {"lr": lr, "lr_placeholder": wanted.get("lr_placeholder", lr)}
    return TrainSettings.from_mapping(values)


def guidance_scale(base: str) -> float:
    """Classifier-free guidance to draw with on a base of that name, unless asked otherwise."""
    return GUIDANCE if base == "icons" else 7.5


def opening_of(base: str, share: float | None = None) -> Opening:
    """How pictures of subjects open on a base of that name, which is unmeasured on all but the embedded one.

    Args:
        share: in the place of the base's own.

    Raises:
        InputError: a share that is none.
    """
    own = Opening(0.4, 0.5, 7.5) if base == "icons" else Opening()
    return own if share is None else replace(own, share=share)
