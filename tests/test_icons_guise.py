"""Things in guises: what changes, what stays, and that nothing a report shows is among them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from palp.base.icons.dataset import LOOSE, render_example
from palp.base.icons.grammar import Scene, caption, glyphs
from palp.base.icons.guise import THING, Guise, disguised, strangers
from palp.base.icons.render import Layout, glyph, render

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


def test_half_of_the_disguised_and_a_little_more_have_no_name() -> None:
    rng = np.random.default_rng(0)
    drawn = [disguised(Scene("fox", place="beach"), rng) for _ in range(300)]
    unnamed = [guise.codepoint is not None for _, guise in drawn]
    assert 0.5 < np.mean(unnamed) < 0.7
    for scene, guise in drawn:
        assert scene.subject == (THING if guise.codepoint else "fox")
        assert scene.place == "beach"
    assert caption(drawn[unnamed.index(True)][0]) == "a photo of a thing on a beach"


@pytest.mark.parametrize("seed", range(4))
def test_an_example_in_a_guise_differs_from_its_scene_and_one_without_is_as_ever(seed: int) -> None:
    scene, rng = Scene("fox", place="meadow"), np.random.default_rng(seed)
    layout = Layout.random(rng, with_companion=False)
    layout = layout.loosened(rng) if rng.random() < LOOSE else layout
    plain, guised = (render_example(seed, scene=scene, guises=share).picture for share in (0.0, 1.0))
    assert np.array_equal(plain, render(scene, rng, layout)), "no guise takes no draw: evaluations keep their pictures"
    assert not np.array_equal(plain, guised)
