"""Shards: tar files in webdataset's layout, the same bytes for the same content."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palp.adapter import Adapter
from palp.atomic import atomic_write
from palp.errors import CorpusError

__all__ = ["Shard", "write_shard"]

ADAPTER, RECORD, PREVIEW = "adapter.safetensors", "json", "png"
PICTURES = "pictures.safetensors"  # latents that the adapter was trained on, where they are not the subjects' own


def write_shard(path: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write samples, {"__key__": …, "png": bytes, …}, atomically, without times or owners."""
    from webdataset import TarWriter

    with (
        atomic_write(path) as temporary,
        temporary.open("wb") as file,
        TarWriter(file, encoder=False, mtime=0) as writer,
    ):
        for sample in samples:
            writer.write(sample)


@dataclass(frozen=True)
class Shard:
    """A shard, of which parts are read where they lie.

    Args:
        path: of the tar file.
        places: offset and size of each member, by key and kind.
    """

    path: Path
    places: Mapping[tuple[str, str], tuple[int, int]]

    @staticmethod
    def open(path: Path) -> Shard:
        """Read where things lie.

        Raises:
            CorpusError: missing, damaged, or with a member twice.
        """
        places: dict[tuple[str, str], tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    key, _, kind = member.name.partition(".")
                    if (key, kind) in places:
                        raise CorpusError(f"{path} holds {member.name} twice: build this shard again")
                    places[key, kind] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise CorpusError(f"the shard {path} cannot be read ({error}): delete it and build it again") from error
        return Shard(path, places)

    @property
    def keys(self) -> list[str]:
        """Of the samples, in their order."""
        return list(dict.fromkeys(key for key, _ in self.places))

    def read(self, key: str, kind: str) -> bytes:
        """The content of a member.

        Raises:
            CorpusError: it is not there, or cut off.
        """
        if (key, kind) not in self.places:
            raise CorpusError(f"{self.path} has no {kind} of {key}: build this shard again")
        offset, size = self.places[key, kind]
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise CorpusError(f"{self.path} is cut off in {key}: delete it and build it again")
        return content

    def adapter(self, key: str) -> Adapter:
        """The adapter of a sample.

        Raises:
            CorpusError, AdapterFileError: missing or damaged.
        """
        return Adapter.from_bytes(self.read(key, ADAPTER), f"{self.path}:{key}")

    def record(self, key: str) -> dict[str, Any]:
        """Prompt and metrics of a sample."""
        try:
            return dict(json.loads(self.read(key, RECORD)))
        except ValueError as error:
            raise CorpusError(f"{self.path} has a damaged record of {key}: build this shard again") from error
