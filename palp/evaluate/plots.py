"""Two figures, drawn with Pillow: the plane alignment × identity, and curves against training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from palp.evaluate.intervals import Estimate
from palp.sheets import SPELLED

__all__ = ["curves", "plane"]

SHARP = 2  # figures are drawn this many times as large as they are shown
PANEL = (420, 340)  # pixels of a panel's inside, as shown
LEFT, TOP, BOTTOM, LEGEND = 64, 34, 52, 250  # pixels around it
PAPER, INK, PALE = (255, 255, 255), (32, 32, 32), (214, 214, 214)
COLOURS = (
    (31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14),
    (140, 86, 75), (227, 119, 194), (23, 190, 207), (188, 189, 34), (90, 90, 90),
)  # fmt: skip

Point = tuple[float | int, float | int]  # pixels and values come as either
Span = tuple[float | int, float | int]  # pixels and values come as either


@dataclass(frozen=True)
class _Panel:
    """A frame of `PANEL` size in a figure, with the ranges of both axes."""

    draw: ImageDraw.ImageDraw
    left: int
    x: Span
    y: Span

    def at(self, x: float | int, y: float | int) -> Point:
        """Where a point of data is, in the figure's pixels."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return ((self.left + across * PANEL[0]) * SHARP, (TOP + (1 - up) * PANEL[1]) * SHARP)

    def frame(self, title: str, x_label: str) -> None:
        """Box, grid lines at round numbers, and words."""
        for value in _round_numbers(self.x):
            self.line([self.at(value, self.y[0]), self.at(value, self.y[1])], PALE)
            self.text(self.at(value, self.y[0]), f"{value:g}", "ma", 4)
        for value in _round_numbers(self.y):
            self.line([self.at(self.x[0], value), self.at(self.x[1], value)], PALE)
            self.text(self.at(self.x[0], value), f"{value:g} ", "rm", 0)
        corners = [self.at(self.x[i], self.y[j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
        self.line(corners, INK)
        self.text((self.left * SHARP, 10 * SHARP), title, "la", 0)
        self.text(((self.left + PANEL[0] / 2) * SHARP, (TOP + PANEL[1]) * SHARP), x_label, "ma", 26)

    def line(self, points: Sequence[Point], colour: tuple[int, int, int], width: int = 1) -> None:
        """Straight pieces between points of the figure."""
        self.draw.line(list(points), colour, width * SHARP)

    def dot(self, centre: Point, colour: tuple[int, int, int], radius: int) -> None:
        """A filled circle."""
        x, y, r = *centre, radius * SHARP
        self.draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def text(self, at: Point, words: str, anchor: str, below: int, colour: tuple[int, int, int] = INK) -> None:
        """Words at a point, so many pixels lower."""
        font = ImageFont.load_default(12 * SHARP)
        known = words.translate(SPELLED)
        self.draw.text((at[0], at[1] + below * SHARP), known, colour, font, anchor)


def plane(points: Mapping[str, tuple[Estimate, Estimate]], line: Sequence[str], labels: tuple[str, str]) -> Image.Image:
    """Numbered points with their intervals as crosses, and a legend.

    Args:
        points: name -> x and y.
        line: names of points to join: what merely scaling the subject adapter down reaches.
        labels: of the axes.
    """
    image, draw = _canvas(panels=1)
    spans = [_span([end for pair in points.values() for end in (pair[i].low, pair[i].high)]) for i in (0, 1)]
    panel = _Panel(draw, LEFT, spans[0], spans[1])
    panel.frame(labels[1], labels[0])
    panel.line([panel.at(points[n][0].value, points[n][1].value) for n in line if n in points], INK, 2)
    for number, (name, (x, y)) in enumerate(points.items(), start=1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        panel.line([panel.at(x.low, y.value), panel.at(x.high, y.value)], colour)
        panel.line([panel.at(x.value, y.low), panel.at(x.value, y.high)], colour)
        panel.dot(panel.at(x.value, y.value), colour, 8)
        panel.text(panel.at(x.value, y.value), str(number), "mm", 0, PAPER)
        panel.text(_legend_row(1, number - 1), f"{number}  {name}", "lm", 0, colour)
    return _shrunk(image)


def curves(panels: Mapping[str, Mapping[str, Mapping[int, Estimate]]], x_label: str) -> Image.Image:
    """Panels side by side, in each a line a name through its values; intervals as uprights.

    Args:
        panels: title -> name -> x -> value.
    """
    image, draw = _canvas(len(panels))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for index, (title, lines) in enumerate(panels.items()):
        values = [value for line in lines.values() for value in line.values()]
        x_span = _span([0.0, *(float(x) for line in lines.values() for x in line)])
        y_span = _span([end for value in values for end in (value.low, value.high)])
        panel = _Panel(draw, LEFT + index * (LEFT + PANEL[0]), x_span, y_span)
        panel.frame(title, x_label)
        for name, line in lines.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            panel.line([panel.at(float(x), value.value) for x, value in sorted(line.items())], colour, 2)
            for x, value in line.items():
                panel.line([panel.at(x, value.low), panel.at(x, value.high)], colour)
                panel.dot(panel.at(float(x), value.value), colour, 3)
            panel.text(_legend_row(len(panels), names.index(name)), name, "lm", 0, colour)
    return _shrunk(image)


def _canvas(panels: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    width, height = panels * (LEFT + PANEL[0]) + LEGEND, TOP + PANEL[1] + BOTTOM
    image = Image.new("RGB", (width * SHARP, height * SHARP), PAPER)
    return image, ImageDraw.Draw(image)


def _legend_row(panels: int, row: int) -> Point:
    return ((panels * (LEFT + PANEL[0]) + 14) * SHARP, (TOP + 8 + 18 * row) * SHARP)


def _span(values: Sequence[float | int]) -> Span:
    """The range of the values with a margin."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return (low - margin, high + margin)


def _round_numbers(span: Span) -> list[float | int]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten."""
    rough = (span[1] - span[0]) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
    return [round(k * step, 10) for k in range(math.ceil(span[0] / step), math.floor(span[1] / step) + 1)]


def _shrunk(image: Image.Image) -> Image.Image:
    return image.resize((image.width // SHARP, image.height // SHARP), Image.Resampling.LANCZOS)
