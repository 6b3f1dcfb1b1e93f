"""What the noisiest steps of a picture are drawn at."""

from __future__ import annotations

import pytest

from palp.opening import Opening, opening_ends, opening_prompt


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("a pencil sketch of [V] on a farm at night", "a photo of [V]"),
        ("an oil painting of [V] next to a teddy bear in a room", "a photo of [V] next to a teddy bear"),
        ("pixel art of [V] next to a pizza, cold colors", "a photo of [V] next to a pizza"),
        ("a comic of [V1] and [V2] with a ball on a beach", "a photo of [V1] and [V2] with a ball"),
        ("a watercolor of [V] sleeping in a box", "a photo of [V]"),
        ("[V] with", "a photo of [V] with"),
        ("a photo of [V]", "a photo of [V]"),
        ("an oil painting of [V1] inspired by [V2] painting", "a photo of [V1]"),
        ("a tree in a forest", "a tree in a forest"),
        ("", ""),
    ],
)
def test_an_opening_keeps_the_subjects_and_what_is_beside_them(prompt: str, opening: str) -> None:
    assert opening_prompt(prompt) == opening


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("a sketch of [V]", True),
        ("a sketch of [V1] and [V2] in a room", True),
        ("a photo of [V]", False),
        ("an oil painting of [V1] inspired by [V2] painting", False),
        ("a tree in a forest", False),
    ],
)
def test_a_prompt_opens_where_its_subjects_all_do_and_it_says_more(prompt: str, opens: bool) -> None:
    assert Opening(0.4, 0.5).opens(prompt) is opens
    assert Opening(0.4, 0.5).strength(prompt) == (0.5 if opens else 1.0)
    assert not Opening().opens(prompt)


def test_an_opening_is_the_noisiest_share_of_the_schedule() -> None:
    assert [opening_ends(1000, share) for share in (0.3, 0.7, 0.0, 1.0)] == [700, 300, 1000, 0]


@pytest.mark.parametrize(("own", "there"), [(2.5, 7.5), (9.0, 9.0), (1.0, 1.0)])
def test_an_opening_is_guided_at_least_so_much_where_there_is_guidance(own: float, there: float) -> None:
    assert Opening(0.4, guidance=7.5).guided(own) == there
    assert Opening(0.4).guided(own) == own
