"""What benchmarks take from the inside of the code is there; they are run by hand, and nobody else would notice."""

from __future__ import annotations

import pytest

from benchmarks.palp_step import PARTS


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_a_step_that_are_timed_are_there(part: str) -> None:
    owner, name = PARTS[part]
    assert callable(getattr(owner, name))
