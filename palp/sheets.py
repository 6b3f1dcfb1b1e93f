"""Contact sheets: pictures in a grid with a label for every row and column, and PNG files that say what they show."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from palp.atomic import atomic_write

if TYPE_CHECKING:  # torch takes seconds to import, and a sheet needs none of it
    from torch import Tensor

__all__ = ["contact_sheet", "save_png", "to_images"]

GAP = 6  # pixels between pictures, and around labels
LABEL_SIZE = 12  # pixels
SPELLED = str.maketrans({"×": "x", "…": "...", "λ": "lambda"})  # what the font that Pillow brings has no glyph for
LABEL_WIDTH = 150  # of a row's label, pixels
SMALLEST_CELL = 96  # pixels; smaller pictures are enlarged
PAPER, INK = (255, 255, 255), (32, 32, 32)


def to_images(pictures: Tensor) -> list[Image.Image]:
    """Pictures in [-1, 1], [batch 3 H W], as images."""
    rows = ((pictures.detach().float() + 1) * 127.5).round().clamp(0, 255).byte()
    return [Image.fromarray(row) for row in rows.permute(0, 2, 3, 1).cpu().numpy()]


def save_png(image: Image.Image, path: Path | str, notes: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically, with notes as text chunks.

    Raises: OutputError when it cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(image, notes))


def png_bytes(image: Image.Image, notes: Mapping[str, str] | None = None, compression: int = 6) -> bytes:
    """A PNG file in memory, with notes as text chunks; less `compression` (0 to 9) is quicker, and larger."""
    chunks = PngInfo()
    for key, text in (notes or {}).items():
        chunks.add_itxt(key, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=compression)
    return buffer.getvalue()


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    cell: int | None = None,
) -> Image.Image:
    """A grid of pictures; labels are wrapped, those of rows stand on the left, those of columns on top.

    Args:
        rows: pictures, row by row; a row may be shorter than others.
        row_labels, column_labels: one each, or none at all.
        cell: side of a square cell in pixels; by default that of the largest picture, 96 at least.
    """
    side = cell or max(SMALLEST_CELL, *(max(image.size) for row in rows for image in row))
    font = ImageFont.load_default(LABEL_SIZE)
    tops = [_wrap(label, side, font) for label in column_labels]
    sides = [_wrap(label, LABEL_WIDTH, font) for label in row_labels]
    line = LABEL_SIZE + 3
    left = LABEL_WIDTH + 2 * GAP if sides else GAP
    top = max((len(lines) for lines in tops), default=0) * line + (2 * GAP if tops else GAP)
    columns = max(len(row) for row in rows)
    size = (left + columns * (side + GAP), top + len(rows) * (side + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, lines in enumerate(tops):
        draw.multiline_text((left + x * (side + GAP), GAP), "\n".join(lines), INK, font, spacing=2)
    for y, lines in enumerate(sides):
        draw.multiline_text((GAP, top + y * (side + GAP)), "\n".join(lines), INK, font, spacing=2)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(_fit(image, side), (left + x * (side + GAP), top + y * (side + GAP)))
    return sheet


def _fit(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that its longer side is `side`."""
    if max(image.size) == side:
        return image.convert("RGB")
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _wrap(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The label in lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in label.translate(SPELLED).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
