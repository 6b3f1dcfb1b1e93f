"""Pictures as PNG files in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image
from PIL.PngImagePlugin import PngInfo

__all__ = ["to_png"]

COMPRESSION = 3  # a third of the time of the default, a few per cent larger


def to_png(image: Image.Image, notes: Mapping[str, str] | None = None) -> bytes:
    """The file, with notes as text chunks."""
    chunks = PngInfo()
    for name, text in (notes or {}).items():
        chunks.add_itxt(name, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=COMPRESSION)
    return buffer.getvalue()
