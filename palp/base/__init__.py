"""One interface over text-to-image bases."""

from palp.base.base import Base, Shown
from palp.base.families import SITES
from palp.base.load import base_from_pipeline, load_base
from palp.base.sample import sample
from palp.base.schedule import NoiseSchedule
from palp.base.text import Placeholders, TextShape, TextState

__all__ = [
    "SITES",
    "Base",
    "NoiseSchedule",
    "Placeholders",
    "Shown",
    "TextShape",
    "TextState",
    "base_from_pipeline",
    "load_base",
    "sample",
]
