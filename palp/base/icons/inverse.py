"""Setting the decoder to the inverse of the linear encoder, so that training starts where principal components end.

A decoder of nearest upsampling and convolutions gives the four children of a cell the same input, and an inverse must
tell them apart. Two things make that possible with exact weights:

- The encoder's components are even or odd under mirroring (it was fitted to mirrored pictures as well). So the four
  quarters of a patch are one linear map of its coefficients, with the signs of the odd ones flipped by side; each
  quarter comes out mirrored towards the patch's middle, in which frame the same holds for its own quarters.
- Which side a cell is on can be computed: ones at the border's zero padding, shifted and summed, make a ramp, and a
  ramp's step after upsampling tells left children from right ones, and upper from lower.

A flip is one block: `relu(h - 4 [kept])` is h where the sign turns, else 0, and twice that is subtracted. Coefficients
are stored as c / reach + 1, which is positive, so that blocks pass them on unchanged. The last convolution is fitted
by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from palp.base.icons.codec import LATENT_SIDE, PATCH, Array, build_autoencoder, encode, scaling_factor
from palp.base.icons.mirrored import descend, encoder_basis, mirrorings

MARGIN = 3.0  # of the ranges over the largest coefficient seen: trained blocks add to it
ROWS = 100_000  # pixels that the last convolution is fitted to
KEPT = 4.0  # what is subtracted from coefficients, all below 2, where they keep their sign
WANDERING = 3  # blocks of the first stage in which ones wander in from the border
SIDE_FEATURES = 7  # hidden channels that tell which side a cell is on


@dataclass(frozen=True)
class Channels:
    """Where a stage keeps what: coefficients first, then one; ramps, sides and the parent's sides, each of x and y."""

    coefficients: int

    @property
    def one(self) -> int:
        """Is 1 everywhere."""
        return self.coefficients

    def ramp(self, axis: int) -> int:
        """Runs to 1 along an axis; in the first stage it is built up here."""
        return self.coefficients + 1 + axis

    def side(self, axis: int) -> int:
        """Is 1 in right (lower) children; in the first stage ones that wander in from the border."""
        return self.coefficients + 3 + axis

    def parent(self, axis: int) -> int:
        """Is 1 where the parent was a right (lower) child."""
        return self.coefficients + 5 + axis


@torch.no_grad()
def set_decoder(vae: AutoencoderTiny, pictures: Tensor) -> None:
    """Set the decoder, in place, to invert the encoder as well as a linear map can; spare channels stay random.

    Arguments:
        vae: with its encoder set, and a decoder of width 72 or more with blocks (3+, 1+, 1+, 1+, 1+).
        pictures: `[n, 3, 128, 128]` in [-1, 1], from which the ranges of coefficients are read.
    """
    entry, blocks, ups = _parts(vae)
    for block in [block for stage in blocks for block in stage]:
        _clear(block.conv[4])
    basis, factor, offset = encoder_basis(vae)
    inner = encode(vae, pictures) / scaling_factor(vae)
    values = inner.permute(0, 2, 3, 1).flatten(0, 2).double().numpy() * factor + offset
    reach = _reach(values)
    here, change = Channels(len(reach)), np.eye(len(reach))
    _set_entry(entry, here, factor / reach, offset / reach + 1)
    for block in blocks[0][:WANDERING]:
        _set_wander(block, here)
    for level, up in enumerate(ups):
        if level:
            basis, child = descend(basis, values)
            values = values @ child.T
            wider = _reach(values)
            change, reach = child * reach / wider[:, None], wider
        there = Channels(len(reach))
        _set_up(up, here, there, change, cells=PATCH * 2**level)
        _set_flip(blocks[level + 1][0], there, basis.odd)
        values = np.concatenate([values * signs for signs in mirrorings(basis.odd)])
        here = there
    _set_last(vae, pictures, here.coefficients)


