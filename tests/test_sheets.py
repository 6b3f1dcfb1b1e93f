"""Contact sheets: every picture is where its labels say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palp.errors import OutputError
from palp.sheets import contact_sheet, save_png, to_images

COLOURS = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)]]


def test_tensors_become_images_pixel_by_pixel() -> None:
    values = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert np.asarray(to_images(values)[0]).tolist() == [[[0, 128, 255]] * 2] * 2


def test_pictures_stand_in_rows_and_columns() -> None:
    rows = [[Image.new("RGB", (100, 100), colour) for colour in row] for row in COLOURS]
    sheet = np.asarray(contact_sheet(rows, ["first", "second"], ["left", "right"]))
    found = {tuple(colour): np.argwhere((sheet == colour).all(-1)) for row in COLOURS for colour in row}
    assert all(len(places) == 100 * 100 for places in found.values())
    (red, green), (blue, yellow) = ([found[colour].min(0) for colour in row] for row in COLOURS)
    assert red[0] == green[0] < blue[0] == yellow[0]
    assert red[1] == blue[1] < green[1] == yellow[1]
    assert (sheet[:, : red[1]] < 128).any()  # there is ink left of the pictures,
    assert (sheet[: red[0], red[1] :] < 128).any()  # and above them


def test_a_long_label_is_broken_between_words() -> None:
    picture = [[Image.new("RGB", (100, 100))]]
    short = contact_sheet(picture, column_labels=["cat"])
    long = contact_sheet(picture, column_labels=["a pencil sketch of a cat on a beach at night"])
    assert long.width == short.width
    assert long.height > short.height


def test_notes_are_in_the_png(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (4, 4)), tmp_path / "new" / "a.png", {"prompt": "a sketch of [V] – ü"})
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.info["prompt"] == "a sketch of [V] – ü"


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "file" / "a.png")
