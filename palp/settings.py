"""Settings as frozen dataclasses: from a file's values, with names, types and ranges checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any, TypeVar

from palp.errors import InputError

__all__ = ["MOST_SEED", "CheckedSettings", "check_names", "from_mapping"]

MOST_SEED = 2**63 - 1  # a generator takes a little more; files and protocols do not

Settings = TypeVar("Settings")


class CheckedSettings:
    """What frozen dataclasses of settings share: values in and out by name, and one sentence for what is out of range.

    A subclass calls `require` in its `__post_init__`.
    """

    def require(self, name: str, holds: bool, expected: str) -> None:
        """Raise InputError with the setting's name and value unless it holds."""
        if not holds:
            raise InputError(f"the setting {name} is {getattr(self, name)!r}, and must be {expected}")

    def require_seeds(self, *names: str) -> None:
        """Raise InputError unless each of these settings can be a generator's seed."""
        for name in names:
            self.require(name, 0 <= getattr(self, name) <= MOST_SEED, "from 0 to below 2^63")

    @classmethod
    def from_mapping(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
        """Settings from a file's values; what is left out has its default.

        Raises:
            InputError: a name that is no setting, a value of another type, or out of its range.
        """
        return from_mapping(cls, values)

    def to_mapping(self) -> dict[str, Any]:
        """The values by name, for JSON and YAML."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # a subclass is a dataclass


def check_names(names: Iterable[str], known: Collection[str]) -> None:
    """Raise InputError unless all of these are settings."""
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"there is no setting {unknown[0]!r}: choose from {', '.join(known)}")


def from_mapping(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """A frozen dataclass of settings from values by name; what is left out has its default.

    Raises:
        InputError: a name that is no setting, a value of another type, or out of its range.
    """
    known = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    check_names(values, known)
    return kind(**{name: _typed(name, value, known[name]) for name, value in values.items()})


def _typed(name: str, value: Any, annotation: str) -> Any:
    """The value if its type is the field's; whole numbers and "1e-4", text in YAML, become floats.

    Settings within settings are taken as they are: who made them has checked them.
    """
    if value is None and "None" in annotation:
        return None
    kinds = {"float": float, "int": int, "bool": bool, "str": str, "Mapping": dict}
    kind = next((kind for prefix, kind in kinds.items() if annotation.startswith(prefix)), type(value))
    if type(value) is kind:
        return value
    if kind is float and not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            return float(value)
    raise InputError(f"the setting {name} is {value!r}, and must be of type {annotation.split(' |')[0]}")
