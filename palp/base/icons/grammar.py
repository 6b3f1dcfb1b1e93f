"""The caption grammar of the picture world: STYLE of SUBJECT [companion] PLACE [time or weather] [palette]."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from importlib import resources

import numpy as np

STYLES: Mapping[str, tuple[str, ...]] = {
    "photo": ("a photo of", "a photograph of", "a picture of", "a snapshot of"),
    "sketch": ("a pencil sketch of", "a sketch of", "a pencil drawing of", "a graphite drawing of"),
    "watercolor": ("a watercolor painting of", "a watercolor of", "an aquarelle of"),
    "pixel": ("pixel art of", "a pixel art image of", "an 8-bit sprite of"),
    "neon": ("a neon sign of", "a glowing neon sign of", "neon lights of"),
    "blueprint": ("a blueprint of", "a technical blueprint of", "a blue print drawing of"),
    "comic": ("a comic drawing of", "a comic book panel of", "a cartoon of"),
    "sepia": ("an old sepia photograph of", "a sepia photo of", "an antique photograph of"),
    "oil": ("an oil painting of", "a painting in oil of", "an oil on canvas of"),
    "stained glass": ("a stained glass window of", "stained glass of", "a church window of"),
    "mosaic": ("a mosaic of", "a tile mosaic of", "a roman mosaic of"),
    "chalk": ("a chalk drawing of", "a blackboard drawing of", "chalk art of"),
}
PLACES: Mapping[str, tuple[str, ...]] = {
    "plain": ("", "on a plain background", "on a blank background"),
    "beach": ("on a beach", "at the beach", "on the sand by the sea"),
    "forest": ("in a forest", "in the woods", "among the trees"),
    "snow field": ("in a snow field", "in the snow", "on a snowy plain"),
    "desert": ("in a desert", "in the desert", "among sand dunes"),
    "underwater": ("underwater", "under the sea", "at the bottom of the ocean"),
    "city": ("in a city", "in front of a skyline", "in the city"),
    "meadow": ("in a meadow", "on a green meadow", "in a field of flowers"),
    "mountains": ("in the mountains", "in front of mountains", "in the alps"),
    "room": ("in a room", "in a living room", "indoors"),
    "stage": ("on a stage", "on a theater stage", "under stage lights"),
    "space": ("in space", "in outer space", "among the planets"),
    "farm": ("on a farm", "in front of a barn", "at a farm"),
    "road": ("on a road", "on a highway", "in the middle of a road"),
    "castle hall": ("in a castle hall", "in a throne room", "inside a castle"),
    "cave": ("in a cave", "inside a cave", "in a dark cavern"),
    "island": ("on an island", "on a small island", "on a desert island"),
}
WEATHERS: Mapping[str, tuple[str, ...]] = {
    "none": ("",),
    "night": ("at night", "by night", "in the moonlight"),
    "sunset": ("at sunset", "at dusk", "in the evening sun"),
    "rain": ("in the rain", "on a rainy day", "in heavy rain"),
    "fog": ("in the fog", "in the mist", "on a foggy day"),
    "snowfall": ("under falling snow", "while it snows", "with snowflakes falling"),
}
PALETTES: Mapping[str, tuple[str, ...]] = {
    "none": ("",),
    "warm": ("in warm colors", "with a warm palette", "in warm tones"),
    "cold": ("in cold colors", "with a cold palette", "in cold tones"),
    "pastel": ("in pastel colors", "with a pastel palette", "in pastel tones"),
    "vintage": ("in vintage colors", "with a vintage palette", "in vintage tones"),
}
COMPANIONS = ("next to", "beside", "with")
COMPANION_SHARE = 0.3  # of pictures show a second thing
HELD_OUT_SHARE = 10  # one (style, place, subject) combination in ten is never rendered for training


@dataclass(frozen=True)
class Scene:
    """What a picture shows, by canonical words; `companion` is None when there is none."""

    subject: str
    style: str = "photo"
    place: str = "plain"
    weather: str = "none"
    palette: str = "none"
    companion: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether this combination of style, place and subject is kept from every training."""
        return zlib.crc32(f"{self.style}|{self.place}|{self.subject}".encode()) % HELD_OUT_SHARE == 0


@cache
def glyphs() -> dict[str, dict[str, str]]:
    """Codepoint of every concept the base knows, by name, and of every training subject."""
    table = json.loads(resources.files(__package__).joinpath("glyphs.json").read_text())
    subjects = {name: entry["codepoint"] for name, entry in table["subjects"].items()}
    return {"concepts": table["concepts"], "subjects": subjects}


@cache
def training_subjects() -> dict[str, dict[str, str]]:
    """The novel characters: name -> codepoint, class word, split ("train" or "report")."""
    table: dict[str, dict[str, dict[str, str]]] = json.loads(
        resources.files(__package__).joinpath("glyphs.json").read_text()
    )
    return table["subjects"]


def concepts() -> tuple[str, ...]:
    """The words for things that the base learns."""
    return tuple(glyphs()["concepts"])


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun; placeholders such as "[V]" take none."""
    if noun.startswith("["):
        return noun
    if noun == "ufo":
        return "a ufo"
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def caption(scene: Scene, rng: np.random.Generator | None = None, subject: str | None = None) -> str:
    """Say a scene; with `rng` a random paraphrase, without it the first. `subject` replaces the subject's word."""
    pick = partial(_pick, rng)
    noun = with_article(subject if subject is not None else scene.subject)
    parts = [pick(STYLES[scene.style]), noun]
    if scene.companion is not None:
        parts += [pick(COMPANIONS), with_article(scene.companion)]
    parts += [pick(PLACES[scene.place]), pick(WEATHERS[scene.weather]), pick(PALETTES[scene.palette])]
    return " ".join(part for part in parts if part)


def _pick(rng: np.random.Generator | None, options: tuple[str, ...]) -> str:
    return options[0] if rng is None else options[int(rng.integers(len(options)))]


def random_scene(rng: np.random.Generator, simple: float = 0.0, held_out: bool = False) -> Scene:
    """Draw a scene; with probability `simple` nothing but things and a style (the curriculum for shapes).

    `held_out` chooses the side of the split: training draws never meet a held-out combination.
    """
    words = concepts()
    while True:
        subject = words[int(rng.integers(len(words)))]
        companion = words[int(rng.integers(len(words)))] if rng.random() < COMPANION_SHARE else None
        companion = companion if companion != subject else None
        if rng.random() < simple:
            style = "photo" if rng.random() < 0.5 else list(STYLES)[int(rng.integers(len(STYLES)))]
            scene = Scene(subject, style=style, companion=companion)
        else:
            scene = Scene(
                subject,
                style=list(STYLES)[int(rng.integers(len(STYLES)))],
                place=list(PLACES)[int(rng.integers(len(PLACES)))],
                weather=list(WEATHERS)[int(rng.integers(1, len(WEATHERS)))] if rng.random() < 0.35 else "none",
                palette=list(PALETTES)[int(rng.integers(1, len(PALETTES)))] if rng.random() < 0.3 else "none",
                companion=companion,
            )
        if scene.held_out == held_out:
            return scene


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can hold, lower case, sorted."""
    words: set[str] = {"a", "an"}
    for table in (STYLES, PLACES, WEATHERS, PALETTES):
        for options in table.values():
            for option in options:
                words.update(option.split())
    for phrase in (*COMPANIONS, *concepts()):
        words.update(phrase.split())
    return tuple(sorted(words))


SCENE_FIELDS = tuple(field.name for field in fields(Scene))
