"""The manifest: what is in a corpus, with a hash of every shard and subject; it is written last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palp.atomic import write_json
from palp.corpus.folder import TWIN, CorpusFolder, Item, read_json, sha256
from palp.corpus.shards import PREVIEW, Shard
from palp.errors import CorpusError, PalpError

__all__ = ["problems", "write_manifest"]

VERSION = 1


def write_manifest(folder: CorpusFolder) -> None:
    """Write `manifest.json` from the plan and the shards.

    Raises:
        CorpusError: an item is missing, there twice, or damaged: the sentence is the first problem found.
    """
    if found := next(problems(folder), None):
        raise CorpusError(found)
    plan, made_with = folder.read_plan(), read_json(folder.plan)["made_with"]
    rows: list[dict[str, Any]] = []
    rejected: dict[str, str] = {}
    spec: dict[str, Any] | None = None
    for number in range(len(folder.shards())):
        shard = Shard.open(folder.shard(number))
        rows.append({"file": shard.path.name, "sha256": sha256(shard.path), "keys": shard.keys})
        if spec is None and shard.keys:
            spec = asdict(shard.adapter(shard.keys[0]).spec)
        if folder.rejected(number).is_file():
            refused = Shard.open(folder.rejected(number))
            rejected |= {key: refused.record(key)["rejected"] for key in refused.keys}
    content = {
        "version": VERSION, "base": plan["base"], "spec": spec, "recipe": plan["recipe"],
        "seed": plan["settings"]["seed"], "shards": rows, "rejected": rejected, "made_with": made_with,
        "subjects": read_json(folder.subjects),
    }  # fmt: skip
    write_json(folder.manifest, content)


def problems(folder: CorpusFolder) -> Iterator[str]:
    """What is wrong with a corpus, a sentence each: missing, doubled, damaged or foreign items and subjects."""
    plan = folder.read_plan()
    where: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    known = {item.key: item for item in folder.items()}
    if folder.manifest.is_file():
        try:
            manifest = read_json(folder.manifest)
            hashes = {row["file"]: row["sha256"] for row in manifest["shards"]}
            yield from _bad_manifest(folder, manifest, plan)
        except (CorpusError, KeyError, TypeError) as error:
            yield f"{folder.manifest} is damaged ({error!r}): delete it and build the corpus again"
    for number, items in enumerate(folder.shards()):
        for path, refused in ((folder.shard(number), False), (folder.rejected(number), True)):
            if refused and not path.is_file():
                continue
            try:
                shard = Shard.open(path)
            except CorpusError as error:
                yield str(error)
                continue
            if not refused and hashes.get(path.name, sha256(path)) != sha256(path):
                yield f"{path} is not the file that the manifest names: delete it and build it again"
            for key in shard.keys:
                if key in where:
                    yield f"{key} is in {where[key].name} and in {path}: one of them is too many"
                where[key] = path
                if key not in known:
                    yield f"{key} in {path} is no item of the plan"
                else:
                    yield from _bad_sample(shard, known[key], plan, refused)
        if missing := [item.key for item in items if item.key not in where]:
            yield f"{missing[0]} is missing from {folder.shard(number)}: delete the shard and build it again"
    yield from _bad_subjects(folder)


def _bad_manifest(folder: CorpusFolder, manifest: dict[str, Any], plan: dict[str, Any]) -> Iterator[str]:
    names = [folder.shard(number).name for number in range(len(folder.shards()))]
    found = {"shards": [row["file"] for row in manifest["shards"]], "subjects": manifest["subjects"]}
    wanted = {"shards": names, "subjects": read_json(folder.subjects)}
    for name in ("base", "recipe"):
        found[name], wanted[name] = manifest[name], plan[name]
    for name, value in wanted.items():
        if found[name] != value:
            yield f"{folder.manifest} has other {name} than the plan: delete it and build the corpus again"


def _bad_sample(shard: Shard, item: Item, plan: dict[str, Any], refused: bool) -> Iterator[str]:
    key = item.key
    try:
        record = shard.record(key)
        if bool(record["rejected"]) != refused:
            yield f"{key} in {shard.path} is {'not ' if refused else ''}rejected by its record"
        if (record["prompt"], record["split"]) != (item.prompt.text, item.prompt.split):
            yield f"{key} in {shard.path} is of the prompt {record['prompt']!r}, and {item.prompt.text!r} by the plan"
        if not refused and (key, PREVIEW) not in shard.places:
            yield f"{key} in {shard.path} has no preview: delete the shard and build it again"
        if not refused or (key, "adapter.safetensors") in shard.places:
            adapter = shard.adapter(key)
            if adapter.spec.base != plan["base"] or adapter.spec.rank != plan["recipe"]["rank"]:
                yield f"{key} in {shard.path} is for {adapter.spec.base}, rank {adapter.spec.rank}: not of this corpus"
            seed = plan["settings"]["twin_seed" if key.endswith(TWIN) else "seed"]
            if (adapter.metadata["name"], adapter.metadata["seed"]) != (key, str(seed)):
                yield f"{key} in {shard.path} holds the adapter of {adapter.metadata['name']}"
    except (PalpError, KeyError) as error:
        yield f"{key} in {shard.path} is damaged: {error}"


def _bad_subjects(folder: CorpusFolder) -> Iterator[str]:
    for name, entry in read_json(folder.subjects).items():
        for kind, path in (("adapter", folder.subject(name)), ("latents", folder.latents(name))):
            if not path.is_file() or sha256(path) != entry[kind]:
                yield f"{path} is missing, or not the file that the corpus was built with: put that one back"
