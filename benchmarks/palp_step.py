"""A PALP step against its floor: one forward and backward pass and four forward passes of the bare U-Net.

The floor has the same latents, captions and grouping: the student's batch with gradient into its text states, the base
at two prompts as one batch, and the student at two prompts as another. Goal: a step takes at most 1.15 times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import setting
from benchmarks.measure import Rows, milliseconds, ratio, report, take_turns
from palp.base import Base, load_base
from palp.base.device import finish
from palp.optim import SlotOptimizer
from palp.train import Step, Trainer, joint_job, losses
from palp.train.denoisers import BankDenoisers
from palp.train.draws import Pictures
from palp.train.words import PromptStates

SIZES = (1, 8)
PROFILED = 5  # steps
PARTS: dict[str, tuple[Any, str]] = {
    "draw": (Pictures, "draw"),
    "encode [V]": (PromptStates, "refresh"),
    "student forward": (losses, "native_of"),
    "guidance forwards of the base": (BankDenoisers, "_unlearned"),
    "guidance forwards of the student": (BankDenoisers, "student"),
    "backward": (torch.Tensor, "backward"),
    "optimiser": (SlotOptimizer, "step"),
}


def trainer(base: Base, jobs: int, steps: int) -> Trainer:
    """K jobs with the rule of PALP."""
    subjects = [[setting.subject(base, seed)] for seed in range(jobs)]
    made = [joint_job(base, own, setting.TARGET, rule="palp", seed=seed) for seed, own in enumerate(subjects)]
    return Trainer(base, made, setting.train_settings(base, steps))


def floor(base: Base, jobs: int) -> Callable[[], None]:
    """The U-Net's calls of a step, and nothing else."""
    rows = jobs * setting.BATCH
    x_t = torch.randn(rows, *base.latent_shape, device=base.device)
    t = torch.randint(len(base.schedule), (rows,), device=base.device)
    with torch.no_grad():
        text = base.encode_prompts(["a photo of a cat"]).repeat(rows)
    text.hidden.requires_grad_()
    pair = text.repeat(2).detach()

    def run() -> None:
        base.predict(x_t, t, text).sum().backward()
        text.hidden.grad = None
        with torch.no_grad():
            for _ in range(2):
                base.predict(x_t.repeat(2, 1, 1, 1), t.repeat(2), pair)

    return run


def where(device: torch.device, steps: Iterator[Step]) -> Rows:
    """Milliseconds of a step's parts, and what is left."""
    times: dict[str, list[float]] = {part: [] for part in (*PARTS, "the rest")}
    for _ in range(PROFILED):
        spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        with ExitStack() as stack:
            for part, (owner, name) in PARTS.items():
                stack.enter_context(_timed(owner, name, part, spent, device))
            start = time.perf_counter()
            next(steps)
            finish(device)
            whole = 1e3 * (time.perf_counter() - start)
        for part, value in (spent | {"the rest": whole - sum(spent.values())}).items():
            times[part].append(value)
    return milliseconds(times)


@contextmanager
def _timed(owner: Any, name: str, part: str, spent: dict[str, float], device: torch.device) -> Iterator[None]:
    """Within, calls of a function add to what is spent on a part."""
    original = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        finish(device)
        start = time.perf_counter()
        result = original(*args, **kwargs)
        finish(device)
        spent[part] += 1e3 * (time.perf_counter() - start)
        return result

    with patch.object(owner, name, timed):
        yield


def main(
    source: setting.BaseOption = "icons",
    device: setting.Device = None,
    dtype: setting.Dtype = "auto",
    repeats: setting.Repeats = 30,
    quick: setting.Quick = False,
    out: setting.Out = None,
) -> None:
    """Time one job and eight, and say where the time goes."""
    base = load_base(source, device, dtype)
    sizes, repeats = (SIZES[:1], 2) if quick else (SIZES, repeats)
    rows: Rows = {}
    for jobs in sizes:
        training = trainer(base, jobs, repeats + 1 + PROFILED)
        steps = training.run()
        ours, bare = f"{jobs} adapters", f"{jobs} adapters, floor"
        times = take_turns({ours: partial(next, steps), bare: floor(base, jobs)}, repeats, base.device)
        rows |= milliseconds(times)
        rows[ours]["by_floor"] = ratio(times, ours, bare)
        rows |= {f"{ours}: {part}": row for part, row in where(base.device, steps).items()}
    report("palp_step", base, rows, {"batch": setting.BATCH, "rank": setting.RANK, "rounds": repeats}, out)


if __name__ == "__main__":
    setting.run(main)
