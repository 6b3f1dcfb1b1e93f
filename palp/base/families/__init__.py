"""Kinds of text-to-image pipelines; `find` knows a pipeline's family from the list of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palp.base.families.family import Family
from palp.base.families.stable_diffusion import StableDiffusion
from palp.base.families.stable_diffusion_xl import StableDiffusionXL
from palp.base.families.unet import SITES


def find(parts: Mapping[str, Any]) -> Family | None:
    """The family of a pipeline whose `model_index.json` holds `parts`; None if we know no such kind."""
    return StableDiffusionXL.match(parts) or StableDiffusion.match(parts)


__all__ = ["SITES", "Family", "StableDiffusion", "StableDiffusionXL", "find"]
