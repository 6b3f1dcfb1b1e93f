"""Draw the example subjects: four 128-pixel pictures each of three characters that the embedded base never saw.

python examples/make_subjects.py        # writes examples/subjects/NAME/1.png … 4.png, the same each time
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from palp.atomic import atomic_write
from palp.base.icons.grammar import training_subjects
from palp.base.icons.render import glyph

SUBJECTS = ("dodo", "llama", "pickup truck")
PICTURES = 4
SIZE = 128
BACKDROPS = (  # top and bottom: a plain wall, two wide gradients, a wall with a floor
    ((244, 244, 240), (244, 244, 240)),
    ((250, 222, 150), (246, 186, 120)),
    ((176, 214, 246), (224, 240, 252)),
    ((206, 198, 222), (150, 138, 170)),
)
FLOOR_FROM = 96  # the last backdrop's floor begins at this row

Colour = tuple[int, int, int]


def main() -> None:
    """Write every picture of every subject."""
    folder = Path(__file__).parent / "subjects"
    for name in SUBJECTS:
        entry = training_subjects()[name]
        assert entry["split"] == "train", f"{name} is kept for reports"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for index, backdrop in enumerate(BACKDROPS[:PICTURES]):
            picture = draw(entry["codepoint"], backdrop, floor=index == len(BACKDROPS) - 1, rng=rng)
            with atomic_write(folder / name.replace(" ", "-") / f"{index + 1}.png") as temporary:
                picture.save(temporary)


def draw(codepoint: str, backdrop: tuple[Colour, Colour], floor: bool, rng: np.random.Generator) -> Image.Image:
    """One picture of a glyph, somewhere near the middle, a little turned."""
    canvas = gradient(*backdrop)
    if floor:
        ImageDraw.Draw(canvas).rectangle((0, FLOOR_FROM, SIZE, SIZE), fill=backdrop[0])
    side = int(rng.integers(76, 96))
    tilt = float(rng.uniform(-6, 6))
    sprite = glyph(codepoint).resize((side, side), Image.Resampling.LANCZOS)
    sprite = sprite.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    x, bottom = SIZE // 2 + int(rng.integers(-9, 10)), 113 + int(rng.integers(-5, 6))
    canvas.paste(sprite, (x - sprite.width // 2, bottom - sprite.height), sprite)
    return canvas


def gradient(top: Colour, bottom: Colour) -> Image.Image:
    """A backdrop that goes from one colour to another."""
    share = np.linspace(0, 1, SIZE)[:, None, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return Image.fromarray(np.repeat(rows, SIZE, axis=1).round().astype(np.uint8))


if __name__ == "__main__":
    main()
