"""Things that look otherwise than their one glyph: bent, mirrored, recoloured, or glyphs that no word names.

A base that knows one picture of every word learns pictures by heart, and cannot draw a character of the user's in
its styles. So thousands of guises have names of their own, which only the training knows (`names.py`): from them the
base learns that the vectors in the place of a noun say what a thing looks like, in any style and place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
from PIL import Image

from palp.base.icons.grammar import Scene, concepts

THING = "thing"  # the subject of a scene that shows what no word names
STRANGERS = 0.6  # share of disguised subjects that no word names
LOOKS = 2  # guises of each of these: as the font has it, and changed
BENT = 8  # guises of every concept
BEND = 0.08  # of a side: how far a bent glyph's lattice moves, one deviation
LATTICE = 3  # quads a side


@dataclass(frozen=True)
class Guise:
    """How a thing departs from its glyph; `codepoint`, if any, replaces the glyph itself."""

    seed: int
    strength: float  # 0 leaves it as it is, 1 is as strong as guises get
    codepoint: str | None = None

    def worn(self, picture: Image.Image) -> Image.Image:
        """The RGBA picture in this guise, in the same size."""
        rng = np.random.default_rng(self.seed)
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _recoloured(_bent(picture, rng, BEND * self.strength), rng, self.strength)


@cache
def catalogue() -> tuple[tuple[str, Guise], ...]:
    """Every guise that has a name, at its number: what it is a guise of, `THING` or a concept, and itself."""
    strange = [(THING, codepoint, look) for codepoint in strangers() for look in range(LOOKS)]
    bent = [(word, None, look + 1) for word in concepts() for look in range(BENT)]
    strength = np.random.default_rng(0).uniform(0.3, 1.0, len(strange) + len(bent))
    return tuple(
        (word, Guise(number, float(strength[number]) if look else 0.0, codepoint))
        for number, (word, codepoint, look) in enumerate((*strange, *bent))
    )


def disguised(scene: Scene, rng: np.random.Generator) -> tuple[Scene, int]:
    """The scene with a thing that no word names, or its own subject changed; and the number of the guise."""
    strange = len(strangers()) * LOOKS
    if rng.random() < STRANGERS:
        return replace(scene, subject=THING), int(rng.integers(strange))
    return scene, strange + concepts().index(scene.subject) * BENT + int(rng.integers(BENT))


@cache
def strangers() -> tuple[str, ...]:
    """Codepoints of the font's other glyphs: no concept, no training subject, and none that looks like one of these."""
    table = json.loads(resources.files(__package__).joinpath("glyphs.json").read_text())
    return tuple(f"U+{point}" for line in table["strangers"] for point in line.split())


def _bent(picture: Image.Image, rng: np.random.Generator, deviation: float) -> Image.Image:
    """Every corner of a lattice looks up its picture a little elsewhere."""
    side = picture.width
    at = np.linspace(0, side, LATTICE + 1)
    corners = np.stack(np.meshgrid(at, at), axis=-1)
    corners = corners + np.clip(rng.normal(0, deviation * side, corners.shape), -0.25 * side, 0.25 * side)

    def quad(row: int, column: int) -> tuple[float, ...]:
        around = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
        return tuple(float(v) for corner in around for v in corners[corner])

    edges = at.round().astype(int)
    mesh = [
        ((int(edges[c]), int(edges[r]), int(edges[c + 1]), int(edges[r + 1])), quad(r, c))
        for r in range(LATTICE)
        for c in range(LATTICE)
    ]
    return picture.transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _recoloured(picture: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Another hue, saturation and lightness."""
    hue = float(rng.uniform(-0.5, 0.5)) * strength**2
    saturation, lightness = (float(np.exp(strength * rng.normal(0, 0.25))) for _ in range(2))
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + 256 * hue) % 256
    hsv[..., 1:] = np.clip(hsv[..., 1:] * (saturation, lightness), 0, 255)
    out = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    out.putalpha(picture.getchannel("A"))
    return out
