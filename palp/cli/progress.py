"""Progress on standard error: a bar with the time left, and the loss while training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

__all__ = ["corpus_bar", "steps_bar", "training_bar"]


@contextmanager
def steps_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of so many steps; the function given advances it by one."""
    with _bar(total=total, desc=title, unit="step") as bar:

        def advance() -> None:
            bar.update()

        yield advance


@contextmanager
def training_bar(title: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar for a training; the function given takes steps done, steps in all, and the loss of the last one."""
    with _bar(desc=title, unit="step", smoothing=0.1) as bar:

        def report(done: int, total: int, loss: float) -> None:
            if bar.total != total:  # a resumed run starts in the middle, and its time left is of the rest
                bar.reset(total)
                bar.initial = bar.n = done - 1
            bar.update(done - bar.n)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

        yield report


@contextmanager
def corpus_bar(tensorboard: Path | None) -> Iterator[Callable[[str, float, int], None]]:
    """A bar for a corpus, with the time left and adapters per hour, and one log of all for tensorboard.

    The function given takes what is made, how many are done (parts count), and how many there are.
    """
    with _bar(unit="adapter", smoothing=0.1) as bar, ExitStack() as stack:
        log: Any = None
        if tensorboard is not None:
            from palp.logs import open_logs

            log = stack.enter_context(open_logs(tensorboard))
        begun: dict[str, tuple[float, float]] = {}

        def report(what: str, done: float, total: int) -> None:
            if what not in begun:  # a resumed build starts in the middle, and its rate is of the rest
                begun[what] = (time.monotonic(), done)
                bar.set_description(what, refresh=False)
                bar.set_postfix_str("", refresh=False)
                bar.initial = 0  # of what was made before
                bar.reset(total)
                bar.initial = bar.n = done
            start, before = begun[what]
            rate = 3600 * (done - before) / max(time.monotonic() - start, 1e-3)
            bar.update(done - bar.n)
            bar.set_postfix_str(f"{rate:.0f}/h", refresh=False)
            if log is not None:
                log.add_scalar(f"corpus/{what}", done, round(time.monotonic() - start))
                log.add_scalar(f"corpus/{what}_per_hour", rate, round(time.monotonic() - start))

        yield report


@contextmanager
def _bar(**options: Any) -> Iterator[Any]:
    """A bar that is gone afterwards, with warnings above it, each on a line of its own."""
    with logging_redirect_tqdm(), tqdm(leave=False, **options) as bar:
        yield bar
