"""Training settings: checks, files' values, learning-rate schedules."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from palp.errors import InputError
from palp.recipes import recipe
from palp.train import TrainSettings


def test_mappings_round_trip_through_json() -> None:
    how = TrainSettings(rank=4, min_snr=5.0, clip=None, schedule="cosine")
    assert TrainSettings.from_mapping(json.loads(json.dumps(how.to_mapping(), allow_nan=False))) == how
    assert TrainSettings.from_mapping({}) == TrainSettings()


def test_numbers_as_yaml_reads_them() -> None:
    how = TrainSettings.from_mapping({"lr": "1e-4", "alpha": 7, "lora_alpha": None})
    assert (how.lr, how.alpha, how.lora_alpha) == (1e-4, 7.0, None)
    assert isinstance(how.alpha, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"learning_rate": 1.0}, "no setting 'learning_rate': choose from rank"),
        ({"rank": 4.5}, "rank is 4.5, and must be of type int"),
        ({"rank": True}, "rank is True, and must be of type int"),
        ({"lr": "fast"}, "lr is 'fast', and must be of type float"),
        ({"lr": None}, "lr is None, and must be of type float"),
        ({"gradient_checkpointing": 1}, "of type bool"),
        ({"sites": 3}, "of type str"),
        ({"rank": 0}, "rank is 0, and must be at least 1"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": 0.0}, "lr is 0.0, and must be above 0"),
        ({"lr": "nan"}, "lr is nan"),
        ({"alpha": "inf"}, "alpha is inf, and must be finite"),
        ({"guidance_weight": -0.1}, "guidance_weight is -0.1, and must be 0 or above"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"min_snr": 0.0}, "min_snr is 0.0"),
        ({"t_min": 0.5, "t_max": 0.5}, "t_max is 0.5, and must be above t_min 0.5"),
        ({"t_max": 1.5}, "t_max is 1.5"),
        ({"sites": "everything"}, "one of attention, cross, cross-kv, cross-kv-ff, all"),
        ({"optimizer": "sgd"}, "one of adamw, prodigy"),
        ({"schedule": "linear"}, "one of constant, cosine"),
        ({"dtype": "int8"}, "one of float32"),
        ({"optimizer": "prodigy"}, "lr_placeholder is 0.0005, and must be 0.0001 like lr"),
    ],
)
def test_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainSettings.from_mapping(values)


def test_a_recipe_takes_no_limit_for_a_value_and_words_learn_as_fast_as_pairs_with_prodigy() -> None:
    how = recipe("icons", "subject", {"optimizer": "prodigy", "lr": 0.5, "clip": None})
    assert (how.lr, how.lr_placeholder, how.clip) == (0.5, 0.5, None)
    assert recipe("icons", "subject", {"optimizer": "prodigy"}).lr_placeholder == 1.0


def test_learning_rate_schedules() -> None:
    constant = TrainSettings(steps=10, warmup=3)
    assert [constant.lr_scale(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    cosine = TrainSettings(steps=10, warmup=2, schedule="cosine")
    scales = [cosine.lr_scale(step) for step in range(10)]
    assert scales[2] == 1.0
    assert scales[6] == pytest.approx(0.5)
    assert all(left > right > 0 for left, right in pairwise(scales[2:]))
