"""Means with 95 % bootstrap intervals, resampled by cluster."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SMALLEST = 1e-9  # a denominator of less is none


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, and how many values it is over."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int | None]:
        """The form that results files hold; null for what is not defined."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {**{key: None if math.isnan(x) else round(x, 4) for key, x in numbers.items()}, "n": self.n}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    values: Sequence[float] | NDArray[np.float64], clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """Mean of `values` with a percentile bootstrap interval.

    Arguments:
        values: one number an observation, at least one.
        clusters: observations of the same cluster (a subject, say) are resampled together; none: each by itself.
        seed: of the resampling.
    """
    array = np.asarray(values, dtype=np.float64)
    keys = np.arange(len(array)) if clusters is None else np.unique([str(c) for c in clusters], return_inverse=True)[1]
    sums, counts = np.bincount(keys, weights=array), np.bincount(keys)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def ratio(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    clusters: Sequence[Hashable],
    seed: int = 0,
) -> Estimate:
    """Σ numerators / Σ denominators with a percentile bootstrap interval; both are resampled together, by cluster.

    Where a resampled denominator is about zero the ratio is wild, and so is the interval: it says so itself. Of
    denominators that add up to nothing there is no ratio: nan.
    """
    if abs(denominators.sum()) < SMALLEST:
        return Estimate(math.nan, math.nan, math.nan, len(numerators))
    keys = np.unique([str(cluster) for cluster in clusters], return_inverse=True)[1]
    tops, bottoms = np.bincount(keys, weights=numerators), np.bincount(keys, weights=denominators)
    draws = np.random.default_rng(seed).integers(0, len(tops), (RESAMPLES, len(tops)))
    ratios = tops[draws].sum(axis=1) / _not_zero(bottoms[draws].sum(axis=1))
    low, high = np.percentile(ratios, [2.5, 97.5])
    value = numerators.sum() / denominators.sum()
    return Estimate(float(value), float(low), float(high), len(numerators))


def _not_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(values) < SMALLEST, SMALLEST, values)
