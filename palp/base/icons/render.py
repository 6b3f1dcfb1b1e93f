"""Render scenes of the picture world from one emoji font, at 128 x 128."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from palp.base.icons.effects import STYLE, palette, weather_over_scene, weather_over_style
from palp.base.icons.grammar import Scene, glyphs
from palp.base.icons.guise import Guise
from palp.base.icons.places import DRAW, SIZE
from palp.errors import InputError

FONT_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "~/.local/share/fonts/NotoColorEmoji.ttf",
)
CELL = 16  # pixels: the grid that things stand on
FONT_PIXELS = 109  # the one bitmap size in Noto Color Emoji


def find_font() -> Path:
    """The emoji font: `$PALP_EMOJI_FONT`, else the usual places. Raises InputError when there is none."""
    named = os.environ.get("PALP_EMOJI_FONT")
    for place in (named,) if named else FONT_PLACES:
        path = Path(place).expanduser()
        if path.is_file():
            return path
    raise InputError(
        f"no emoji font at {named or ', '.join(FONT_PLACES)}: install fonts-noto-color-emoji, "
        "or set PALP_EMOJI_FONT to a NotoColorEmoji.ttf"
    )


@lru_cache(maxsize=1024)
def glyph(codepoint: str) -> Image.Image:
    """The RGBA picture of a glyph such as "U+1F98A", cropped to its ink and padded to a square."""
    font = ImageFont.truetype(str(find_font()), FONT_PIXELS)
    text = chr(int(codepoint.removeprefix("U+"), 16))
    image = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((12, 12), text, font=font, embedded_color=True)
    box = image.getbbox()
    if box is None:
        raise InputError(f"the emoji font has no glyph {codepoint}")
    ink = image.crop(box)
    side = max(ink.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(ink, ((side - ink.width) // 2, side - ink.height))
    return square


@dataclass(frozen=True)
class Layout:
    """Where the things of a scene stand: centre x, bottom y, side, tilt; pixels and degrees."""

    subject: tuple[int, int, int, float]
    companion: tuple[int, int, int, float]
    variant: int
    backdrop: int

    @staticmethod
    def random(rng: np.random.Generator, with_companion: bool) -> Layout:
        """Draw a layout: a subject alone stands near the middle, with a companion to the left of it.

        Things stand on the autoencoder's 16-pixel grid, and the two of a pair have one size, so that the same thing at
        another place is the same latent code, moved: what a small denoiser learns of a shape holds everywhere.
        """
        floor = SIZE - CELL
        alone = (56 + CELL * int(rng.integers(2)), floor, 80, 0.0)
        subject, companion = (32, floor, 64, 0.0) if with_companion else alone, (96, floor, 64, 0.0)
        return Layout(subject, companion, int(rng.integers(3)), int(rng.integers(2**31)))

    def loosened(self, rng: np.random.Generator) -> Layout:
        """The layout off the grid: its things moved by up to 8 pixels, in other sizes and a little tilted."""

        def moved(where: tuple[int, int, int, float]) -> tuple[int, int, int, float]:
            x, bottom, side, _ = where
            dx, dy, ds = (int(rng.integers(-8, 9)) for _ in range(3))
            return x + dx, bottom + dy, side + ds, float(rng.uniform(-5, 5))

        return replace(self, subject=moved(self.subject), companion=moved(self.companion))


@lru_cache(maxsize=4096)
def _sprite(codepoint: str, side: int, tilt: int) -> Image.Image:
    picture = glyph(codepoint).resize((side, side), Image.Resampling.LANCZOS)
    return picture.rotate(tilt, Image.Resampling.BICUBIC) if tilt else picture


def _stand(canvas: Image.Image, codepoint: str, where: tuple[int, int, int, float], guise: Guise | None = None) -> None:
    x, bottom, side, tilt = where
    if guise is None:
        picture = _sprite(codepoint, side, round(tilt))
    else:
        worn = guise.worn(glyph(codepoint))
        picture = worn.resize((side, side), Image.Resampling.LANCZOS).rotate(tilt, Image.Resampling.BICUBIC)
    canvas.paste(picture, (x - side // 2, bottom - side), picture)


def render(
    scene: Scene, rng: np.random.Generator, layout: Layout | None = None, guise: Guise | None = None
) -> NDArray[np.uint8]:
    """Draw a scene, `[128, 128, 3]`; `layout` fixes where things stand (two scenes can then be compared)."""
    layout = layout or Layout.random(rng, scene.companion is not None)
    return finish(compose(scene, layout, guise), scene, layout)


def compose(scene: Scene, layout: Layout, guise: Guise | None = None) -> Image.Image:
    """The plain picture before weather, style and palette; the subject in a guise, if one is given."""
    table = glyphs()
    canvas = DRAW[scene.place](np.random.default_rng(layout.backdrop)).convert("RGB")
    codepoint = (guise and guise.codepoint) or table["concepts"].get(scene.subject) or table["subjects"][scene.subject]
    _stand(canvas, codepoint, layout.subject, guise)
    if scene.companion is not None:
        _stand(canvas, table["concepts"][scene.companion], layout.companion)
    return canvas


def finish(canvas: Image.Image, scene: Scene, layout: Layout) -> NDArray[np.uint8]:
    """Weather, style and palette over a composed picture: `[128, 128, 3]`."""
    picture = np.asarray(canvas, dtype=np.float32) / np.float32(255)
    picture = weather_over_scene(picture, scene.weather, layout.variant)
    picture = weather_over_style(STYLE[scene.style](picture), scene.weather, layout.variant)
    picture = palette(picture, scene.palette)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def foreground(layout: Layout, with_companion: bool) -> NDArray[np.float32]:
    """Where the subject and its companion stand, `[128, 128]`, 1 inside their squares."""
    mask = np.zeros((SIZE, SIZE), dtype=np.float32)
    for x, bottom, side, _ in (layout.subject, layout.companion)[: 2 if with_companion else 1]:
        mask[max(bottom - side, 0) : bottom, max(x - side // 2, 0) : x + side // 2] = 1
    return mask
