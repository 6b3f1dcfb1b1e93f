"""Traffic for benchmarks: whose pictures are asked for, how many at once, and who is turned away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from palp.errors import InputError
from serving.bench.traffic import Popularity, Traffic, closed_loop, open_loop
from serving.contract import PictureRequest
from serving.engine import BatchEngine, EngineSettings
from tests.engines import library_of
from tests.tiny import tiny_base


def test_popularity() -> None:
    def counts(popularity: Popularity) -> list[int]:
        subjects = Traffic(popularity).subjects(1000, among=10)
        assert subjects == Traffic(popularity).subjects(1000, among=10)  # the same each time
        return [Counter(subjects)[subject] for subject in range(10)]

    assert counts("distinct") == [100] * 10
    assert counts("identical") == [1000, *[0] * 9]
    zipf = counts("zipf")
    assert zipf[0] > 1.5 * zipf[1] > 1.5 * zipf[4] > zipf[9] > 0
    with pytest.raises(InputError, match="concurrency is 0"):
        Traffic(concurrency=0)


def test_callers_wait_for_their_pictures_or_are_turned_away(tmp_path: Path) -> None:
    settings = EngineSettings(max_batch=2, max_waiting=3, slots=4, subject_rank=2)
    engine = BatchEngine(tiny_base("sd1"), library_of(tiny_base("sd1"), tmp_path), None, settings)
    requests = [PictureRequest("cat", seed=seed, steps=2) for seed in range(7)]
    try:
        one, two = (closed_loop(engine, requests, callers) for callers in (1, 3))
        assert one["batch_size"] == 1
        assert two["batch_size"] > 1.5
        assert one["refused"] == two["refused"] == 0  # more than the line holds, and never more at once than it holds
        for figures in (one, two):
            assert 0 < figures["p50_s"] <= figures["p95_s"] <= figures["p99_s"]
            assert figures["pictures_per_s"] > 0
        crowd = open_loop(engine, requests, per_s=1e6)
        assert 0 < crowd["refused"] < 1
        assert crowd["pictures_per_s"] > 0
        broken = [PictureRequest("a [V]", subject="s0", steps=2, subject_scale=1e38)]
        with pytest.raises(InputError, match="finite"):
            closed_loop(engine, broken, 1)
    finally:
        engine.close()
