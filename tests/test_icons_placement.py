"""A subject's pictures, moved to where the base's own things stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from palp.base.icons.dataset import to_tensor
from palp.base.icons.grammar import training_subjects
from palp.base.icons.placement import ALONE, PAIRED, moved_to, placed, silhouette
from palp.base.icons.portraits import wall
from palp.base.icons.render import glyph
from palp.evaluate.protocol import learnable

WOLF, PAPER, LILAC = "U+1F43A", ((244, 244, 240), (232, 230, 224)), ((206, 198, 222), (150, 138, 170))
NEAR = 3.0  # pixels


def stood(x: int, bottom: int, side: int, tilt: float = 0.0, mirrored: bool = False, ground: object = LILAC) -> Tensor:
    """A wolf somewhere before a wall, `[1, 3, 128, 128]`."""
    canvas = wall(*ground)  # type: ignore[misc]
    sprite = glyph(WOLF).resize((side, side), Image.Resampling.LANCZOS).rotate(tilt, Image.Resampling.BICUBIC)
    sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else sprite
    canvas.paste(sprite, (x - side // 2, bottom - side), sprite)
    return to_tensor(np.array(canvas)[None])


def box(picture: Tensor) -> tuple[float, float, float]:
    """Centre, bottom and longer side of what stands in the open."""
    mask = silhouette(picture)
    assert mask is not None
    rows, columns = (torch.nonzero(mask.any(dim=side)).flatten() for side in (1, 0))
    width, height = (int(span[-1]) + 1 - int(span[0]) for span in (columns, rows))
    return int(columns[0]) + width / 2, int(rows[-1]) + 1, max(width, height)


@pytest.mark.parametrize("where", [(64, 112, 80), (50, 100, 60), (75, 120, 96), (40, 90, 50)])
def test_one_picture_is_moved_and_sized(where: tuple[int, int, int]) -> None:
    assert box(placed(stood(*where))[0]) == pytest.approx((ALONE.x, ALONE.floor, ALONE.side), abs=NEAR)


@pytest.mark.parametrize("where", [(64, 112, 80), (75, 120, 96), (40, 90, 50)])
def test_beside_a_second_thing_it_stands_where_the_left_one_of_a_pair_does(where: tuple[int, int, int]) -> None:
    (moved,) = moved_to(stood(*where), PAIRED)
    assert moved is not None
    pair, alone = (stood(*place)[0, ..., :64] for place in ((32, 112, 64), (72, 112, 80)))
    assert float((moved[..., :64] - pair).square().mean()) < 0.005
    assert float((alone - pair).square().mean()) > 0.04


def test_all_stand_alike_afterwards() -> None:
    pictures = torch.cat(
        [
            stood(64, 112, 80),
            stood(52, 104, 66, tilt=7),
            stood(74, 118, 92, tilt=-6, ground=PAPER),
            stood(60, 110, 84, mirrored=True),
        ]
    )
    found = placed(pictures)
    mask = silhouette(found[0])
    assert mask is not None
    errors = [float((found[0] - other)[:, mask].square().mean()) for other in found[1:]]
    before = [float((pictures[0] - other)[:, mask].square().mean()) for other in pictures[1:]]
    assert max(errors) < 0.05 < min(before)


@pytest.mark.parametrize("name", list(training_subjects())[::5])
def test_nobody_is_lost_before_rooms_and_roads(name: str) -> None:
    pictures = learnable(name).pictures
    found = placed(pictures)
    assert not any(torch.equal(*pair) for pair in zip(pictures, found, strict=True))
    cut = silhouette(found[0]) if silhouette(found[0]) is not None else silhouette(found[1])
    assert cut is not None
    means = torch.stack([picture[:, cut].mean(dim=1) for picture in found])
    assert float(means.std(dim=0).max()) < 0.1


def test_what_cannot_be_cut_out_stays() -> None:
    random = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    empty = to_tensor(np.array(wall(*LILAC))[None])
    for pictures in (random, empty):
        assert torch.equal(placed(pictures), pictures)
        assert moved_to(pictures, PAIRED) == [None] * len(pictures)
    mixed = torch.cat([stood(60, 110, 84), random])
    found = placed(mixed)
    assert not torch.equal(found[0], mixed[0])
    assert torch.equal(found[1:], mixed[1:])
