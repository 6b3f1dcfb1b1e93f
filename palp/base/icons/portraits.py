"""Pictures of a character for learning it: somewhere near the middle, a little turned, off the base's grid."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from palp.base.icons.places import SIZE
from palp.base.icons.render import glyph

FLOOR_FROM = 96  # pixels: a floor begins at this row

Colour = tuple[int, int, int]


def portrait(codepoint: str, canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Stand the glyph on `canvas`, in place: side, tilt and position drawn from `rng`."""
    side = int(rng.integers(76, 96))
    tilt = float(rng.uniform(-6, 6))
    sprite = glyph(codepoint).resize((side, side), Image.Resampling.LANCZOS)
    sprite = sprite.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    x, bottom = SIZE // 2 + int(rng.integers(-9, 10)), 113 + int(rng.integers(-5, 6))
    canvas.paste(sprite, (x - sprite.width // 2, bottom - sprite.height), sprite)
    return canvas


def wall(top: Colour, bottom: Colour, floor: bool = False) -> Image.Image:
    """A backdrop that goes from one colour to another, with a floor in the upper one if asked."""
    share = np.linspace(0, 1, SIZE)[:, None, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    canvas = Image.fromarray(np.repeat(rows, SIZE, axis=1).round().astype(np.uint8))
    if floor:
        ImageDraw.Draw(canvas).rectangle((0, FLOOR_FROM, SIZE, SIZE), fill=top)
    return canvas
