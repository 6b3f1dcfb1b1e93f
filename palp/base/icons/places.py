"""Places of the picture world, drawn at 128 x 128 with a little random layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
Rng = np.random.Generator
Colour = tuple[int, int, int]
PLAIN: tuple[Colour, ...] = (
    (240, 240, 240), (250, 214, 92), (246, 168, 178), (142, 200, 246), (128, 198, 132), (178, 140, 214),
    (150, 152, 160),
)  # fmt: skip


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    rows = np.asarray(top)[None, None] * (1 - ramp) + np.asarray(bottom)[None, None] * ramp
    return Image.fromarray(np.repeat(rows, SIZE, axis=1).astype(np.uint8))


def _sky_and_ground(
    sky: tuple[Colour, Colour], ground: Colour, horizon: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = _gradient(*sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, horizon, SIZE, SIZE), fill=ground)
    return image, draw


def _jitter(rng: Rng, spread: int) -> int:
    return int(rng.integers(-spread, spread + 1))


def _plain(rng: Rng) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), PLAIN[int(rng.integers(len(PLAIN)))])


def _beach(rng: Rng) -> Image.Image:
    y = 78 + _jitter(rng, 4)
    image, draw = _sky_and_ground(((120, 196, 246), (206, 236, 252)), (242, 214, 150), y + 16)
    draw.rectangle((0, y - 18, SIZE, y + 6), fill=(38, 128, 200))
    draw.rectangle((0, y + 6, SIZE, y + 16), fill=(104, 190, 224))
    return image


def _forest(rng: Rng) -> Image.Image:
    y = 92 + _jitter(rng, 3)
    image, draw = _sky_and_ground(((150, 196, 160), (196, 224, 180)), (62, 112, 54), y)
    shift = _jitter(rng, 6)
    for i, x in enumerate(range(-8, SIZE + 20, 17)):
        height = 70 + (i * 29) % 22
        colour = ((24, 78, 48), (34, 96, 56), (20, 64, 42))[i % 3]
        draw.polygon([(x + shift - 15, y), (x + shift, y - height), (x + shift + 15, y)], fill=colour)
    return image


def _snow_field(rng: Rng) -> Image.Image:
    y = 80 + _jitter(rng, 4)
    image, draw = _sky_and_ground(((176, 204, 234), (226, 238, 250)), (246, 250, 255), y)
    draw.ellipse((-40, y - 14, 80, y + 40), fill=(234, 242, 252))
    draw.ellipse((50, y - 10, 180, y + 40), fill=(246, 250, 255))
    return image


def _desert(rng: Rng) -> Image.Image:
    y = 82 + _jitter(rng, 4)
    image, draw = _sky_and_ground(((250, 190, 110), (252, 222, 160)), (222, 160, 84), y)
    draw.ellipse((-50, y - 16, 84, y + 60), fill=(206, 142, 70))
    draw.ellipse((40, y - 8, 190, y + 60), fill=(222, 160, 84))
    x = 98 + _jitter(rng, 6)
    draw.ellipse((x, 10, x + 20, 30), fill=(255, 244, 200))
    return image


def _underwater(rng: Rng) -> Image.Image:
    image = _gradient((34, 140, 206), (8, 44, 110))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 112, SIZE, SIZE), fill=(186, 168, 116))
    shift = _jitter(rng, 5)
    for x, y, r in ((14, 30, 5), (24, 62, 4), (108, 22, 6), (116, 54, 4), (100, 84, 3), (12, 92, 4)):
        draw.ellipse((x + shift - r, y - r, x + shift + r, y + r), outline=(176, 226, 250), width=2)
    for x in (6, 118):
        draw.rectangle((x + shift, 88, x + shift + 5, 114), fill=(30, 130, 84))
    return image


def _city(rng: Rng) -> Image.Image:
    image, draw = _sky_and_ground(((130, 176, 222), (206, 222, 238)), (84, 86, 94), 106)
    shift = _jitter(rng, 5)
    for i, x in enumerate(range(-10, SIZE + 10, 22)):
        top = 26 + (i * 37) % 36
        left = x + shift
        draw.rectangle((left, top, left + 19, 106), fill=((92, 102, 124), (112, 122, 142), (78, 86, 108))[i % 3])
        for wy in range(top + 6, 100, 12):
            for wx in (left + 4, left + 12):
                draw.rectangle((wx, wy, wx + 4, wy + 5), fill=(248, 228, 140))
    return image


def _meadow(rng: Rng) -> Image.Image:
    y = 76 + _jitter(rng, 4)
    image, draw = _sky_and_ground(((118, 190, 250), (202, 232, 254)), (112, 194, 74), y)
    draw.ellipse((30, y - 12, 190, y + 60), fill=(126, 206, 86))
    for i, x in enumerate(range(6, SIZE, 15)):
        fy = 104 + (i * 23) % 20
        draw.ellipse((x - 3, fy - 3, x + 3, fy + 3), fill=((244, 96, 130), (252, 224, 80), (250, 250, 250))[i % 3])
    return image


def _mountains(rng: Rng) -> Image.Image:
    y = 96
    image, draw = _sky_and_ground(((136, 182, 232), (214, 230, 246)), (104, 146, 92), y)
    shift = _jitter(rng, 8)
    for x, top, half in ((22, 34, 44), (100, 26, 48), (62, 48, 36)):
        x += shift
        draw.polygon([(x - half, y), (x, top), (x + half, y)], fill=(112, 118, 136))
        cap = half * 0.3
        draw.polygon(
            [(x - cap, top + 0.3 * (y - top)), (x, top), (x + cap, top + 0.3 * (y - top))],
            fill=(250, 252, 255),
        )
    return image


def _room(rng: Rng) -> Image.Image:
    wall = ((244, 220, 194), (220, 228, 206), (226, 210, 226))[int(rng.integers(3))]
    image = Image.new("RGB", (SIZE, SIZE), wall)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 98, SIZE, SIZE), fill=(156, 98, 62))
    draw.rectangle((0, 94, SIZE, 98), fill=(250, 246, 240))
    x = 12 + _jitter(rng, 4)
    draw.rectangle((x, 12, x + 32, 50), fill=(250, 250, 250))
    draw.rectangle((x + 3, 15, x + 29, 47), fill=(146, 206, 246))
    draw.rectangle((x + 15, 12, x + 17, 50), fill=(250, 250, 250))
    return image


def _stage(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), (52, 16, 30))
    draw = ImageDraw.Draw(image)
    x = 64 + _jitter(rng, 6)
    draw.polygon([(x - 10, 0), (x + 10, 0), (x + 48, 104), (x - 48, 104)], fill=(122, 74, 62))
    draw.rectangle((0, 102, SIZE, SIZE), fill=(150, 96, 52))
    draw.ellipse((x - 48, 96, x + 48, 122), fill=(234, 194, 120))
    for left in (0, 8, 114, 122):
        draw.rectangle((left, 0, left + 5, 104), fill=(196, 30, 46))
    return image


def _space(rng: Rng) -> Image.Image:
    image = _gradient((14, 8, 40), (36, 16, 70))
    draw = ImageDraw.Draw(image)
    shift = _jitter(rng, 6)
    for i in range(20):
        x, y = (i * 47 + shift) % SIZE, (i * 71 + 13) % SIZE
        draw.rectangle((x, y, x + 1, y + 1), fill=(250, 250, 255))
    x = 104 + shift
    draw.ellipse((x - 16, 8, x + 16, 40), fill=(226, 146, 84))
    draw.line((x - 24, 30, x + 24, 18), fill=(246, 214, 160), width=4)
    return image


def _farm(rng: Rng) -> Image.Image:
    y = 84 + _jitter(rng, 3)
    image, draw = _sky_and_ground(((140, 200, 246), (216, 236, 250)), (166, 186, 84), y)
    x = 78 + _jitter(rng, 5)
    draw.rectangle((x, y - 40, x + 44, y), fill=(188, 46, 42))
    draw.polygon([(x - 5, y - 38), (x + 22, y - 62), (x + 49, y - 38)], fill=(110, 60, 52))
    draw.rectangle((x + 15, y - 24, x + 29, y), fill=(250, 246, 236))
    for post in range(2, SIZE, 18):
        draw.rectangle((post, y - 2, post + 4, y + 16), fill=(250, 244, 232))
    draw.rectangle((0, y + 4, SIZE, y + 8), fill=(250, 244, 232))
    return image


def _road(rng: Rng) -> Image.Image:
    y = 66 + _jitter(rng, 4)
    image, draw = _sky_and_ground(((150, 204, 246), (220, 236, 250)), (128, 178, 90), y)
    draw.polygon([(56, y), (72, y), (132, SIZE), (-4, SIZE)], fill=(92, 94, 102))
    for top, half in ((y + 6, 1), (y + 22, 2), (y + 42, 3)):
        draw.rectangle((64 - half, top, 64 + half, top + 10), fill=(252, 232, 120))
    return image


def _castle_hall(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), (126, 120, 130))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 100, SIZE, SIZE), fill=(92, 84, 92))
    draw.polygon([(46, SIZE), (54, 100), (74, 100), (82, SIZE)], fill=(176, 30, 44))
    shift = _jitter(rng, 4)
    for x in (10, 100):
        draw.rectangle((x + shift, 0, x + shift + 16, 100), fill=(160, 154, 162))
        draw.rectangle((x + shift - 3, 92, x + shift + 19, 100), fill=(176, 170, 178))
    for x in (38, 76):
        draw.polygon(
            [(x + shift, 0), (x + shift + 14, 0), (x + shift + 14, 40), (x + shift + 7, 50), (x + shift, 40)],
            fill=(190, 34, 48),
        )
    return image


def _cave(rng: Rng) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), (48, 38, 36))
    draw = ImageDraw.Draw(image)
    shift = _jitter(rng, 5)
    draw.ellipse((14 + shift, 12, 114 + shift, 128), fill=(108, 86, 72))
    draw.ellipse((30 + shift, 26, 98 + shift, 122), fill=(146, 118, 94))
    draw.rectangle((0, 108, SIZE, SIZE), fill=(70, 56, 50))
    for x in range(0, SIZE + 8, 16):
        draw.polygon([(x - 7, 0), (x + 7, 0), (x, 16 + (x * 7) % 16)], fill=(34, 26, 26))
    return image


def _island(rng: Rng) -> Image.Image:
    image, draw = _sky_and_ground(((112, 204, 240), (200, 240, 250)), (24, 150, 190), 72 + _jitter(rng, 3))
    draw.ellipse((4, 92, 124, 140), fill=(244, 222, 158))
    x = 108 + _jitter(rng, 4)
    draw.rectangle((x - 2, 44, x + 3, 100), fill=(134, 92, 52))
    for dx, dy in ((-22, -2), (-14, -14), (10, -14), (18, -2)):
        draw.polygon([(x, 44), (x + dx, 40 + dy), (x + dx // 2, 48 + dy)], fill=(40, 150, 70))
        draw.line((x, 44, x + dx, 44 + dy), fill=(40, 150, 70), width=5)
    return image


DRAW: dict[str, Callable[[Rng], Image.Image]] = {
    "plain": _plain, "beach": _beach, "forest": _forest, "snow field": _snow_field, "desert": _desert,
    "underwater": _underwater, "city": _city, "meadow": _meadow, "mountains": _mountains, "room": _room,
    "stage": _stage, "space": _space, "farm": _farm, "road": _road, "castle hall": _castle_hall, "cave": _cave,
    "island": _island,
}  # fmt: skip
