"""A relay that survives: its state is on disk from the first moment, and a run goes on from the last one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from palp.train import Lap, Relay, checkpoint

__all__ = ["Report", "Saved", "run_saved"]

Report: TypeAlias = Callable[[str, float, int], None]
"""Called with what is made, how many are done (parts count), and how many there are."""

CHECKPOINT_S = 30.0
"""Seconds of work that a kill may cost."""


@dataclass(frozen=True)
class Saved:
    """Where a relay's state is, and what it must agree on with the relay that goes on."""

    path: Path
    identity: Mapping[str, str]


def run_saved(relay: Relay, saved: Saved) -> Iterator[Lap]:
    """`relay.run`, from the state on disk if there is one; the caller's work on a lap is done before it is saved.

    Raises:
        InputError: the state is of another relay.
    """
    if saved.path.is_file():
        relay.load_state_dict(checkpoint.load(saved.path, saved.identity))
    else:
        checkpoint.save(saved.path, relay.state_dict(), saved.identity)
    saved_at = time.monotonic()
    for lap in relay.run():
        yield lap
        if time.monotonic() - saved_at > CHECKPOINT_S:
            checkpoint.save(saved.path, relay.state_dict(), saved.identity)
            saved_at = time.monotonic()
