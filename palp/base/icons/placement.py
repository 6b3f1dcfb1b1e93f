"""Pictures of a subject, moved so that it stands where the base's own things stand.

A latent cell is a patch of 16 pixels, so the same thing five pixels further on is another code in every cell. Learned
from pictures in which it stands anywhere, a subject is drawn as a blend of places; learned on the base's grid, in one
size, it is as sharp as what the base knows.

The picture in which the subject is easiest to cut out gives its silhouette: what differs from a row's two ends. In
the others that cut-out is looked for, in other sizes, turned and mirrored.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from palp.base.icons.render import CELL


@dataclass(frozen=True)
class Stand:
    """Where the base's things stand: centre and floor in pixels, and the length of their longer side."""

    x: float
    floor: float
    side: float


ALONE = Stand(4.5 * CELL, 7.0 * CELL, 5.0 * CELL)
PAIRED = Stand(2.0 * CELL, 7.0 * CELL, 4.0 * CELL)  # with a second thing to the right of it
CONTRAST = 0.1  # of [-1, 1]: by how much the subject differs from the ground beside it
LITTER = 0.015  # largest share of the picture that is neither subject nor ground
LEAST, MOST = 0.04, 0.7  # share of the picture that a subject covers
MISFIT = 0.1  # largest mean square between a cut-out and where it is found
ZOOMS = tuple(1.06**n for n in range(-7, 8))
TILTS = (-10.0, -5.0, 0.0, 5.0, 10.0)  # degrees
COARSE, FINE = 4, 2  # pixels: what the search sees at first, and then near what it has found


@dataclass(frozen=True, order=True)
class Pose:
    """Where a cut-out is in a picture: its centre there in pixels, its size, turn in degrees, and 1, or -1 mirrored."""

    x: float
    y: float
    zoom: float = 1.0
    tilt: float = 0.0
    facing: int = 1

    def matrix(self) -> Float[Tensor, "2 2"]:
        """From offsets in the cut-out to offsets in the picture."""
        angle = math.radians(self.tilt)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return self.zoom * turn @ torch.diag(torch.tensor([float(self.facing), 1.0]))


@dataclass(frozen=True, eq=False)
class Cutout:
    """A subject cut out of its picture: that, its silhouette, the middle and the sides of the box around it."""

    picture: Float[Tensor, "3 H W"]
    mask: Bool[Tensor, "H W"]
    x: float
    y: float
    width: int
    height: int

    @property
    def side(self) -> int:
        """The longer of the two."""
        return max(self.width, self.height)


def placed(pictures: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """The pictures with their subject where the base's things stand alone; those in which it is not found stay.

    Arguments:
        pictures: of one subject, in [-1, 1]; 128 pixels a side.
    """
    moved = moved_to(pictures, ALONE)
    return torch.stack([old if new is None else new for old, new in zip(pictures, moved, strict=True)])


def moved_to(pictures: Float[Tensor, "n 3 H W"], stand: Stand) -> list[Float[Tensor, "3 H W"] | None]:
    """Each picture with its subject standing there; None where it is not found. Arguments as for `placed`."""
    content = pictures.float().cpu().contiguous().numpy().tobytes()
    cutout, poses = _found(content, tuple(pictures.shape))
    return [
        None if cutout is None or pose is None else _moved(picture.float().cpu(), pose, cutout, stand).to(picture)
        for picture, pose in zip(pictures, poses, strict=True)
    ]


@lru_cache(maxsize=64)  # every prompt of a subject asks for the same
def _found(content: bytes, shape: tuple[int, ...]) -> tuple[Cutout | None, tuple[Pose | None, ...]]:
    """The clearest cut-out of some pictures, and where it is in each."""
    pictures = torch.frombuffer(bytearray(content), dtype=torch.float32).reshape(shape)
    cutout = _clearest(pictures)
    return cutout, tuple(None if cutout is None else find(cutout, picture) for picture in pictures)


def silhouette(picture: Float[Tensor, "3 H W"]) -> Bool[Tensor, "H W"] | None:
    """What differs from the ground between both ends of a row, if that is one thing in the open; else None."""
    ends = [picture[..., part].mean(dim=2, keepdim=True) for part in (slice(None, 3), slice(-3, None))]
    ground = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, picture.shape[-1]))
    differs = ((picture - ground).abs().amax(dim=0) > CONTRAST).numpy()
    labels, count = ndimage.label(differs, structure=np.ones((3, 3)))
    if count == 0:
        return None
    main = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    thing = ndimage.binary_fill_holes(main)
    litter, share = (differs & ~thing).mean(), thing.mean()
    if litter > LITTER or not LEAST < share < MOST or thing[:, [0, -1]].any():
        return None
    return torch.from_numpy(thing)


