"""Pictures of a subject: found, checked, cut square, and encoded to latents."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from palp.base import Base
from palp.base.fingerprint import weights_fingerprint
from palp.errors import PictureError

__all__ = ["Subject", "encode_pictures", "find_pictures", "read_pictures"]

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jfif", ".gif", ".bmp", ".tif", ".tiff")  # pictures that are not read
MAX_PIXELS = 50_000_000
SMALLEST_SHARE = 4  # a picture may be enlarged this many times, not more
BATCH = 4  # pictures in one call of the autoencoder
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by EXIF's orientation."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The user's thing, and the word that it is to get.

    Args:
        class_word: what the base calls such a thing, "cat"; of an artwork its technique, "oil painting".
        pictures: in [-1, 1], as `read_pictures` gives them.
        placeholder: "[V]", or "[V1]", "[V2]", … where there are several.
        artwork: a work of art, whose manner is to be taken over, and not what it shows.
    """

    class_word: str
    pictures: Float[Tensor, "pictures 3 H W"]
    placeholder: str = "[V]"
    artwork: bool = False

    @property
    def content_hash(self) -> str:
        """sha256 over the pictures' size and values, for caches."""
        shape = repr(tuple(self.pictures.shape)).encode()
        return hashlib.sha256(shape + self.pictures.float().cpu().numpy().tobytes()).hexdigest()


def read_pictures(
    paths: Sequence[str | Path] | str | Path, resolution: int
) -> Float[Tensor, "pictures 3 resolution resolution"]:
    """The pictures in files and folders, upright, on white, cut to the square in their middle, in [-1, 1].

    Args:
        paths: files, or folders of png, jpg and webp files; order is kept, a folder's files are sorted.
        resolution: side of the result in pixels, normally `base.resolution`.

    Raises:
        PictureError: none found, no picture or a damaged one, over 50 megapixels, or too small.
    """
    pictures = [_read(path, resolution) for path in find_pictures(paths)]
    return torch.stack(pictures)


def find_pictures(paths: Sequence[str | Path] | str | Path) -> list[Path]:
    """The picture files among `paths` and in the folders among them.

    Raises:
        PictureError: a path that does not exist, or no picture at all.
    """
    found: list[Path] = []
    for path in [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]:
        if not os.path.exists(path):  # unlike Path.exists, False for a name that is too long
            raise PictureError(f"there is no picture or folder {path}: check the path")
        found += _in_folder(path) if path.is_dir() else [path]
    if not found:
        raise PictureError("no pictures were given: give at least one png, jpg or webp file")
    return found


def encode_pictures(base: Base, subject: Subject, flip: bool = False) -> Float[Tensor, "latents c h w"]:
    """Latents of a subject's pictures as the base likes them, and then, with `flip`, of their mirror images."""
    pictures = subject.pictures if base.place is None or subject.artwork else base.place(subject.pictures)
    if flip:
        pictures = torch.cat([pictures, pictures.flip(-1)])
    return torch.cat([base.encode_images(part) for part in pictures.split(BATCH)])


def latents_source(base: Base, subject: Subject, flip: bool = False) -> str:
    """sha256 over all that `encode_pictures` makes latents from: their own bits differ from machine to machine."""
    placed = base.place is not None and not subject.artwork
    encoder = getattr(base.vae, "encoder", base.vae)  # adapters fit any decoder
    parts = [subject.content_hash, placed, flip, weights_fingerprint(encoder)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def refuse_other_formats(path: Path) -> None:
    """Raise PictureError for a picture of a format that is not read."""
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise PictureError(f"{path} is a picture of a kind that is not read: make it a png, jpg or webp file")


def _in_folder(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for path in files:
        refuse_other_formats(path)
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        raise PictureError(f"there is no picture in {folder}: put png, jpg or webp files there")
    return found


def _read(path: Path, resolution: int) -> Float[Tensor, "3 resolution resolution"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_size(path, image.size, resolution)
                image.load()
                picture = _square(_on_white(_upright(image)), resolution)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(_too_many_pixels(path)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise PictureError(
            f"{path} cannot be read as a picture ({error}): give a whole png, jpg or webp file"
        ) from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def _check_size(path: Path, size: tuple[int, int], resolution: int) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError(_too_many_pixels(path))
    if min(size) * SMALLEST_SHARE < resolution:
        raise PictureError(
            f"{path} is {size[0]} x {size[1]} pixels, too small to learn {resolution} x {resolution} from: "
            f"give one of at least {-(-resolution // SMALLEST_SHARE)} pixels a side"
        )


def _too_many_pixels(path: Path) -> str:
    return f"{path} has more than {MAX_PIXELS // 1_000_000} megapixels: give a smaller version of it"


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; as it is where they cannot be read, which is no reason to refuse a picture."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of many kinds, by what is wrong with the data
        return image
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent shows white, and 16-bit grey keeps its upper half."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _square(image: Image.Image, resolution: int) -> Image.Image:
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
