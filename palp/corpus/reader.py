"""Reading a finished corpus: what `palp.corpus.Corpus` promises, from the shards, when it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load, load_file
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec, Site
from palp.corpus.contract import CorpusPrompt, CorpusSubject
from palp.corpus.folder import TWIN, CorpusFolder, prompts_in, read_json
from palp.corpus.plan import PromptPlan
from palp.corpus.shards import PICTURES, PREVIEW, Shard
from palp.errors import CorpusError, InputError

__all__ = ["OpenCorpus", "finished", "open_corpus"]

FRESH = 4096  # prompts without an adapter, at most


class OpenCorpus:
    """A finished corpus on disk; adapters are read from their shards each time, subjects once."""

    def __init__(self, folder: CorpusFolder) -> None:
        self.folder, self.manifest = folder, read_json(folder.manifest)
        self._home: dict[str, Shard] = {}
        for number, row in enumerate(self.manifest["shards"]):
            shard = Shard.open(folder.shard(number))
            if shard.keys != row["keys"]:
                raise CorpusError(f"{shard.path} does not hold what the manifest says: run `corpus verify`")
            self._home |= dict.fromkeys(shard.keys, shard)

    @property
    def base(self) -> str:
        """Fingerprint of the base."""
        return str(self.manifest["base"])

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings that the adapters were trained with, and the shared seed."""
        return {**self.manifest["recipe"], "seed": self.manifest["seed"]}

    @property
    def content(self) -> str:
        """A hash of its adapters and subjects: of the hashes in the manifest."""
        files = [self.manifest["shards"], self.manifest["subjects"]]
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @cached_property
    def spec(self) -> AdapterSpec:
        """Of every prompt adapter.

        Raises:
            CorpusError: the gate has refused them all.
        """
        spec = self.manifest["spec"]
        if spec is None:
            raise CorpusError(f"{self.folder.path} has no adapter: all were rejected, see `corpus stats`")
        return AdapterSpec(**{**spec, "sites": tuple(Site(**site) for site in spec["sites"])})

    @cached_property
    def prompts(self) -> Sequence[CorpusPrompt]:
        """Those with an accepted adapter, in the order of their keys."""
        prompts = prompts_in(self.folder.read_plan())
        return tuple(sorted((p for p in prompts if p.key in self._home), key=lambda prompt: prompt.key))

    @cached_property
    def fresh_prompts(self) -> Sequence[CorpusPrompt]:
        """Training prompts of the same grammar that it has no adapter for; none where its prompts are a user's file.

        Raises:
            InputError: the grammar is no longer there.
            LeakageError: it has changed since, and one of them has what is held out.
        """
        plan = self.folder.read_plan()
        return tuple(PromptPlan(**plan["settings"]["prompts"]).fresh(prompts_in(plan), FRESH))

    @cached_property
    def subjects(self) -> Sequence[CorpusSubject]:
        """Training subjects and held-out ones; those that adapters were examined with are neither."""
        return tuple(
            CorpusSubject(
                name,
                entry["class_word"],
                load_file(self.folder.latents(name))["latents"],
                Adapter.load(self.folder.subject(name)),
                entry["role"] == "held_out",
            )
            for name, entry in self.manifest["subjects"].items()
            if entry["role"] != "probe"
        )

    @property
    def twins(self) -> Sequence[str]:
        """Keys of the prompts that also have an accepted adapter of another seed: the noise floor."""
        keys = (key.removesuffix(TWIN) for key in self._home if key.endswith(TWIN))
        return tuple(sorted(key for key in keys if key in self._home))

    @property
    def rejected(self) -> Mapping[str, str]:
        """Why the gate has refused what it refused."""
        return dict(self.manifest["rejected"])

    def adapter(self, key: str) -> Adapter:
        """The prompt adapter of a prompt.

        Raises:
            InputError: there is none; CorpusError, AdapterFileError: its shard is damaged.
        """
        return self._shard(key).adapter(key)

    def twin(self, key: str) -> Adapter:
        """The one of the other seed; raises as `adapter`."""
        return self.adapter(key + TWIN)

    def metrics(self, key: str) -> Mapping[str, float]:
        """Gain over the subject alone, losses in the exam, norm and steps; raises as `adapter`."""
        metrics: Mapping[str, float] = self._shard(key).record(key)["metrics"]
        return metrics

    def preview(self, key: str) -> bytes:
        """A small PNG file; raises as `adapter`."""
        return self._shard(key).read(key, PREVIEW)

    def pictures(self, key: str) -> Float[Tensor, "subjects pictures c h w"] | None:
        """Latents that an adapter was trained on, by training subject; None: the subjects' own. Raises as `adapter`."""
        shard = self._shard(key)
        return load(shard.read(key, PICTURES))["latents"] if (key, PICTURES) in shard.places else None

    def _shard(self, key: str) -> Shard:
        if key not in self._home:
            raise InputError(f"the corpus has no adapter {key!r}: it has {len(self._home)}, see `corpus stats`")
        return self._home[key]

    def record(self, key: str) -> dict[str, Any]:
        """Everything noted about an adapter; raises as `adapter`."""
        return self._shard(key).record(key)


def open_corpus(folder: Path) -> OpenCorpus:
    """A finished corpus.

    Raises:
        CorpusError: it is not finished, or its manifest or a shard cannot be read.
    """
    paths = finished(folder)
    try:
        return OpenCorpus(paths)
    except (KeyError, TypeError) as error:
        raise CorpusError(f"{paths.manifest} is damaged ({error!r}): run `corpus verify`") from error


def finished(folder: Path) -> CorpusFolder:
    """The folder of a finished corpus, whose content may be damaged.

    Raises:
        CorpusError: it is not finished.
    """
    paths = CorpusFolder(folder)
    if not paths.manifest.is_file():
        raise CorpusError(f"{folder} holds no finished corpus: run its build-corpus command again, to the end")
    return paths
