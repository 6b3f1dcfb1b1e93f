"""The resident adapters: a bank allotted once, and which combination is in which of its slots."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from palp.adapter import Adapter, AdapterSpec
from palp.bank import AdapterBank, key
from palp.base import Base
from palp.errors import InputError
from palp.merge import Merge

__all__ = ["BARE", "Part", "Slots"]

BARE = 0
"""The slot that holds zeros: the bare base."""

Combination: TypeAlias = tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One adapter of a combination.

    Args:
        key: the same for the same content, and for no other.
        adapter: of the engine's base, of any rank and any of its sites.
        scale: strength; 1 as trained.
    """

    key: str
    adapter: Adapter
    scale: float


class Slots:
    """Combinations of adapters in the slots of one bank, the least recently used giving way.

    A combination becomes one adapter by rank concatenation, which is the exact sum: rows of A below each other,
    columns of B side by side, each part's scale in its B. Installing it is a copy into rows that exist already.

    Args:
        base: the bank is attached to its denoiser until `close`.
        rank: of the bank; the ranks of a combination's parts may add up to it.
        count: slots beside `BARE`.
    """

    def __init__(self, base: Base, rank: int, count: int) -> None:
        spec = AdapterSpec(base.fingerprint, base.sites("all"), rank, float(rank), base.arithmetic)
        self.bank = AdapterBank(base.unet, spec, count + 1).requires_grad_(False).attach()
        self._merge = Merge(base.unet, self.bank, {site.name for site in base.sites("cross-kv")})
        self._slot_of: OrderedDict[Combination, int] = OrderedDict()
        self._users: Counter[int] = Counter()
        self._free = list(range(count, BARE, -1))

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def rank(self) -> int:
        """That the parts of a combination share."""
        return self.bank.spec.rank

    def acquire(self, parts: Sequence[Part]) -> int:
        """The slot that holds these parts, which stays theirs until it is released as often as acquired.

        Raises:
            InputError: the ranks do not fit, or every slot is in use.
        """
        if not parts:
            return BARE
        wanted = tuple((part.key, part.scale) for part in parts)
        if wanted not in self._slot_of:
            self._install(wanted, parts)
        slot = self._slot_of[wanted]
        self._slot_of.move_to_end(wanted)
        self._users[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        """One user less; the adapter stays resident until its slot is needed."""
        if slot != BARE:
            self._users[slot] -= 1

    def route(self, slots: Int[Tensor, "rows"]) -> AbstractContextManager[None]:
        """Inside the block the rows of a batch go through these slots; the bare base costs nothing."""
        return self.bank.route(None if bool((slots == BARE).all()) else slots)

    @property
    def merged(self) -> int:
        """The slot whose adapters are in the base's weights, `BARE` for none."""
        return BARE if self._merge.slot is None else self._merge.slot

    def merge(self, slot: int) -> None:
        """Have a slot's adapters in the base's weights, `BARE` for none; the base's own are set aside, never written.

        The layers that make the text's keys and values stay out.
        """
        if slot == BARE:
            self._merge.restore()
        elif slot != self._merge.slot:
            self._merge.merge(slot)

    def route_projected(self, slots: Int[Tensor, "rows"]) -> AbstractContextManager[None]:
        """As `route`, for calls with projected text: through the weights where they hold the slot of every row."""
        if self.merged != BARE and bool((slots == self.merged).all()):
            return nullcontext()
        self._merge.restore()
        return self.route(slots)

    def close(self) -> None:
        """Leave the denoiser as it was."""
        self._merge.restore()
        self.bank.detach()

    def _install(self, wanted: Combination, parts: Sequence[Part]) -> None:
        ranks = [part.adapter.spec.rank for part in parts]
        if sum(ranks) > self.rank:
            raise InputError(
                f"adapters of ranks {ranks} were given, and a slot has rank {self.rank}: start the engine with more"
            )
        slot = self._vacate()
        try:
            self._write(slot, parts)
        except BaseException:
            self._free.append(slot)
            raise
        self._slot_of[wanted] = slot

    def _vacate(self) -> int:
        """A slot that nobody uses."""
        if self._free:
            return self._free.pop()
        for combination, slot in self._slot_of.items():
            if not self._users[slot]:
                del self._slot_of[combination]
                return slot
        raise InputError(f"all {len(self._slot_of)} slots are in use: start the engine with more")

    @torch.no_grad()
    def _write(self, slot: int, parts: Sequence[Part]) -> None:
        if slot == self._merge.slot:
            self._merge.restore()
        self.bank.clear(slot)
        first = 0
        for part in parts:
            spec = part.adapter.spec
            rows = slice(first, first + spec.rank)
            for site in spec.sites:
                up = part.adapter.up[site.name].float() * (part.scale * spec.scale)
                self.bank.down[key(site.name)][slot, rows] = part.adapter.down[site.name].to(self.bank.device)
                self.bank.up[key(site.name)][slot, :, rows] = up.to(self.bank.device)
            first += spec.rank
