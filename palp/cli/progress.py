"""Progress on standard error: a bar with the time left, and the loss while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["steps_bar", "training_bar"]


@contextmanager
def steps_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of so many steps; the function given advances it by one."""
    with tqdm(total=total, desc=title, unit="step", leave=False) as bar:

        def advance() -> None:
            bar.update()

        yield advance


@contextmanager
def training_bar(title: str) -> Iterator[Callable[[int, int, float], None]]:
    """A bar for a training; the function given takes steps done, steps in all, and the loss of the last one."""
    with tqdm(desc=title, unit="step", leave=False, smoothing=0.1) as bar:

        def report(done: int, total: int, loss: float) -> None:
            if bar.total != total:  # a resumed run starts in the middle, and its time left is of the rest
                bar.reset(total)
                bar.initial = bar.n = done - 1
            bar.update(done - bar.n)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

        yield report
