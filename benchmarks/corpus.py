"""A corpus' recipe in a bank of K adapters, against the same recipe with PEFT, one adapter after the other.

`python -m benchmarks.corpus runs/icons/corpus` takes recipe, subjects and prompts of a finished corpus, and writes what
is in it beside how fast such adapters are made: docs/results/corpus-NAME.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import setting
from benchmarks.measure import Rows, peak_memory, ratio, take_turns
from benchmarks.peers import PeftRegional
from hypernet.stage import recipe_settings
from palp.base import Base, load_base
from palp.corpus import CorpusPrompt, open_corpus
from palp.corpus.reader import OpenCorpus
from palp.corpus.stats import stats
from palp.corpus.subjects import Teacher, read_subjects
from palp.evaluate.intervals import Estimate, estimate
from palp.evaluate.results import RESULTS, table, write_results
from palp.guidance import RESIDUAL
from palp.prompt_pictures import on_latents
from palp.train import Job, JobSubject, Trainer, TrainSettings

SIZES = (1, 2, 4, 8, 16, 32, 64)
SEED = 0  # of every job, as in a corpus

Folder = Annotated[Path, typer.Argument(help="A finished corpus, of palp-hyper build-corpus.")]


def bank_step(base: Base, settings: TrainSettings, jobs: list[Job]) -> Callable[[], object]:
    """One step of all these adapters a call, as `build-corpus` makes them; of more steps than anyone will ask for."""
    trainer = Trainer(base, jobs, TrainSettings.from_mapping({**settings.to_mapping(), "steps": 10**6}))

    def step() -> None:
        for _ in trainer.run():
            break  # what is attached to the base for a step comes off again

    return step


def of_bank(source: str, folder: Path, slots: int) -> torch.device:
    """Two steps of a bank, for its memory."""
    base, settings, jobs = _opened(source, folder, slots)
    return _twice(base, bank_step(base, settings, jobs))


def of_peft(source: str, folder: Path) -> torch.device:
    """Two steps with PEFT, for their memory."""
    base, settings, _ = _opened(source, folder, 1)
    return _twice(base, PeftRegional(base, settings).step)


def _twice(base: Base, step: Callable[[], object]) -> torch.device:
    step()
    step()
    return base.device


def _opened(source: str, folder: Path, slots: int) -> tuple[Base, TrainSettings, list[Job]]:
    """The base, the corpus' recipe, and so many of its jobs, from the first prompt again after the last."""
    corpus = open_corpus(folder)
    prompts = [corpus.prompts[i % len(corpus.prompts)] for i in range(slots)]
    teachers = list(read_subjects(corpus.folder, "train").values())
    jobs = [Job(_members(corpus, prompt, teachers), RESIDUAL, SEED, prompt.key) for prompt in prompts]
    return load_base(source), recipe_settings(corpus.recipe), jobs


def _members(corpus: OpenCorpus, prompt: CorpusPrompt, teachers: Sequence[Teacher]) -> tuple[JobSubject, ...]:
    """The prompt over the training subjects, on the pictures that its adapter had."""
    own = tuple(teacher.at(prompt.text) for teacher in teachers)
    pictures = corpus.pictures(prompt.key)
    return own if pictures is None else on_latents(own, pictures)


def main(
    folder: Folder,
    source: setting.BaseOption = "icons",
    repeats: setting.Repeats = 5,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """What a corpus holds, and adapters an hour and peak memory by K."""
    sizes, repeats = (SIZES[:2], 2) if quick else (SIZES, repeats)
    base, settings, jobs = _opened(source, folder, max(sizes))
    cases = {f"bank of {k}": bank_step(base, settings, jobs[:k]) for k in sizes}
    times = take_turns({"peft": PeftRegional(base, settings).step, **cases}, repeats, base.device)
    rows: Rows = {"peft": {"adapters_per_hour": _per_hour(times["peft"], 1, settings.steps)}}
    rows["peft"]["peak_mib"] = peak_memory(of_peft, source, folder)
    for k in sizes:
        rows[f"bank of {k}"] = {
            "adapters_per_hour": _per_hour(times[f"bank of {k}"], k, settings.steps),
            "peak_mib": peak_memory(of_bank, source, folder, k),
            "time_by_k_peft": ratio(times, f"bank of {k}", "peft", k),
        }
    path = out or RESULTS / f"corpus-{base.name}.json"
    about: dict[str, Any] = {"steps": settings.steps, "batch": settings.batch, "rank": settings.rank, "rounds": repeats}
    about |= {"base": base.fingerprint, "device": base.device.type, "threads": torch.get_num_threads()}
    write_results(path, rows, "python -m benchmarks.corpus", about, _contents(folder, rows))
    print(table(rows))
    print(f"written to {path}")


def _contents(folder: Path, rows: Rows) -> Mapping[str, Any]:
    """What is in the corpus, and the two speeds that the bank is for."""
    corpus = open_corpus(folder)
    best = max((name for name in rows if name != "peft"), key=lambda name: rows[name]["adapters_per_hour"].value)
    speeds = {"bank": rows[best]["adapters_per_hour"], "sequential": rows["peft"]["adapters_per_hour"]}
    return {
        "adapters": _count(len(corpus.prompts)),
        "rejected": _count(len(corpus.rejected)),
        **{f"adapters_per_hour_{name}": value.as_json() for name, value in speeds.items()},
        "stats": stats(corpus),
    }


def _count(number: int) -> dict[str, float | int | None]:
    """A number that is known, in the form of those that are estimated."""
    return Estimate(number, number, number, number).as_json()


def _per_hour(step_ms: list[float], adapters: int, steps: int) -> Estimate:
    return estimate([3.6e6 * adapters / (steps * ms) for ms in step_ms])


if __name__ == "__main__":
    setting.run(main)
