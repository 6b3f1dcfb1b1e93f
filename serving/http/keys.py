"""Keys of callers: a file with the owner and the SHA-256 of each; the keys themselves are kept nowhere.

A key is 256 random bits, so a plain hash of it tells nothing, and no salt is needed. A line of the file is

    alice sha256:5e88…
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from palp.atomic import atomic_write
from palp.errors import InputError

__all__ = ["Keys", "add_key"]

OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LINE = re.compile(rf"({OWNER.pattern})\s+sha256:([0-9a-f]{{64}})")


class Keys:
    """Whose a key is."""

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys of a file.

        Raises:
            InputError: it cannot be read, has a line of another form, or no key at all.
        """
        digests: dict[str, bytes] = {}
        for number, line in enumerate(_lines(path), start=1):
            if not line or line.startswith("#"):
                continue
            match = LINE.fullmatch(line)
            if match is None or match[1] in digests:
                raise InputError(f"line {number} of {path} must be a new owner and sha256:…: make it by new-key")
            digests[match[1]] = bytes.fromhex(match[2])
        if not digests:
            raise InputError(f"{path} has no keys, and nobody could get in: add one with palp-serve new-key")
        return cls(digests)

    def owner(self, authorization: str | None) -> str | None:
        """The owner by an Authorization header: Bearer, or Basic with the key as password; None for nobody."""
        key = _key(authorization or "")
        if key is None:
            return None
        digest, found = hashlib.sha256(key).digest(), None
        for owner, known in self._digests.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(digest, known):
                found = owner
        return found


def add_key(path: Path, owner: str) -> str:
    """Make a key, add its hash to the file, and return it: nobody can show it again.

    Raises:
        InputError: the owner's name is not fit, or has a key.
        OutputError: the file cannot be written.
    """
    if OWNER.fullmatch(owner) is None:
        raise InputError(f"the owner is {owner!r}, and must be letters, digits, - and _, 64 at most")
    lines = _lines(path) if path.exists() else []
    if any(line.split(maxsplit=1)[:1] == [owner] for line in lines):
        raise InputError(f"{owner} has a key in {path} already: remove that line first")
    key = f"palp-{secrets.token_urlsafe(32)}"
    lines.append(f"{owner} sha256:{hashlib.sha256(key.encode()).hexdigest()}")
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return key


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise InputError(f"the keys file {path} cannot be read: {error}") from error


def _key(authorization: str) -> bytes | None:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # also of characters that are not ASCII
            return None
    return None
