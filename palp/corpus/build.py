"""Building a corpus, or one builder's part of it: killed at any moment and run again, it goes on where it was."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from palp.atomic import atomic_write, write_json
from palp.base import Base
from palp.compose import over_subject
from palp.corpus.contract import CorpusPrompt
from palp.corpus.folder import CorpusFolder, Item, Part, items_of, only_one
from palp.corpus.manifest import write_manifest
from palp.corpus.plan import CorpusPlan, Gate
from palp.corpus.relays import Report, Saved, run_saved
from palp.corpus.shards import ADAPTER, PICTURES, PREVIEW, RECORD, write_shard
from palp.corpus.subjects import Teacher, find_learners, learn_subjects, read_subjects
from palp.draw import Picture, Sampling, draw
from palp.errors import InputError
from palp.guidance import RESIDUAL
from palp.prompt_pictures import clean_latents, on_latents
from palp.recipes import guidance_scale, recipe
from palp.sheets import save_png, to_images
from palp.train import Exams, Finished, Job, JobSubject, Relay, TrainSettings
from palp.train.relay import check_rounds
from palp.words import check_words

__all__ = ["build_part"]

EXAM = "exam.safetensors"  # latents that an adapter is examined on


def build_part(base: Base, plan: CorpusPlan, out: Path, part: Part, report: Report) -> CorpusFolder:
    """Make the adapters of a part; whoever finds all shards there writes the manifest.

    Raises:
        InputError: the folder holds another corpus, another process builds this part, there are fewer shards than
            parts, or what the plan names cannot be used.
        CorpusError, OutputError: what is on disk cannot be used, or nothing can be written.
    """
    folder, settings = CorpusFolder(out), recipe(base.name, "residual", plan.recipe)
    prompts = plan.prompts.prompts()
    _check(base, plan, settings, prompts, part, begun=folder.plan.is_file())
    identity = {"base": base.fingerprint, "arithmetic": base.arithmetic, "settings": plan.to_mapping()}
    folder.begin(
        {**identity, "recipe": {**settings.to_mapping(), "rule": RESIDUAL, "pictures": plan.pictures}},
        prompts,
    )
    shards = folder.shards()
    there = [folder.shard(number).is_file() for number in range(len(shards))]
    if not (folder.manifest.is_file() and all(there)):
        folder.manifest.unlink(missing_ok=True)  # a shard was deleted, to be built again
        with only_one(folder.work / f"{part}.lock", wait=False):
            learn_subjects(base, plan, folder, plan.slots, report)
            mine = {number: items for number, items in enumerate(shards) if number % part.of == part.index}
            if not all(folder.shard(number).is_file() for number in mine):
                _Builder(base, plan, folder, settings, mine).build(part, report)
        if all(folder.shard(number).is_file() for number in range(len(shards))):
            write_manifest(folder)
            shutil.rmtree(folder.work, ignore_errors=True)
    return folder


def _check(
    base: Base, plan: CorpusPlan, settings: TrainSettings, prompts: Sequence[CorpusPrompt], part: Part, begun: bool
) -> None:
    """Raise for what would stop the building on its way, before the plan is written."""
    shards = math.ceil(len(items_of(prompts, plan.twins)) / plan.shard_size)
    if part.of > shards:
        raise InputError(f"{part.of} builders were asked for, and there are {shards} shards: ask for no more")
    check_rounds(settings, plan.exams.every)
    recipe(base.name, "subject", plan.subject_recipe)
    for prompt in prompts:
        check_words(prompt.text, {"[V]"})
    if not begun:
        find_learners(base, plan)


class _Builder:
    """The items of some shards, through one relay."""

    def __init__(
        self,
        base: Base,
        plan: CorpusPlan,
        folder: CorpusFolder,
        settings: TrainSettings,
        shards: dict[int, list[Item]],
    ) -> None:
        self._base, self._plan, self._folder, self._settings, self._shards = base, plan, folder, settings, shards
        self._train = list(read_subjects(folder, "train").values())
        self._probe = list(read_subjects(folder, "probe").values()) or self._train
        self._weight = _weight_norm(base, settings)
        self._sampling = Sampling(plan.preview_steps, guidance_scale(base.name))

    def build(self, part: Part, report: Report) -> None:
        """Train what is not decided, and seal each shard as its last item is."""
        queue = self._queue(part)
        if queue:
            exams, jobs, tests = self._plan.exams, [], []
            for number, item in enumerate(queue):
                jobs.append(self._job(item))
                tests.append(self._exam(item))
                if self._plan.pictures == "prompt":
                    report("prompts drawn", float(number + 1), len(queue))
            work = Exams(tests, exams.batch, exams.patience, exams.min_delta)
            relay = Relay(self._base, jobs, self._settings, self._plan.slots, exams.every, work)
            identity = {"slots": str(self._plan.slots), "queue": json.dumps([item.key for item in queue])}
            for lap in run_saved(relay, Saved(self._state(part), identity)):
                if lap.finished:
                    self._decide([(queue[done.number], done) for done in lap.finished])
                    self._seal()
                report("adapters", lap.done, len(queue))
        self._seal()
        self._state(part).unlink(missing_ok=True)

    def _state(self, part: Part) -> Path:
        return self._folder.work / f"{part}.checkpoint.safetensors"

    def _queue(self, part: Part) -> list[Item]:
        """What is to be trained: that of the unfinished run, for its state counts on it; else what is not decided."""
        items = {item.key: item for items in self._shards.values() for item in items}
        path = self._folder.work / f"{part}.queue.json"
        if self._state(part).is_file() and path.is_file():
            return [items[key] for key in json.loads(path.read_text())]
        sealed = {i.key for n, rows in self._shards.items() if self._folder.shard(n).is_file() for i in rows}
        queue = [k for k in items if k not in sealed and not self._folder.staged(k, RECORD).is_file()]
        write_json(path, queue)
        return [items[key] for key in queue]

    def _job(self, item: Item) -> Job:
        seed = self._plan.twin_seed if item.twin else self._plan.seed
        return self._over(self._train, item, seed, PICTURES)

    def _exam(self, item: Item) -> Job:
        return self._over(self._probe, item, self._plan.exams.seed, EXAM)

    def _over(self, subjects: Sequence[Teacher], item: Item, seed: int, kind: str) -> Job:
        members = tuple(subject.at(item.prompt.text) for subject in subjects)
        if self._plan.pictures == "prompt":
            members = on_latents(members, self._latents(members, seed, self._folder.staged(item.key, kind)))
        return Job(members, RESIDUAL, seed, item.key)

    def _latents(self, members: Sequence[JobSubject], seed: int, path: Path) -> torch.Tensor:
        """Those that a killed run has drawn are taken; without them it would draw the same."""
        if not path.is_file():
            latents = clean_latents(self._base, members, seed)
            with atomic_write(path) as temporary:
                temporary.write_bytes(serialize({"latents": latents.contiguous()}))
        return load_file(path)["latents"]

    def _decide(self, pairs: Sequence[tuple[Item, Finished]]) -> None:
        """Write each item's files, the record last; items of sealed shards are there already."""
        sealed = {i.key for n, rows in self._shards.items() if self._folder.shard(n).is_file() for i in rows}
        pairs = [(item, done) for item, done in pairs if item.key not in sealed]
        finite = [(item, done) for item, done in pairs if _is_finite(done)]
        drawn = {}
        for (item, done), preview in zip(finite, self._previews(finite), strict=True):
            drawn[item.key] = preview is not None
            if preview is not None:
                save_png(preview, self._folder.staged(item.key, PREVIEW))
            done.adapter.save(self._folder.staged(item.key, "safetensors"))
        for item, done in pairs:
            metrics = self._metrics(done)
            record = {
                "prompt": item.prompt.text, "elements": dict(item.prompt.elements), "cluster": item.prompt.cluster,
                "split": item.prompt.split, "twin": item.twin, "metrics": metrics,
                "rejected": _reason(self._plan.gate, done, metrics, drawn.get(item.key, False)),
            }  # fmt: skip
            write_json(self._folder.staged(item.key, RECORD), record)

    def _previews(self, pairs: Sequence[tuple[Item, Finished]]) -> list[Any]:
        """Each prompt with its adapter and the first subject; None where that is no finite picture."""
        subject = self._train[0].adapter
        pictures = [Picture(item.prompt.text, 0, over_subject(subject, done.adapter)) for item, done in pairs]
        return self._drawn(pictures) if pictures else []

    def _drawn(self, pictures: Sequence[Picture]) -> list[Any]:
        try:
            return to_images(draw(self._base, pictures, self._sampling))
        except InputError:  # one of them is not finite
            return [None] if len(pictures) == 1 else [self._drawn([picture])[0] for picture in pictures]

    def _metrics(self, done: Finished) -> dict[str, float]:
        norm = math.sqrt(sum(value**2 for value in done.adapter.norms().values())) / self._weight
        gain = 1 - done.after / done.before if done.before else 0.0
        values = {"gain": gain, "loss": done.after, "loss_subject_only": done.before, "norm": norm}
        return {"steps": float(done.steps), **{name: v for name, v in values.items() if math.isfinite(v)}}

    def _seal(self) -> None:
        """Pack the shards whose items are all decided; the records stay until all is done."""
        for number, items in self._shards.items():
            path = self._folder.shard(number)
            if path.is_file() or not all(self._folder.staged(item.key, RECORD).is_file() for item in items):
                continue
            samples = [self._sample(item) for item in items]
            if refused := [s for s in samples if json.loads(s[RECORD])["rejected"]]:
                write_shard(self._folder.rejected(number), refused)
            else:  # of a shard that was deleted, to be built again
                self._folder.rejected(number).unlink(missing_ok=True)
            write_shard(path, [sample for sample in samples if not json.loads(sample[RECORD])["rejected"]])
            for item in items:
                for kind in ("safetensors", PREVIEW, PICTURES, EXAM):
                    self._folder.staged(item.key, kind).unlink(missing_ok=True)

    def _sample(self, item: Item) -> dict[str, Any]:
        files = {ADAPTER: "safetensors", PREVIEW: PREVIEW, RECORD: RECORD, PICTURES: PICTURES}
        paths = {kind: self._folder.staged(item.key, suffix) for kind, suffix in files.items()}
        return {"__key__": item.key, **{kind: path.read_bytes() for kind, path in paths.items() if path.is_file()}}


def _is_finite(done: Finished) -> bool:
    tensors = [*done.adapter.down.values(), *done.adapter.up.values()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _reason(gate: Gate, done: Finished, metrics: dict[str, float], drawn: bool) -> str | None:
    """Why an adapter is refused; None if it is not. `drawn`: whether its preview is a finite picture."""
    if done.failed_at >= 0 or not _is_finite(done) or "gain" not in metrics:
        return f"not finite in step {max(done.failed_at, done.steps)}"
    if metrics["gain"] < gate.min_gain:
        return f"gain {metrics['gain']:.4f} below {gate.min_gain}"
    if metrics["norm"] > gate.max_norm:
        return f"norm {metrics['norm']:.4f} above {gate.max_norm}"
    if not drawn:
        return "its picture is not finite"
    return None


def _weight_norm(base: Base, settings: TrainSettings) -> float:
    """‖W‖ over all sites."""
    weights = [base.unet.get_submodule(site.name).weight for site in base.sites(settings.sites)]
    return float(torch.stack([weight.detach().float().square().sum() for weight in weights]).sum().sqrt())