@torch.no_grad()
def grown(vae: AutoencoderTiny) -> AutoencoderTiny:
    """An autoencoder of today's shape that does what `vae`, of fewer decoder blocks, does: new blocks pass on."""
    taller = build_autoencoder()
    taller.encoder.load_state_dict(vae.encoder.state_dict())
    for old, new in zip(_convolutions(vae), _convolutions(taller), strict=True):
        new.load_state_dict(old.state_dict())
    for known, stage in zip(_parts(vae)[1], _parts(taller)[1], strict=True):
        for block in stage[len(known) :]:
            _clear(block.conv[4])
        for old_block, block in zip(known, stage, strict=False):
            block.load_state_dict(old_block.state_dict())
    return taller


def spare_blocks(vae: AutoencoderTiny) -> list[AutoencoderTinyBlock]:
    """The decoder's blocks that the inverse has no use for: after `set_decoder` each passes its input on."""
    first, *later = _parts(vae)[1]
    return [*first[WANDERING:], *(block for stage in later for block in stage[1:])]


Stages = list[list[AutoencoderTinyBlock]]


def _parts(vae: AutoencoderTiny) -> tuple[nn.Conv2d, Stages, list[nn.Conv2d]]:
    """The first convolution, the blocks of each stage, and the convolutions that follow an upsampling."""
    convolutions = _convolutions(vae)
    stages: Stages = [[]]
    for layer in vae.decoder.layers:
        if isinstance(layer, AutoencoderTinyBlock):
            stages[-1].append(layer)
        elif isinstance(layer, nn.Upsample):
            stages.append([])
    return convolutions[0], stages, convolutions[1:-1]


def _convolutions(vae: AutoencoderTiny) -> list[nn.Conv2d]:
    """Those of the decoder between its blocks, the first and the last among them."""
    return [layer for layer in vae.decoder.layers if isinstance(layer, nn.Conv2d)]


def _reach(values: Array) -> Array:
    """What coefficients are divided by, so that they stay within (-1, 1)."""
    reach: Array = MARGIN * np.abs(values).max(axis=0)
    return reach


def _clear(layer: nn.Module, rows: slice | list[int] = slice(None)) -> nn.Conv2d:
    """Set output rows of a convolution to zero, and return it."""
    convolution = cast(nn.Conv2d, layer)
    convolution.weight[rows] = 0
    if convolution.bias is not None:
        convolution.bias[rows] = 0
    return convolution


LEFT, CENTRE = 0, 1  # positions of taps in a 3 x 3 kernel


def _tap(layer: nn.Conv2d, row: int, column: int, value: float, axis: int | None = None) -> None:
    """Let output `row` read input `column` of the same cell, or of the left (axis 0) or upper (axis 1) neighbour."""
    y, x = CENTRE if axis != 1 else LEFT, CENTRE if axis != 0 else LEFT
    layer.weight[row, column, y, x] += value


def _set_entry(layer: nn.Conv2d, here: Channels, scale: Array, shift: Array) -> None:
    """Latents to coefficients within (0, 2); one; ramps that begin; ones that will wander."""
    assert layer.bias is not None
    _clear(layer, slice(here.parent(0)))
    for row in range(here.coefficients):
        _tap(layer, row, row, float(scale[row]))
    layer.bias[: here.coefficients] = torch.from_numpy(shift).to(layer.bias)
    layer.bias[here.one] = 1
    for axis in (0, 1):
        layer.bias[here.ramp(axis)] = 1 / LATENT_SIDE
        layer.bias[here.side(axis)] = 1


def _set_wander(block: AutoencoderTinyBlock, here: Channels) -> None:
    """Move the ones three cells from the border, where zeros come in, and add them to the ramp on each of them."""
    first, second, third = (cast(nn.Conv2d, block.conv[i]) for i in (0, 2, 4))
    _clear(first, slice(4))
    _clear(second, slice(6))
    for axis in (0, 1):
        ones, start, once, twice = here.side(axis), axis, 2 + axis, 4 + axis
        _tap(first, start, ones, 1.0)
        _tap(first, once, ones, 1.0, axis)
        _tap(second, start, start, 1.0)
        _tap(second, once, once, 1.0)
        _tap(second, twice, once, 1.0, axis)
        _tap(third, ones, twice, 1.0, axis)
        _tap(third, ones, start, -1.0)
        for step, neighbour in ((once, None), (twice, None), (twice, axis)):
            _tap(third, here.ramp(axis), step, 1 / LATENT_SIDE, neighbour)


