"""The renderer: deterministic, and every word of a scene shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from palp.base.icons import render as renderer
from palp.base.icons.dataset import render_example, to_tensor
from palp.base.icons.grammar import PALETTES, PLACES, STYLES, WEATHERS, Scene, training_subjects
from palp.base.icons.judges import labels
from palp.base.icons.render import Layout, find_font, foreground, glyph, render
from palp.errors import InputError

LAYOUT = Layout((64, 112, 80, 0.0), (104, 112, 48, 0.0), variant=1, backdrop=7)
VISIBLE = 2.0  # mean difference in grey levels that counts as another picture; the least is 3.9


def drawn(scene: Scene) -> NDArray[np.uint8]:
    return render(scene, np.random.default_rng(0), LAYOUT)


def assert_all_differ(pictures: dict[str, NDArray[np.uint8]]) -> None:
    for (one, first), (other, second) in itertools.combinations(pictures.items(), 2):
        difference = np.abs(first.astype(np.int16) - second.astype(np.int16)).mean()
        assert difference > VISIBLE, (one, other)


def test_shape_and_values() -> None:
    example = render_example(3)
    assert example.picture.shape == (128, 128, 3)
    assert example.picture.dtype == np.uint8
    assert example.cover.shape == (8, 8)
    assert 0 < example.cover.mean() < 1


def test_a_seed_gives_one_picture() -> None:
    first, again, other = (render_example(seed) for seed in (11, 11, 12))
    assert first.scene == again.scene
    assert np.array_equal(first.picture, again.picture)
    assert np.array_equal(first.cover, again.cover)
    assert not np.array_equal(first.picture, other.picture)


def test_a_third_of_the_pictures_stand_off_the_grid() -> None:
    covers = [render_example(seed, scene=Scene("fox")).cover for seed in range(120)]
    loose = [bool(((cover > 0) & (cover < 1)).any()) for cover in covers]
    assert 0.2 < np.mean(loose) < 0.46, "three standard deviations of 120 draws"
    cells = [cover.sum() for cover in covers]
    assert min(cells) >= (72 / 16) ** 2 - 1e-3
    assert max(cells) <= (88 / 16) ** 2 + 1e-3


def test_every_style_shows() -> None:
    assert_all_differ({style: drawn(Scene("fox", style, "meadow")) for style in STYLES})


def test_every_place_shows() -> None:
    assert_all_differ({place: drawn(Scene("fox", place=place)) for place in PLACES})


@pytest.mark.parametrize("style", STYLES)
def test_every_weather_shows_in_every_style(style: str) -> None:
    assert_all_differ({weather: drawn(Scene("fox", style, "meadow", weather)) for weather in WEATHERS})


@pytest.mark.parametrize("style", STYLES)
def test_every_palette_shows_in_every_style(style: str) -> None:
    assert_all_differ({name: drawn(Scene("fox", style, "meadow", palette=name)) for name in PALETTES})


def test_a_companion_shows_where_it_stands_and_nowhere_else() -> None:
    alone, together = drawn(Scene("fox", place="meadow")), drawn(Scene("fox", place="meadow", companion="bee"))
    changed = np.nonzero((alone != together).any(axis=2))
    x, bottom, side, _ = LAYOUT.companion
    assert changed[0].size > 100
    assert bottom - side <= changed[0].min()
    assert changed[0].max() < bottom
    assert x - side // 2 <= changed[1].min()
    assert changed[1].max() < x + side // 2


def test_foreground_is_the_things_squares() -> None:
    mask = foreground(LAYOUT, with_companion=False)
    assert mask[32:112, 24:104].min() == 1
    assert mask.sum() == 80 * 80
    assert foreground(LAYOUT, with_companion=True)[64:112, 104:128].min() == 1


@pytest.mark.parametrize("with_companion", [False, True])
def test_training_layouts_stand_on_the_grid(with_companion: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        layout = Layout.random(rng, with_companion)
        for x, bottom, side, tilt in (layout.subject, layout.companion):
            assert (x - side // 2) % 16 == bottom % 16 == tilt == 0


def test_the_judges_know_no_subject_of_the_reports() -> None:
    split = {name: entry["split"] for name, entry in training_subjects().items()}
    known = set(labels()["subject"]) & set(split)
    assert known == {name for name, part in split.items() if part == "train"}


def test_to_tensor_by_hand() -> None:
    picture = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    picture[0, 0, 1] = (255, 51, 0)
    assert to_tensor(picture)[0, :, 0, 1].tolist() == pytest.approx([1.0, -0.6, -1.0])
    assert to_tensor(picture)[0, :, 1, 0].tolist() == [-1, -1, -1]


@pytest.fixture
def no_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    missing = tmp_path / "nothing.ttf"
    monkeypatch.setenv("PALP_EMOJI_FONT", str(missing))
    renderer.glyph.cache_clear()
    renderer._sprite.cache_clear()
    yield missing
    renderer.glyph.cache_clear()


def test_no_font_is_said_in_one_sentence(no_font: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.ttf: install fonts-noto-color-emoji") as caught:
        render_example(0)
    assert "PALP_EMOJI_FONT" in str(caught.value)


def test_the_font_is_found_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    font = find_font()
    monkeypatch.setenv("PALP_EMOJI_FONT", str(font))
    assert find_font() == font


def test_a_character_without_a_glyph_is_refused() -> None:
    with pytest.raises(InputError, match=r"U\+E000"):
        glyph("U+E000")
