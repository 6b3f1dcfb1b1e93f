"""What benchmarks take from the inside of the code is there; they are run by hand, and nobody else would notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.palp_step import PARTS
from benchmarks.shape import SHAPES, SIDES, Shape
from palp.base import load_base


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_a_step_that_are_timed_are_there(part: str) -> None:
    owner, name = PARTS[part]
    assert callable(getattr(owner, name))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_a_base_with_the_sites_of_the_whole(shape: Shape, tmp_path: Path) -> None:
    SHAPES[shape](8, SIDES[shape]).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device="cpu", dtype="float32")
    assert (base.name, len(base.sites())) == {"sd15": ("sd", 128), "sdxl": ("sdxl", 560)}[shape.value]
    x_t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert base.predict(x_t, torch.tensor([500]), base.encode_prompts(["a cat"])).isfinite().all()