def _set_up(layer: nn.Conv2d, here: Channels, there: Channels, change: Array, cells: int) -> None:
    """After an upsampling to `cells` a side: coefficients changed, ramps refined, sides read from the ramps' steps."""
    _clear(layer, slice(there.parent(2)))
    block = torch.from_numpy(change).to(layer.weight)
    layer.weight[: there.coefficients, : here.coefficients, CENTRE, CENTRE] = block
    layer.weight[: there.coefficients, here.one, CENTRE, CENTRE] = 1 - block.sum(dim=1)
    _tap(layer, there.one, here.one, 1.0)
    for axis in (0, 1):
        ramp, side = there.ramp(axis), there.side(axis)
        _tap(layer, ramp, here.ramp(axis), 0.5)
        _tap(layer, ramp, here.ramp(axis), 0.5, axis)
        _tap(layer, side, here.one, 1.0)
        _tap(layer, side, here.ramp(axis), -cells / 2)
        _tap(layer, side, here.ramp(axis), cells / 2, axis)
        if cells > PATCH:
            _tap(layer, there.parent(axis), here.side(axis), 1.0)


def _set_flip(block: AutoencoderTinyBlock, here: Channels, odd: NDArray[np.bool_]) -> None:
    """Turn the signs of odd coefficients: c / reach + 1 becomes 2 - (c / reach + 1) where the cell is on that side.

    A side in the mirrored frame is the exclusive or of a cell's own side and its parent's, so up to four of them
    count: with s of them set, s - 2 relu(s - 1) + 2 relu(s - 2) - 2 relu(s - 3) is 1 for odd s, else 0.
    """
    first, second, third = (cast(nn.Conv2d, block.conv[i]) for i in (0, 2, 4))
    assert first.bias is not None
    assert second.bias is not None
    n = here.coefficients
    _clear(first, slice(n + SIDE_FEATURES))
    _clear(second, slice(n, n + SIDE_FEATURES))
    both = [n + 4, n + 5, n + 6]
    for axis in (0, 1):
        for channel in (here.side(axis), here.parent(axis)):
            for row in (n + axis, n + 2 + axis, *both):
                _tap(first, row, channel, 1.0)
    first.bias[n + 2 : n + SIDE_FEATURES] = torch.tensor([-1.0, -1, -1, -2, -3])
    for row in range(n, n + SIDE_FEATURES):
        _tap(second, row, row, 1.0)
    one_axis = [{n + axis: 1.0, n + 2 + axis: -2.0} for axis in (0, 1)]
    two_axes = {n: 1.0, n + 1: 1.0, n + 4: -2.0, n + 5: 2.0, n + 6: -2.0}
    for i in np.flatnonzero(odd.any(axis=1)).tolist():
        turned = two_axes if odd[i].all() else one_axis[int(odd[i, 1])]
        _clear(second, [i])
        _tap(first, i, i, 1.0)
        _tap(second, i, i, 1.0)
        second.bias[i] = -KEPT
        _tap(third, i, i, -2.0)
        for feature, factor in turned.items():
            _tap(second, i, feature, KEPT * factor)
            _tap(third, i, feature, 2 * factor)


def _set_last(vae: AutoencoderTiny, pictures: Tensor, coefficients: int) -> None:
    """Fit the last convolution's centre taps to pictures in [-1, 1] by least squares, over `ROWS` of their pixels."""
    layers = vae.decoder.layers
    features = layers[:-1](torch.tanh(vae.encode(pictures).latents / 3) * 3)[:, :coefficients]
    pixels = torch.randperm(features[:, 0].numel(), generator=torch.Generator().manual_seed(0))[:ROWS]
    known = features.movedim(1, -1).flatten(0, 2)[pixels].double()
    wanted = (pictures.movedim(1, -1).flatten(0, 2)[pixels].double() + 1) / 2
    solution = torch.linalg.lstsq(functional.pad(known, (0, 1), value=1.0), wanted).solution
    last = _clear(layers[-1])
    assert last.bias is not None
    last.weight[:, :coefficients, CENTRE, CENTRE] = solution[:-1].T.to(last.weight)
    last.bias.copy_(solution[-1])
