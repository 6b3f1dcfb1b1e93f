"""Things in guises: what changes, what stays, and that nothing a report shows is among them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from palp.base.icons.dataset import render_example
from palp.base.icons.grammar import Scene, glyphs
from palp.base.icons.guise import LOOKS, THING, Guise, catalogue, disguised, strangers
from palp.base.icons.render import glyph

FOX = "U+1F98A"
LIKE = 0.75  # correlation of two glyphs from which on they count as alike


def look(codepoint: str) -> NDArray[np.float64]:
    """A glyph on grey, small, centred and of unit norm: products of two are correlations."""
    ground = Image.new("RGBA", glyph(codepoint).size, (128, 128, 128, 255))
    ground.alpha_composite(glyph(codepoint))
    small = np.asarray(ground.convert("RGB").resize((24, 24)), np.float64)
    centred = (small - small.mean()).ravel()
    unit: NDArray[np.float64] = centred / np.linalg.norm(centred)
    return unit


def test_no_stranger_has_a_name_or_is_a_subject() -> None:
    table = glyphs()
    named = set(table["concepts"].values()) | set(table["subjects"].values())
    assert len(strangers()) > 1000
    assert len(set(strangers())) == len(strangers())
    assert not named & set(strangers())


def test_no_stranger_looks_like_a_subject() -> None:
    subjects = np.stack([look(codepoint) for codepoint in glyphs()["subjects"].values()])
    likest = {codepoint: float((subjects @ look(codepoint)).max()) for codepoint in strangers()[::7]}
    assert max(likest.values()) < LIKE, max(likest, key=lambda codepoint: likest[codepoint])
    assert float((subjects @ look("U+1F63A")).max()) >= LIKE, "a cat that is left out for looking like one"


def test_a_guise_is_the_same_every_time_and_no_other() -> None:
    first, again, other = (np.asarray(Guise(seed, 1.0).worn(glyph(FOX))) for seed in (1, 1, 2))
    assert first.shape == (*glyph(FOX).size[::-1], 4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", range(6))
def test_without_strength_a_guise_only_mirrors(seed: int) -> None:
    worn = np.asarray(Guise(seed, 0.0).worn(glyph(FOX))).astype(int)
    plain = np.asarray(glyph(FOX)).astype(int)
    ink = plain[..., 3:] / 255
    distance = min(
        np.abs((worn - candidate) * shade).mean() for candidate, shade in ((plain, ink), (plain[:, ::-1], ink[:, ::-1]))
    )
    assert distance < 3, "of 255: colours go to hue and back, and corners to whole pixels"


def test_a_little_more_than_half_of_the_disguised_are_strangers() -> None:
    rng = np.random.default_rng(0)
    drawn = [disguised(Scene("fox", place="beach"), rng) for _ in range(300)]
    assert 0.5 < np.mean([scene.subject == THING for scene, _ in drawn]) < 0.7
    for scene, number in drawn:
        word, guise = catalogue()[number]
        assert word == scene.subject == (THING if guise.codepoint else "fox")
        assert scene.place == "beach"


def test_every_guise_of_a_concept_changes_it_and_the_first_of_a_stranger_does_not() -> None:
    for word, guise in catalogue():
        first = guise.codepoint is not None and guise.seed % LOOKS == 0
        assert guise.strength == 0 if first else guise.strength >= 0.3, word


def test_an_example_is_drawn_in_the_guise_that_its_name_says() -> None:
    example = render_example(5, guises=1.0)
    again = render_example(5, guises=1.0)
    assert example.name == again.name >= 0
    assert catalogue()[example.name][0] == example.scene.subject
    assert render_example(5).name == -1
