"""Prompt grammars: elements, their words, and the phrases that say each word."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from palp.errors import InputError

__all__ = ["Element", "Grammar", "read_grammar"]

SLOT = "[V]"
HELD_OUT_COMPANIONS = ("penguin", "guitar", "bus", "cactus", "donut", "robot", "candle", "owl")
HELD_OUT_IN = 10  # one pair of words in so many is kept from training


@dataclass(frozen=True)
class Element:
    """One kind of thing that a prompt may say, such as its style.

    Args:
        words: phrases by canonical word; of two or more, the last is kept for held-out paraphrases.
        share: of the prompts that say it; 1 for all.
        held_out: words that no training prompt has.
    """

    words: Mapping[str, tuple[str, ...]]
    share: float = 1.0
    held_out: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """The words of training prompts."""
        return tuple(word for word in self.words if word not in self.held_out)


@dataclass(frozen=True)
class Grammar:
    """Prompts made of elements.

    Args:
        template: the order, "{style} [V] {place}"; an element that is not said leaves nothing.
        elements: by name.
        pair: two elements, one in ten of whose pairs of words are kept for held-out combinations.
    """

    template: str
    elements: Mapping[str, Element]
    pair: tuple[str, str]

    def __post_init__(self) -> None:
        named = re.findall(r"\{(\w+)\}", self.template)
        if sorted(named) != sorted(self.elements) or self.template.count(SLOT) != 1:
            raise InputError(
                f"the template {self.template!r} must name each of {', '.join(self.elements)} once, and {SLOT} once"
            )
        if not set(self.pair) <= self.elements.keys():
            raise InputError(f"the pair {self.pair} must be two of the elements {', '.join(self.elements)}")
        for name, element in self.elements.items():
            if odd := [word for word in element.held_out if word not in element.words]:
                raise InputError(f"the held-out word {odd[0]!r} is none of the words of {name}")
            if len(element.known) < 1 or not all(element.words.values()):
                raise InputError(f"the element {name} needs a word for training, and each word a phrase")

    def say(self, phrases: Mapping[str, str]) -> str:
        """The prompt with these phrases, by element."""
        text = re.sub(r"\{(\w+)\}", lambda found: phrases.get(found[1], ""), self.template)
        return re.sub(r"\s+,", ",", " ".join(text.split()))

    def pair_is_held_out(self, words: Mapping[str, str]) -> bool:
        """Whether the words have one of the pairs that are kept from training."""
        if not set(self.pair) <= words.keys():
            return False
        return zlib.crc32("|".join(words[name] for name in self.pair).encode()) % HELD_OUT_IN == 0


def read_grammar(source: str) -> Grammar:
    """A grammar: "icons", "real" (for real bases), or a YAML file.

    Raises:
        InputError: there is no such file, or it is no grammar.
    """
    import yaml

    if source == "icons":
        return _icons()
    if source == "real":
        file: Traversable = resources.files(__package__).joinpath("grammars/real.yaml")
    elif Path(source).is_file():
        file = Path(source)
    else:
        raise InputError(f"there is no grammar {source}: give icons, real, or a YAML file")
    try:
        return _from_mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source} is no grammar ({error}): see palp/corpus/grammars/real.yaml for one") from error


def _from_mapping(values: Mapping[str, Any]) -> Grammar:
    elements = {
        name: Element(
            {str(word): _phrases(phrases) for word, phrases in entry["words"].items()},
            float(entry.get("share", 1.0)),
            tuple(entry.get("held_out", ())),
        )
        for name, entry in values["elements"].items()
    }
    first, second = values["pair"]
    return Grammar(values["template"], elements, (first, second))


def _phrases(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(phrase) for phrase in value)


def _icons() -> Grammar:
    """The embedded base's own tables; words that may be said by saying nothing are left out."""
    from palp.base.icons import grammar as tables

    def element(table: Mapping[str, tuple[str, ...]], share: float, *held_out: str) -> Element:
        return Element({word: phrases for word, phrases in table.items() if all(phrases)}, share, held_out)

    return Grammar(
        "{style} [V] {companion} {place} {weather} {palette}",
        {
            "style": element(tables.STYLES, 1.0, "mosaic", "blueprint"),
            "companion": element(_companions(), 0.35, *HELD_OUT_COMPANIONS),
            "place": element(tables.PLACES, 1.0, "cave", "island"),
            "weather": element(tables.WEATHERS, 0.6, "fog"),
            "palette": element(tables.PALETTES, 0.5, "vintage"),
        },
        ("style", "place"),
    )


def _companions() -> dict[str, tuple[str, ...]]:
    """How a second thing is said, for everything that the embedded base knows."""
    from palp.base.icons import grammar as tables

    return {
        thing: tuple(f"{beside} {tables.with_article(thing)}" for beside in tables.COMPANIONS)
        for thing in tables.concepts()
    }
