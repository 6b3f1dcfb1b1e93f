"""Rounds of the same traffic on every side, and the figures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from palp.base import Base
from palp.errors import InputError
from palp.evaluate.intervals import Estimate, estimate
from palp.evaluate.results import rows_as_json
from palp.provenance import provenance
from serving.bench.sides import Sides
from serving.bench.traffic import Figures, Traffic
from serving.engine import Predictions

__all__ = ["BenchPlan", "compare", "run_bench"]


@dataclass(frozen=True)
class BenchPlan:
    """What is drawn.

    Args:
        adapters: distinct subjects, K.
        pictures: a round; for diffusers, `peer_pictures`.
        batch: pictures in a call of the denoiser.
        steps: denoising steps of a picture.
        rounds: each measured side has so many turns.
        peer_pictures: drawn by diffusers in a round; 0 leaves it out.

    Raises:
        InputError: a number below one.
    """

    adapters: int = 8
    pictures: int = 32
    batch: int = 8
    steps: int = 20
    rounds: int = 3
    peer_pictures: int = 8

    def __post_init__(self) -> None:
        for name in ("adapters", "pictures", "batch", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, and must be at least 1")


def run_bench(
    base: Base, source: str, plan: BenchPlan, traffic: Traffic, predictions: Predictions | None = None
) -> dict[str, Any]:
    """Measure, and return the figures as JSON values.

    Args:
        source: where diffusers finds the base: as for `load_base`, a folder or a hub id.
        predictions: where given, every picture also has a predicted adapter.
    """
    peer = source if plan.peer_pictures else None
    sides = Sides(base, peer, plan.adapters, plan.batch, traffic.concurrency, predictions)
    try:
        rounds = [sides.turn(traffic, plan.pictures, plan.peer_pictures, plan.steps) for _ in range(1 + plan.rounds)]
    finally:
        sides.close()
    return {
        "base": base.fingerprint,
        "device": torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": base.arithmetic,
        "prediction": None if predictions is None else predictions.network.runner,
        "plan": asdict(plan) | asdict(traffic),
        "sides": rows_as_json(compare(rounds[1:])),  # the first is to warm up
        "made_with": provenance(),
    }


def compare(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, Estimate]]:
    """The figures of every side over the rounds, and by which factor "adapters" draws more than each other side."""
    rows = {
        side: {figure: estimate([one[side][figure] for one in rounds]) for figure in figures}
        for side, figures in rounds[0].items()
    }
    for other in rows.keys() - {"adapters"}:
        factors = [one["adapters"]["pictures_per_s"] / one[other]["pictures_per_s"] for one in rounds]
        rows["adapters"][f"against_{other}"] = estimate(factors)
    return rows