def find(cutout: Cutout, picture: Float[Tensor, "3 H W"]) -> Pose | None:
    """Where in a picture the cut-out is, or None."""
    if torch.equal(picture, cutout.picture):
        return Pose(cutout.x, cutout.y)
    _, rough = min(_best(cutout, picture, *look, COARSE) for look in itertools.product(ZOOMS, TILTS, (1, -1)))
    near = itertools.product((0.97, 1.0, 1.03), (-2.5, 0.0, 2.5))
    looks = [(rough.zoom * zoom, rough.tilt + tilt, rough.facing) for zoom, tilt in near]
    misfit, pose = min(_best(cutout, picture, *look, FINE) for look in looks)
    return pose if misfit < MISFIT else None


def _best(
    cutout: Cutout, picture: Float[Tensor, "3 H W"], zoom: float, tilt: float, facing: int, step: int
) -> tuple[float, Pose]:
    """The cut-out's best place in this size, turn and facing: mean square of the difference, and the pose."""
    look, mask = _posed(cutout, Pose(0.0, 0.0, zoom, tilt, facing), step)
    margin = look.shape[-1] // 2  # it may reach beyond the picture
    seen = functional.pad(functional.avg_pool2d(picture[None], step), 4 * (margin,), mode="replicate")[0]
    square = seen.square().sum(0, keepdim=True)
    misfit = _correlation(torch.cat([square, seen]), torch.cat([mask, -2 * mask * look])) + (mask * look**2).sum()
    value, at = (misfit.flatten() / (mask.sum() * len(look))).min(dim=0)
    row, column = divmod(int(at), misfit.shape[-1])
    middle = look.shape[-1] / 2 - margin
    return float(value), Pose(step * (column + middle), step * (row + middle), zoom, tilt, facing)


def _correlation(layers: Float[Tensor, "c H W"], kernel: Float[Tensor, "c h w"]) -> Float[Tensor, "rows columns"]:
    """The sum over layers, at each place where the kernel lies within; by Fourier transform, for it is large."""
    size = layers.shape[-2:]
    product = torch.fft.rfft2(layers) * torch.fft.rfft2(kernel, s=size).conj()
    rows, columns = (own - other + 1 for own, other in zip(size, kernel.shape[-2:], strict=True))
    whole: Tensor = torch.fft.irfft2(product.sum(0), s=size)
    return whole[:rows, :columns]


def _clearest(pictures: Float[Tensor, "n 3 H W"]) -> Cutout | None:
    """The cut-out that stands out most from its ground."""
    found = [(picture, mask) for picture in pictures.unbind() if (mask := silhouette(picture)) is not None]
    if not found:
        return None
    picture, mask = max(found, key=lambda pair: _contrast(*pair))
    rows, columns = (torch.nonzero(mask.any(dim=side)).flatten() for side in (1, 0))
    (top, bottom), (left, right) = ((int(span[0]), int(span[-1]) + 1) for span in (rows, columns))
    return Cutout(picture, mask, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _contrast(picture: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> float:
    ring = torch.from_numpy(ndimage.binary_dilation(mask.numpy(), iterations=4)) & ~mask
    return float((picture[:, mask].mean(dim=1) - picture[:, ring].mean(dim=1)).abs().mean())


def _posed(cutout: Cutout, pose: Pose, step: int) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "1 s s"]]:
    """The cut-out in another pose on a square of its own, every `step`th pixel, and its mask."""
    size = math.ceil(1.2 * cutout.side * pose.zoom / step)
    offsets = (torch.arange(size) + 0.5 - size / 2) * step
    layers = torch.cat([cutout.picture, cutout.mask[None].float()])
    drawn = _looked_up(layers, offsets, offsets, torch.linalg.inv(pose.matrix()), (cutout.x, cutout.y))
    return drawn[:3], (drawn[3:] > 0.5).float()


def _moved(picture: Float[Tensor, "3 H W"], pose: Pose, cutout: Cutout, stand: Stand) -> Float[Tensor, "3 H W"]:
    """The picture with the cut-out's box as long as the stand says, upright, on its floor."""
    zoom = cutout.side / stand.side
    across = torch.arange(picture.shape[-1]) + 0.5 - stand.x
    down = torch.arange(picture.shape[-2]) + 0.5 - (stand.floor - cutout.height / zoom / 2)
    return _looked_up(picture, down, across, zoom * pose.matrix(), (pose.x, pose.y)).clamp(-1, 1)


def _looked_up(
    layers: Float[Tensor, "layers H W"],
    down: Float[Tensor, "rows"],
    across: Float[Tensor, "columns"],
    matrix: Float[Tensor, "2 2"],
    middle: tuple[float, float],
) -> Float[Tensor, "layers rows columns"]:
    """Each pixel from where its offset leads: middle + matrix · offset, in pixels; beyond the edge, the edge."""
    height, width = layers.shape[1:]
    offsets = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], dim=-1)
    at = offsets @ matrix.T + torch.tensor(middle)
    grid = 2 * at / torch.tensor([width, height]) - 1
    mode = "bicubic" if len(layers) == 3 else "bilinear"
    return functional.grid_sample(layers[None], grid[None], mode, "border", align_corners=False)[0]
