"""A tiny corpus on a tiny base; `python -m tests.corpus_building IN OUT CHECKPOINT_S` builds it in its own process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from palp.corpus.build import build_part
from palp.corpus.folder import CorpusFolder, Part
from palp.corpus.plan import CorpusPlan, ExamPlan, Gate, PromptPlan, SubjectPlan
from palp.corpus.shards import Shard
from tests.commands import write_pictures
from tests.tiny import tiny_base

PROMPTS = (
    ("a sketch of [V]", "train"), ("a cat to [V]", "train"), ("[V] of a cap", "train"), ("a hat of [V]", "train"),
    ("[V] in rain", "word"),
)  # fmt: skip
OPEN_GATE = Gate(min_gain=-100.0, max_norm=100.0)


def plan_in(folder: Path, gate: Gate = OPEN_GATE) -> CorpusPlan:
    """Five prompts and a twin, over one subject, examined with another, and a third held out."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'{{"text": "{text}", "split": "{split}"}}' for text, split in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    roles = {"cat": "train", "cap": "probe", "hat": "held_out"}
    for seed, name in enumerate(roles):
        if not (folder / name).is_dir():
            write_pictures(folder / name, seed=seed)
    sizes = {"rank": 2, "batch": 2, "steps": 4, "lr": 1e-2}
    return CorpusPlan(
        PromptPlan(file=str(folder / "prompts.jsonl")),
        tuple(SubjectPlan(name, str(folder / name), name, role) for name, role in roles.items()),
        recipe={**sizes, "warmup": 1},
        subject_recipe={**sizes, "lr_placeholder": 1e-2},
        twins=1,
        slots=2,
        exams=ExamPlan(every=2, batch=2),
        gate=gate,
        shard_size=3,
        preview_steps=2,
    )


def build(folder: Path, out: Path, part: Part | None = None, gate: Gate = OPEN_GATE) -> CorpusFolder:
    """Build it, or a part of it."""
    return build_part(tiny_base("sd1"), plan_in(folder, gate), out, part or Part(), quiet)


def quiet(what: str, done: float, total: int) -> None:
    """A bar that nobody sees."""


def corpus_files(folder: CorpusFolder) -> dict[str, bytes]:
    """What is in a corpus, by path, without what builders leave on the way."""
    paths = [p for p in folder.path.rglob("*") if p.is_file() and folder.work not in p.parents]
    return {p.relative_to(folder.path).as_posix(): p.read_bytes() for p in paths}


def samples(folder: CorpusFolder) -> dict[str, Shard]:
    """Where each accepted adapter is."""
    shards = [Shard.open(folder.shard(number)) for number in range(len(folder.shards()))]
    return {key: shard for shard in shards for key in shard.keys}


if __name__ == "__main__":
    import palp.corpus.relays

    palp.corpus.relays.CHECKPOINT_S = float(sys.argv[3])
    announce: Callable[[str, float, int], None] = lambda what, done, total: print(what, done, flush=True)  # noqa: E731
    build_part(tiny_base("sd1"), plan_in(Path(sys.argv[1])), Path(sys.argv[2]), Part(), announce)
