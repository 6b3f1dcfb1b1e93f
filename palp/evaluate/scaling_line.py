"""How far methods lie above the line that scaling the subject down draws, on a plane of two metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from palp.evaluate.intervals import RESAMPLES, Estimate

__all__ = ["above_line"]


def above_line(
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]],
    line: Sequence[str],
    clusters: Sequence[str],
    plane: tuple[str, str],
) -> dict[str, Estimate]:
    """How far a row's second metric lies above what the line keeps at the same first one.

    The line runs through the means of its rows; beyond its ends it is level. Clusters are resampled, rows and
    line together.

    Args:
        scores: one number a picture, by metric, by row.
        line: its rows; those that are not there are left out.
        clusters: of each picture.
        plane: the metrics along and above the line.
    """
    points = {name: _by_cluster(values, clusters, plane) for name, values in scores.items()}
    rungs = [points[name] for name in line if name in points]
    count = len(rungs[0])
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    out = {}
    for name, own in points.items():
        spread = [_height(own[draw].mean(axis=0), [rung[draw].mean(axis=0) for rung in rungs]) for draw in draws]
        low, high = np.percentile(spread, [2.5, 97.5])
        value = _height(own.mean(axis=0), [rung.mean(axis=0) for rung in rungs])
        out[name] = Estimate(value, float(low), float(high), len(clusters))
    return out


def _height(point: NDArray[np.float64], line: Sequence[NDArray[np.float64]]) -> float:
    rungs = np.array(sorted(line, key=lambda rung: float(rung[0])))
    return float(point[1] - np.interp(point[0], rungs[:, 0], rungs[:, 1]))


def _by_cluster(
    values: Mapping[str, NDArray[np.float64]], clusters: Sequence[str], plane: tuple[str, str]
) -> NDArray[np.float64]:
    """Mean of both metrics over each cluster, `[clusters, 2]`."""
    names = list(dict.fromkeys(clusters))
    of = np.array(clusters)
    return np.array([[values[metric][of == name].mean() for metric in plane] for name in names])
