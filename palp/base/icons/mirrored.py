"""Patterns on square patches that mirroring leaves alone or turns over: what the inverse decoder is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from numpy.typing import NDArray

from palp.base.icons.codec import PATCH, Array, patch_matrix, scaling_factor


@dataclass(frozen=True)
class Basis:
    """Patterns on square patches, each even or odd from left to right and from top to bottom.

    Args:
        patterns: orthonormal rows `[n, side, side, 3]`.
        odd: `[n, 2]`, whether a pattern is odd in x, and in y.
    """

    patterns: Array
    odd: NDArray[np.bool_]

    def quarter(self) -> Array:
        """The upper left quarters, `[n, side / 2, side / 2, 3]`."""
        half = self.patterns.shape[1] // 2
        return self.patterns[:, :half, :half]


def parity(patterns: Array) -> NDArray[np.bool_]:
    """Whether each pattern `[n, side, side, 3]` is odd in x, and in y: `[n, 2]`."""
    in_x = (patterns * patterns[:, :, ::-1]).sum(axis=(1, 2, 3)) < 0
    in_y = (patterns * patterns[:, ::-1]).sum(axis=(1, 2, 3)) < 0
    return np.stack([in_x, in_y], axis=1)


def quarters(basis: Basis, weights: Array, limit: int) -> Basis:
    """The best basis for the quarters of a basis' patterns that have these deviations `[n]`, of at most `limit`."""
    parts = basis.quarter() * weights[:, None, None, None]
    found: list[tuple[float, Array, tuple[bool, bool]]] = []
    for odd_x in (False, True):
        for odd_y in (False, True):
            even = parts + (-1) ** odd_x * parts[:, :, ::-1]
            kind = even + (-1) ** odd_y * even[:, ::-1]
            _, strength, rows = np.linalg.svd(kind.reshape(len(kind), -1), full_matrices=False)
            found += [(s, row, (odd_x, odd_y)) for s, row in zip(strength, rows, strict=True) if s > 1e-6]
    found.sort(key=lambda entry: -entry[0])
    kept = found[:limit]
    patterns = np.stack([row for _, row, _ in kept]).reshape(len(kept), *parts.shape[1:])
    return Basis(patterns, np.array([odd for *_, odd in kept]))


def encoder_basis(vae: AutoencoderTiny) -> tuple[Basis, Array, Array]:
    """The encoder's basis, and coefficients from latents inside the autoencoder: factors and offsets `[64]`."""
    weights, bias = (part.double().numpy() / scaling_factor(vae) for part in patch_matrix(vae))
    rows = weights.T * 2  # of pictures in [0, 1]
    middle = bias - weights.sum(axis=0)  # latents of black, which is -1 for the encoder
    norms = np.linalg.norm(rows, axis=1)
    patterns = (rows / norms[:, None]).reshape(-1, PATCH, PATCH, 3)
    return Basis(patterns, parity(patterns)), 1 / norms, -middle / norms


def mirrorings(odd: NDArray[np.bool_]) -> list[Array]:
    """The signs of coefficients in each of the four children, `[n]` each."""
    return [np.where(odd[:, 0] & right, -1.0, 1.0) * np.where(odd[:, 1] & low, -1.0, 1.0)
            for low in (False, True) for right in (False, True)]  # fmt: skip


def descend(basis: Basis, values: Array) -> tuple[Basis, Array]:
    """The basis of the quarters, and the map from flipped coefficients to theirs."""
    finer = quarters(basis, np.sqrt((values**2).mean(axis=0)), limit=len(basis.patterns))
    return finer, np.einsum("jhwc,ihwc->ji", finer.patterns, basis.quarter())
