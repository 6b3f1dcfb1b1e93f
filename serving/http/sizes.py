"""Sizes of pictures in files: read from the head, and enlarged to what was asked for."""

from __future__ import annotations

import io
import re
import struct
import warnings

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from palp.errors import InputError, PictureError
from serving.http.problems import Refusal

__all__ = ["SIZE", "check_upload", "fit", "png_size", "side_of"]

SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def side_of(size: str, most: int) -> int | None:
    """The side in pixels by "WIDTHxHEIGHT", None by "auto".

    Raises:
        InputError: not square, or too large.
    """
    if re.fullmatch(SIZE, size) is None:
        raise InputError(f"the size is {size!r}, and must be auto or such as 512x512")
    if size == "auto":
        return None
    width, height = (int(part) for part in size.split("x"))
    if width != height or width > most:
        raise InputError(f"the size is {size}, and must be square and at most {most}x{most}, or auto")
    return width


def png_size(picture: bytes) -> tuple[int, int]:
    """Width and height by the head of a PNG."""
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def fit(picture: bytes, side: int | None) -> bytes:
    """The PNG with this side, its notes kept; None leaves it as it is."""
    if side is None or png_size(picture) == (side, side):
        return picture
    with Image.open(io.BytesIO(picture)) as image:
        chunks = PngInfo()
        for key, text in (image.text if isinstance(image, PngImageFile) else {}).items():
            chunks.add_itxt(key, text)
        enlarged, buffer = image.resize((side, side), Image.Resampling.LANCZOS), io.BytesIO()
    enlarged.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def check_upload(name: str, data: bytes, most_pixels: int) -> None:
    """Read no more than the head of an uploaded picture.

    Raises:
        PictureError: it is none.
        Refusal: it has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        width, height = most_pixels + 1, 1
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise PictureError(f"{name} cannot be read as a picture: send PNG, JPEG or WebP files") from error
    if width * height > most_pixels:
        raise Refusal(413, "picture_too_large", f"{name} has more than {most_pixels} pixels: make it smaller", "images")
