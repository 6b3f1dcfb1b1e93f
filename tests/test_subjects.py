"""Pictures of a subject: what is read, how, and what is refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palp.errors import PictureError
from palp.subjects import MAX_PIXELS, Subject, encode_pictures, find_pictures, read_pictures
from tests.tiny import tiny_base


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 150, 200))


def png_header(side: int) -> bytes:
    """The beginning of a black and white picture, which says how large it is."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + fields + struct.pack(">I", zlib.crc32(fields))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT" + bytes(8)


def test_values_and_formats(tmp_path: Path) -> None:
    for suffix, tolerance in (("png", 1e-6), ("jpg", 0.02), ("webp", 0.02)):
        grey(20, 20).save(tmp_path / f"a.{suffix}")
        read = read_pictures(tmp_path / f"a.{suffix}", 16)
        expected = (torch.tensor([100, 150, 200]) / 127.5 - 1)[None, :, None, None].expand(1, 3, 16, 16)
        torch.testing.assert_close(read, expected, rtol=0, atol=tolerance)


def test_a_folder_with_pictures_that_are_not_read_is_refused_with_their_name(tmp_path: Path) -> None:
    grey(20, 20).save(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(PictureError, match=r"b\.HEIC is a picture of a kind that is not read"):
        find_pictures(tmp_path)
    with pytest.raises(PictureError, match="there is no picture or folder"):
        find_pictures(tmp_path / ("x" * 300))


def test_the_square_in_the_middle_is_kept(tmp_path: Path) -> None:
    wide = grey(48, 16)
    wide.paste((255, 255, 255), (16, 0, 32, 16))
    wide.save(tmp_path / "wide.png")
    assert torch.equal(read_pictures([tmp_path / "wide.png"], 16), torch.ones(1, 3, 16, 16))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 8))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right
    image.save(tmp_path / "turned.png", exif=exif)
    (read,) = read_pictures(tmp_path / "turned.png", 16)
    assert torch.equal(read[:, :, 8:], torch.ones(3, 16, 8))
    assert torch.equal(read[:, :, :8], -torch.ones(3, 16, 8))


def tiff(*entries: bytes) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


TURNED = struct.pack("<HHII", 0x0112, 3, 1, 6)
ODD = struct.pack("<HHI4s", 0x011A, 2, 4, b"72\0\0")  # a resolution that is text


@pytest.mark.parametrize(("exif", "turned"), [(tiff(TURNED, ODD), True), (tiff(ODD), False), (b"Exif\0\0II*", False)])
def test_odd_exif_data_are_no_reason_to_refuse_a_picture(exif: bytes, turned: bool, tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), "black")
    image.paste((255, 255, 255), (0, 0, 16, 8))  # white above
    image.save(tmp_path / "odd.jpg", exif=exif, quality=100)
    (read,) = read_pictures(tmp_path / "odd.jpg", 16)
    above, right = read[:, :8].mean(), read[:, :, 8:].mean()
    assert (right if turned else above) > 0.9


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white(mode: str, tmp_path: Path) -> None:
    if mode == "P":
        image = Image.new("P", (16, 16), 0)
        image.putpalette([0, 0, 0] * 256)
        image.save(tmp_path / "clear.png", transparency=0)
    else:
        Image.new(mode, (16, 16), 0).save(tmp_path / "clear.png")
    assert torch.equal(read_pictures(tmp_path / "clear.png", 16), torch.ones(1, 3, 16, 16))


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(tmp_path / "deep.png")
    read = read_pictures(tmp_path / "deep.png", 16)
    torch.testing.assert_close(read, torch.full((1, 3, 16, 16), 156 / 127.5 - 1))


def test_folders_are_sorted_and_hidden_files_passed_over(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".c.png", "notes.txt"):
        (tmp_path / name).touch()
    assert find_pictures([tmp_path, tmp_path / "b.PNG"]) == [tmp_path / name for name in ("a.jpg", "b.PNG", "b.PNG")]


def test_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="there is no picture in"):
        read_pictures(tmp_path, 16)
    with pytest.raises(PictureError, match="no pictures were given"):
        read_pictures([], 16)
    with pytest.raises(PictureError, match="check the path"):
        read_pictures(tmp_path / "missing.png", 16)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_no_picture(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(PictureError, match=r"bad\.png cannot be read as a picture"):
        read_pictures(tmp_path, 16)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_half_a_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"half.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read_pictures(path, 16)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    grey(16, 16).save(tmp_path / "really.png", format="BMP")
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read_pictures(tmp_path, 16)


@pytest.mark.parametrize("side", [7_072, 12_000, 20_000])  # over our limit, Pillow's warning, Pillow's error
def test_decompression_bombs(side: int, tmp_path: Path) -> None:
    assert side**2 > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png_header(side))
    with pytest.raises(PictureError, match="megapixels"):
        read_pictures(tmp_path, 16)


def test_too_small(tmp_path: Path) -> None:
    grey(40, 3).save(tmp_path / "small.png")
    with pytest.raises(PictureError, match="40 x 3 pixels, too small"):
        read_pictures(tmp_path, 16)
    assert read_pictures(tmp_path, 12).shape == (1, 3, 12, 12)


def test_content_hash_follows_the_pictures() -> None:
    one, same = (Subject("cat", torch.zeros(2, 3, 4, 4)) for _ in range(2))
    assert one.content_hash == same.content_hash
    assert one.content_hash != Subject("cat", torch.zeros(1, 3, 4, 8)).content_hash
    assert one.content_hash != Subject("cat", torch.ones(2, 3, 4, 4)).content_hash


def test_latents_of_pictures_and_their_mirror_images() -> None:
    base = tiny_base("sd1")
    pictures = torch.rand(5, 3, 16, 16) * 2 - 1
    latents = encode_pictures(base, Subject("cat", pictures), flip=True)
    mirrored = torch.cat([pictures, pictures.flip(-1)])
    expected = torch.cat([base.encode_images(picture[None]) for picture in mirrored])
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)


def test_subjects_stand_where_the_base_likes_them_and_artworks_stay() -> None:
    base = replace(tiny_base("sd1"), place=lambda pictures: pictures.flip(-2))
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    moved, kept = (encode_pictures(base, Subject("cat", pictures, artwork=artwork)) for artwork in (False, True))
    torch.testing.assert_close(moved, base.encode_images(pictures.flip(-2)))
    torch.testing.assert_close(kept, base.encode_images(pictures))
