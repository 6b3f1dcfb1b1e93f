"""One corpus of several folders that each hold some of its shards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from palp.atomic import atomic_write
from palp.corpus.folder import CorpusFolder, prompts_in, read_json, sha256
from palp.corpus.manifest import write_manifest
from palp.errors import CorpusError, InputError

__all__ = ["merge"]


def merge(sources: Sequence[Path], out: Path) -> CorpusFolder:
    """Copy the shards of all sources to `out` and write the manifest; run again after a kill, it goes on.

    Raises:
        CorpusError: sources of different plans or subjects, a shard that differs between two, or one that none has.
        InputError: `out` holds another corpus, or files of something else; nothing is changed there.
    """
    folders = [CorpusFolder(path) for path in sources]
    if not folders:
        raise InputError("no corpora to merge were given: give the folders of all parts")
    plan, subjects = folders[0].read_plan(), read_json(folders[0].subjects)
    for other in folders[1:]:
        theirs = {"plan": other.read_plan(), "subjects": read_json(other.subjects)}
        for what, mine in (("plan", plan), ("subjects", subjects)):
            if mine != theirs[what]:
                raise CorpusError(
                    f"{other.path} has another {what} than {folders[0].path}: build all parts with one plan, and start "
                    "each from a copy of plan.json and subjects/ of the first"
                )
    target = CorpusFolder(out)
    target.begin({name: value for name, value in plan.items() if name != "prompts"}, prompts_in(plan))
    target.manifest.unlink(missing_ok=True)
    for name in ("plan.json", "subjects"):
        for path in sorted([folders[0].path / name] if name.endswith("json") else (folders[0].path / name).iterdir()):
            _copy(path, out / path.relative_to(folders[0].path))
    for number in range(len(folders[0].shards())):
        holders = [folder for folder in folders if folder.shard(number).is_file()]
        if not holders:
            raise CorpusError(f"no part holds {target.shard(number).name}: finish the part that builds it")
        if len({sha256(folder.shard(number)) for folder in holders}) > 1:
            names = " and ".join(str(folder.path) for folder in holders)
            raise CorpusError(f"{names} both hold {target.shard(number).name}, not the same: keep one of them")
        if holders[0].rejected(number).is_file():
            _copy(holders[0].rejected(number), target.rejected(number))
        _copy(holders[0].shard(number), target.shard(number))
    write_manifest(target)
    return target


def _copy(source: Path, target: Path) -> None:
    if not (target.is_file() and sha256(target) == sha256(source)):
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
