"""What is evaluated on: subjects kept for reports, pictures to learn them from, prompts of four elements or more."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from palp.base.icons.dataset import to_tensor
from palp.base.icons.grammar import Scene, caption, training_subjects
from palp.base.icons.places import DRAW
from palp.base.icons.portraits import portrait, wall
from palp.base.icons.render import Layout, render
from palp.errors import InputError
from palp.subjects import Subject

__all__ = [
    "GATE_TARGETS",
    "TARGETS",
    "TRANSFER",
    "TUNING_SUBJECTS",
    "TUNING_TARGETS",
    "Protocol",
    "character",
    "class_word",
    "clean_prompt",
    "file_name",
    "gate_protocol",
    "learnable",
    "photo_prompt",
    "renders",
    "report_protocol",
    "report_subjects",
    "target_prompt",
    "tuning_protocol",
]

PLACEHOLDER = "[V]"


def _target(
    style: str, place: str, weather: str = "none", palette: str = "none", companion: str | None = None
) -> Scene:
    return Scene(PLACEHOLDER, style, place, weather, palette, companion)


TARGETS = (  # style + subject + place + weather or palette, or both; in an order in which the first few differ most
    _target("watercolor", "beach", "sunset", "warm"),
    _target("pixel", "space", palette="cold"),
    _target("comic", "desert", "night", "vintage"),
    _target("oil", "meadow", "fog"),
    _target("sketch", "forest", "rain"),
    _target("stained glass", "castle hall", palette="pastel"),
    _target("neon", "city", "night"),
    _target("mosaic", "island", "sunset"),
    _target("chalk", "mountains", "snowfall"),
    _target("sepia", "farm", "rain", "cold"),
)
GATE_TARGETS = (  # more, with a second thing, for the question whether a prompt's adapter serves subjects it never met
    _target("oil", "snow field", "sunset", companion="robot"),
    _target("sketch", "room", palette="warm", companion="guitar"),
    _target("pixel", "underwater", "night", companion="fox"),
    _target("watercolor", "cave", "fog", companion="candle"),
    _target("comic", "stage", palette="pastel", companion="cactus"),
    _target("stained glass", "beach", palette="cold", companion="sunflower"),
    _target("mosaic", "meadow", "night", "warm", companion="bus"),
    _target("photo", "city", "snowfall", "cold", companion="owl"),
    _target("blueprint", "road", "rain"),
    _target("neon", "forest", "snowfall"),
    _target("chalk", "space", palette="vintage"),
    _target("sepia", "castle hall", "fog"),
    _target("photo", "desert", "sunset", "pastel"),
    _target("oil", "island", "rain", "vintage"),
)
TUNING_TARGETS = (  # others, for choosing settings
    _target("oil", "beach", "night"),
    _target("chalk", "city", "rain"),
    _target("watercolor", "cave", palette="cold"),
    _target("pixel", "farm", "snowfall"),
)
TUNING_SUBJECTS = ("otter", "lizard", "goat", "metro")  # of split "train"
TRANSFER = ("poodle", "gorilla", "turkey", "speedboat", "mantel clock")  # of split "train": they teach prompts
BACKDROPS = (  # of the pictures to learn from: two walls and two places that no target asks for
    lambda rng: wall((244, 244, 240), (232, 230, 224)),
    lambda rng: wall((206, 198, 222), (150, 138, 170), floor=True),
    DRAW["room"],
    DRAW["road"],
)


@dataclass(frozen=True)
class Protocol:
    """Every subject is drawn with every target prompt and every seed.

    Args:
        subjects: characters that the base never saw.
        targets: scenes whose subject is [V].
        seeds: of the pictures drawn.
        photo_seeds: of the pictures of "a photo of [V]", drawn with every adapter.
        transfer: other characters, from which the transferred residual adapters learn the prompts.

    Raises:
        InputError: nothing to draw, or a single prompt: "another prompt's adapter" needs another.
    """

    subjects: tuple[str, ...]
    targets: tuple[Scene, ...]
    seeds: tuple[int, ...]
    photo_seeds: tuple[int, ...]
    transfer: tuple[str, ...] = TRANSFER

    def __post_init__(self) -> None:
        if not self.subjects or len(self.targets) < 2 or not self.seeds or not self.photo_seeds:
            raise InputError(
                f"{len(self.subjects)} subjects, {len(self.targets)} prompts and {len(self.seeds)} seeds were asked "
                "for: ask for at least one subject, two prompts and one seed"
            )

    def other(self, target: Scene) -> Scene:
        """Another target than this one, a different one for each: the next in order."""
        return self.targets[(self.targets.index(target) + 1) % len(self.targets)]


def report_subjects() -> tuple[str, ...]:
    """The characters kept for reports, in no training or tuning of any part."""
    return tuple(name for name, entry in training_subjects().items() if entry["split"] == "report")


def report_protocol(subjects: int = 8, prompts: int = 10, seeds: int = 4) -> Protocol:
    """The first so many of report subjects and targets.

    Raises:
        InputError: more than there are, or too few.
    """
    return _protocol(report_subjects(), TARGETS, subjects, prompts, seeds)


def gate_protocol(subjects: int = 8, prompts: int = 24, seeds: int = 4) -> Protocol:
    """The first so many of report subjects, and of the targets of the report and of the gate, in turns.

    Raises:
        InputError: more than there are, or too few.
    """
    turns = [target for pair in zip_longest(TARGETS, GATE_TARGETS) for target in pair if target is not None]
    return _protocol(report_subjects(), turns, subjects, prompts, seeds)


def tuning_protocol(subjects: int = 3, prompts: int = 3, seeds: int = 2) -> Protocol:
    """The first so many of the subjects and targets that settings are chosen on; none is in a report.

    Raises:
        InputError: more than there are, or too few.
    """
    return _protocol(TUNING_SUBJECTS, TUNING_TARGETS, subjects, prompts, seeds)


def _protocol(names: Sequence[str], targets: Sequence[Scene], subjects: int, prompts: int, seeds: int) -> Protocol:
    for what, asked, there in (("subjects", subjects, len(names)), ("prompts", prompts, len(targets))):
        if asked > there:
            raise InputError(f"{asked} {what} were asked for, and there are {there}: ask for at most so many")
    drawn = tuple(range(seeds))
    return Protocol(tuple(names[:subjects]), tuple(targets[:prompts]), drawn, drawn[:2])


def file_name(name: str) -> str:
    """A character's name where it may become a file's."""
    return name.replace(" ", "-")


def character(name: str) -> str:
    """The character of a `file_name`.

    Raises:
        InputError: the picture world has none of this name.
    """
    known = {file_name(one): one for one in training_subjects()}
    if name not in known:
        raise InputError(
            f"{name!r} is no character of the picture world, and only those can be judged: evaluate a corpus that has "
            "no subjects of its own"
        )
    return known[name]


def class_word(name: str) -> str:
    """What the base calls such a character."""
    return training_subjects()[name]["class"]


def target_prompt(target: Scene) -> str:
    """y: "a pencil sketch of [V] in a forest in the rain"."""
    return caption(target)


def clean_prompt(target: Scene, name: str) -> str:
    """y_c: the target with the character's class word."""
    return caption(replace(target, subject=class_word(name)))


def photo_prompt(name: str | None = None) -> str:
    """y_P, "a photo of [V]", or with the character's class word."""
    return caption(Scene(PLACEHOLDER if name is None else class_word(name)))


def learnable(name: str) -> Subject:
    """The character as a user would bring it: four pictures, two before walls and two in places."""
    codepoint = training_subjects()[name]["codepoint"]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    pictures = [portrait(codepoint, backdrop(rng).convert("RGB"), rng) for backdrop in BACKDROPS]
    return Subject(class_word(name), to_tensor(np.stack([np.asarray(picture) for picture in pictures])))


def renders(scene: Scene, seeds: Sequence[int]) -> Float[Tensor, "layouts 3 128 128"]:
    """The scene itself, as the picture world draws it, in one layout a seed; in [-1, 1]."""
    return to_tensor(np.stack([_render(scene, seed) for seed in seeds]))


def _render(scene: Scene, seed: int) -> UInt8[np.ndarray, "128 128 3"]:
    rng = np.random.default_rng(seed)
    return render(scene, rng, Layout.random(rng, scene.companion is not None))
