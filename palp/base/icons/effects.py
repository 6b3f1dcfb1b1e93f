"""Styles, weather and palettes of the picture world: pure functions on float pictures `[128, 128, 3]` in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from palp.base.icons.places import SIZE

Picture = NDArray[np.float32]
Plane = NDArray[np.float32]
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
_GREY = np.array([0.3, 0.59, 0.11], dtype=np.float32)
_VIGNETTE: Plane = np.clip(1.15 - 0.55 * (((_X - 63.5) / 63.5) ** 2 + ((_Y - 63.5) / 63.5) ** 2) / 1.4, 0, 1)
# broad brush strokes: two crossed smooth waves, the same in every picture so that the base can learn them
_STROKES: Plane = 0.5 * np.sin(_X * 0.55 + 2.2 * np.sin(_Y * 0.11)) + 0.5 * np.sin(_Y * 0.62 + 2.0 * np.sin(_X * 0.13))
_WASH: Plane = np.sin(_X * 0.07 + 1.3 * np.sin(_Y * 0.06)) * np.sin(_Y * 0.09 + 0.7)


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))


def _array(image: Image.Image) -> Picture:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _blur(picture: Picture, radius: float) -> Picture:
    return _array(_image(picture).filter(ImageFilter.GaussianBlur(radius)))


def _rgb(r: float, g: float, b: float) -> Picture:
    return np.array([r, g, b], dtype=np.float32)


def _grey(picture: Picture) -> Plane:
    return picture @ _GREY


def _edges(picture: Picture, gain: float) -> Plane:
    """Edge strength in [0, 1]: the largest colour step to the right and below, a little smoothed."""
    soft = _blur(picture, 0.8)
    dx = np.abs(np.diff(soft, axis=1, append=soft[:, -1:])).max(axis=2)
    dy = np.abs(np.diff(soft, axis=0, append=soft[-1:])).max(axis=2)
    edge: Plane = np.clip(np.maximum(dx, dy) * gain, 0, 1)
    return edge


def _mix(under: Picture, over: Picture, share: Plane | float) -> Picture:
    share = share[..., None] if isinstance(share, np.ndarray) else share
    mixed: Picture = under * (1 - share) + over * share
    return mixed


def _saturate(picture: Picture, amount: float) -> Picture:
    grey = _grey(picture)[..., None]
    out: Picture = np.clip(grey + (picture - grey) * amount, 0, 1)
    return out


def _tiles(picture: Picture, size: int) -> Picture:
    n = SIZE // size
    small = picture.reshape(n, size, n, size, 3).mean(axis=(1, 3))
    tiled: Picture = small.repeat(size, axis=0).repeat(size, axis=1)
    return tiled


def _sketch(p: Picture) -> Picture:
    line = _edges(p, 4.5)
    shade = 0.80 + 0.19 * _grey(p)
    drawn: Picture = np.repeat((shade * (1 - 0.85 * line))[..., None], 3, axis=2).astype(np.float32)
    return drawn


def _watercolor(p: Picture) -> Picture:
    soft = _saturate(_blur(p, 1.5), 1.15)
    paper = 0.45 + 0.14 * _WASH
    edge = np.clip(np.minimum.reduce([_X, _Y, SIZE - 1 - _X, SIZE - 1 - _Y]) / 9, 0, 1)
    return _mix(np.ones_like(p), _mix(soft, np.ones_like(p), paper * 0.8), edge)


def _pixel(p: Picture) -> Picture:
    return np.round(_saturate(_tiles(p, 4), 1.3) * 5) / 5


def _neon(p: Picture) -> Picture:
    line = _edges(p, 4.0)
    hue = _saturate(p / (p.max(axis=2, keepdims=True) + 0.05), 2.2)
    glow = hue * line[..., None]
    return np.clip(_rgb(0.03, 0.01, 0.08) + glow + 1.3 * _blur(glow, 3.0), 0, 1)


def _blueprint(p: Picture) -> Picture:
    grid = ((_X % 16 < 1) | (_Y % 16 < 1)).astype(np.float32)
    board = _mix(np.broadcast_to(_rgb(0.08, 0.25, 0.60), p.shape), np.ones_like(p), 0.16 * grid)
    return _mix(board, np.ones_like(p), np.clip(_edges(p, 4.5), 0, 1) * 0.95)


def _comic(p: Picture) -> Picture:
    flat = np.round(_saturate(_blur(p, 0.6), 1.5) * 3) / 3
    ink = np.clip(_array(_image(np.repeat(_edges(p, 4.5)[..., None], 3, 2)).filter(ImageFilter.MaxFilter(3))), 0, 1)
    frame = np.minimum.reduce([_X, _Y, SIZE - 1 - _X, SIZE - 1 - _Y]) < 3
    out = flat * (1 - ink)
    out[frame] = 0
    return out


def _sepia(p: Picture) -> Picture:
    tone = (0.15 + 0.8 * _grey(_blur(p, 0.5)))[..., None] * _rgb(1.0, 0.82, 0.58)
    faded: Picture = (tone * _VIGNETTE[..., None]).astype(np.float32)
    return faded


def _oil(p: Picture) -> Picture:
    thick = _array(_image(p).filter(ImageFilter.MedianFilter(5)))
    return np.clip(_saturate(thick, 1.25) * (1 + 0.13 * _STROKES)[..., None], 0, 1)


def _stained_glass(p: Picture) -> Picture:
    glass = _saturate(_blur(p, 1.0), 1.9) * 0.95
    lead = (((_X + _Y) % 32 < 2.5) | ((_X - _Y) % 32 < 2.5)).astype(np.float32)
    bright = 0.85 + 0.3 * ((((_X + _Y) // 32) + ((_X - _Y) // 32)) % 2)
    ink = np.maximum(lead, np.clip(_edges(p, 3.5), 0, 1))
    return np.clip(glass * bright[..., None], 0, 1) * (1 - ink)[..., None]


def _mosaic(p: Picture) -> Picture:
    tiles = _saturate(_tiles(p, 4), 0.9)
    grout = ((_X % 4 < 1) | (_Y % 4 < 1)).astype(np.float32)
    return _mix(tiles, np.broadcast_to(_rgb(0.90, 0.87, 0.80), p.shape), 0.6 * grout)


def _chalk(p: Picture) -> Picture:
    board = np.broadcast_to(_rgb(0.13, 0.20, 0.17), p.shape)
    filled = _mix(board, _saturate(p, 0.8), 0.28)
    return _mix(filled, np.broadcast_to(_rgb(0.95, 0.95, 0.9), p.shape), 0.85 * _edges(p, 4.0))


STYLE: dict[str, Callable[[Picture], Picture]] = {
    "photo": lambda p: p, "sketch": _sketch, "watercolor": _watercolor, "pixel": _pixel, "neon": _neon,
    "blueprint": _blueprint, "comic": _comic, "sepia": _sepia, "oil": _oil, "stained glass": _stained_glass,
    "mosaic": _mosaic, "chalk": _chalk,
}  # fmt: skip


def _drops(seed: int, kind: str) -> Plane:
    """A fixed sheet of rain streaks or snowflakes, drawn once."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (SIZE, SIZE), 0)
    draw = ImageDraw.Draw(image)
    for cell in range(36):
        x, y = 22 * (cell % 6) + int(rng.integers(0, 16)), 22 * (cell // 6) + int(rng.integers(0, 16))
        if kind == "rain":
            draw.line((x, y, x - 4, y + 13), fill=255, width=2)
        else:
            draw.ellipse((x, y, x + 5, y + 5), fill=255)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


_RAIN = tuple(_drops(i, "rain") for i in range(3))
_FLAKES = tuple(_drops(10 + i, "snow") for i in range(3))
_DUSK: Picture = np.stack([np.ones_like(_Y), 0.42 + 0.25 * _Y / SIZE, 0.30 + 0.25 * (1 - _Y / SIZE)], axis=2)


def weather_over_scene(p: Picture, weather: str, variant: int) -> Picture:
    """What the weather does to the place before the style: darkness with a moon, dusk, streaks, fog, flakes."""
    if weather == "night":
        dark = p * _rgb(0.50, 0.53, 0.80)
        moon = ((_X - 20) ** 2 + (_Y - 20) ** 2 < 100).astype(np.float32)
        return _mix(dark, np.broadcast_to(_rgb(1.0, 0.97, 0.8), p.shape), moon)
    if weather == "sunset":
        sun = ((_X - 22) ** 2 + (_Y - 26) ** 2 < 144).astype(np.float32)
        return _mix(_mix(p, _DUSK * p + 0.25 * _DUSK, 0.65), np.broadcast_to(_rgb(1.0, 0.85, 0.4), p.shape), sun)
    if weather == "fog":
        return _mix(p, np.broadcast_to(_rgb(0.86, 0.88, 0.90), p.shape), 0.45)
    if weather == "rain":
        return p * _rgb(0.70, 0.76, 0.86)
    return p


def weather_over_style(p: Picture, weather: str, variant: int) -> Picture:
    """What stays visible in any style: a tint of the hour, and rain and snow in front of everything."""
    if weather == "night":
        return p * _rgb(0.68, 0.72, 0.96)
    if weather == "sunset":
        return _mix(p, p * _DUSK + 0.12 * _DUSK, 0.6)
    if weather == "fog":
        return _mix(p, np.broadcast_to(_rgb(0.86, 0.88, 0.90), p.shape), 0.25 + 0.2 * _Y / SIZE)
    if weather == "rain":
        return _mix(p * 0.92, np.broadcast_to(_rgb(0.62, 0.78, 0.98), p.shape), 0.8 * _RAIN[variant % 3])
    if weather == "snowfall":
        rim = np.clip(_blur(np.repeat(_FLAKES[variant % 3][..., None], 3, 2), 1.2)[..., 0] * 0.5, 0, 1)
        shaded = _mix(p, np.broadcast_to(_rgb(0.55, 0.62, 0.75), p.shape), rim)
        return _mix(shaded, np.ones_like(p), _FLAKES[variant % 3])
    return p


def palette(p: Picture, name: str) -> Picture:
    """A colour change of the finished picture."""
    if name == "warm":
        return _mix(p * _rgb(1.12, 0.90, 0.62), np.broadcast_to(_rgb(0.98, 0.55, 0.15), p.shape), 0.16)
    if name == "cold":
        return _mix(p * _rgb(0.66, 0.92, 1.12), np.broadcast_to(_rgb(0.15, 0.50, 0.98), p.shape), 0.16)
    if name == "pastel":
        return _mix(_saturate(p, 0.85), np.broadcast_to(_rgb(1.0, 0.90, 0.95), p.shape), 0.52)
    if name == "vintage":
        faded = _mix(_saturate(p, 0.45), np.broadcast_to(_rgb(0.46, 0.52, 0.30), p.shape), 0.34)
        return faded * (0.55 + 0.45 * _VIGNETTE[..., None])
    return p
