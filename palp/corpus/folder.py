"""A corpus on disk, while it is built and when it is done.

plan.json                       what was asked for (compared by everyone who builds it), prompts, versions, commit
subjects/NAME.safetensors       adapters of all subjects; NAME.latents.safetensors; subjects.json with their hashes
shards/corpus-000000.tar        webdataset: KEY.adapter.safetensors, KEY.json (prompt and metrics), KEY.png;
                                and KEY.pictures.safetensors where it was trained on the base's own pictures
rejected/corpus-000000.tar      the same of what the gate refused, with the reason
manifest.json                   when it is there the corpus is complete
work/                           adapters on their way into a shard, and the builders' states; gone at the end
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palp.atomic import write_json
from palp.corpus.contract import CorpusPrompt
from palp.errors import CorpusError, InputError
from palp.provenance import provenance

__all__ = ["TWIN", "CorpusFolder", "Item", "Part"]

TWIN = "-twin"


@dataclass(frozen=True)
class Part:
    """One builder's share: the shards whose number leaves `index` when divided by `of`."""

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise InputError(f"shard {self.index}/{self.of} was asked for: count from 0/{self.of} to below {self.of}")

    def __str__(self) -> str:
        return f"part-{self.index}-of-{self.of}"


@dataclass(frozen=True)
class Item:
    """One adapter to be made: a prompt, with the shared seed or, as a twin, with the other."""

    key: str
    prompt: CorpusPrompt
    twin: bool


@dataclass(frozen=True)
class CorpusFolder:
    """Paths in a corpus, and what its plan says."""

    path: Path

    @property
    def plan(self) -> Path:
        """What was asked for."""
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        """What is in it; written last."""
        return self.path / "manifest.json"

    @property
    def subjects(self) -> Path:
        """Names, roles and hashes of the subjects."""
        return self.path / "subjects" / "subjects.json"

    @property
    def work(self) -> Path:
        """Of the builders."""
        return self.path / "work"

    def subject(self, name: str) -> Path:
        """A subject's adapter."""
        return self.path / "subjects" / f"{name}.safetensors"

    def latents(self, name: str) -> Path:
        """Latents of a subject's pictures."""
        return self.path / "subjects" / f"{name}.latents.safetensors"

    def shard(self, number: int) -> Path:
        """Accepted adapters; when it is there, all of its items are decided."""
        return self.path / "shards" / f"corpus-{number:06d}.tar"

    def rejected(self, number: int) -> Path:
        """What the gate refused of a shard's items."""
        return self.path / "rejected" / f"corpus-{number:06d}.tar"

    def staged(self, key: str, kind: str) -> Path:
        """A decided item's file: "safetensors", "png", and "json", which is written last."""
        return self.work / "items" / f"{key}.{kind}"

    def begin(self, plan: Mapping[str, Any], prompts: list[CorpusPrompt]) -> None:
        """Write the plan, or find the same one.

        Raises:
            InputError: the folder holds another corpus, or files of something else.
        """
        asked = json.loads(json.dumps({**plan, "prompts": [asdict(prompt) for prompt in prompts]}))
        if self.plan.is_file():
            before = self.read_plan()
            for name in dict.fromkeys([*asked, *before]):
                if before.get(name) != asked.get(name):
                    raise InputError(
                        f"{self.path} holds a corpus whose {name} differ from those asked for: "
                        "ask for the same to go on with it, or give --out another folder"
                    )
        elif self.path.is_dir() and any(not entry.name.startswith(".tmp-") for entry in self.path.iterdir()):
            raise InputError(f"{self.path} exists and holds no corpus: give --out a new or an empty folder")
        else:
            write_json(self.plan, {"plan": asked, "made_with": provenance()})

    def read_plan(self) -> dict[str, Any]:
        """What was asked for.

        Raises:
            CorpusError: it cannot be read.
        """
        return dict(read_json(self.plan)["plan"])

    def items(self) -> list[Item]:
        """Every adapter of the corpus, in the order of the shards: the prompts, then the twins."""
        plan = self.read_plan()
        return items_of(prompts_in(plan), plan["settings"]["twins"])

    def shards(self) -> list[list[Item]]:
        """The items of each shard."""
        items, size = self.items(), int(self.read_plan()["settings"]["shard_size"])
        return [items[start : start + size] for start in range(0, len(items), size)]

    def decided(self) -> int:
        """How many items are decided, by anyone."""
        staged = {path.stem for path in (self.work / "items").glob("*.json")}
        sealed = [self.shard(number).is_file() for number in range(len(self.shards()))]
        pairs = zip(sealed, self.shards(), strict=True)
        return sum(done or item.key in staged for done, items in pairs for item in items)


def items_of(prompts: Sequence[CorpusPrompt], twins: int) -> list[Item]:
    """An adapter for each prompt, then so many twins of the first training prompts."""
    train = [prompt for prompt in prompts if prompt.split == "train"]
    return [Item(p.key, p, False) for p in prompts] + [Item(p.key + TWIN, p, True) for p in train[:twins]]


def prompts_in(plan: Mapping[str, Any]) -> list[CorpusPrompt]:
    """Those that a plan names."""
    return [CorpusPrompt(**entry) for entry in plan["prompts"]]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a corpus.

    Raises:
        CorpusError: missing or damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}): build the corpus again, or check the path") from error


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_one(path: Path, wait: bool) -> Iterator[None]:
    """Within, no other process is in a block of this path; the lock goes with the process, however that ends.

    Args:
        wait: for the other one to leave; else it is an error.

    Raises:
        InputError: another process is there.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(f"another process builds {path.stem} here: wait for it, or stop it") from error
        yield
