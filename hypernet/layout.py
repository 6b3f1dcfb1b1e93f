"""What the names and shapes of adapter sites say: which layer, which kind of projection, which are alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from palp.adapter import Site

__all__ = ["alike", "layer_and_kind", "numbered"]

IN_BLOCK = re.compile(r"(.+)\.((?:attn\d+|ff)\..+)")


def layer_and_kind(site: str) -> tuple[str, str]:
    """The layer of a site and what it is there: "….transformer_blocks.0" and "attn1.to_q"."""
    found = IN_BLOCK.fullmatch(site)
    layer, kind = found.groups() if found else site.rpartition(".")[::2]
    return layer, kind


def numbered(names: Sequence[str]) -> list[int]:
    """Each name's number among the distinct ones, in the order in which they first come."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def alike(sites: Sequence[Site]) -> list[list[int]]:
    """The sites' positions, grouped by shape: one batched product serves a group."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, site in enumerate(sites):
        groups.setdefault((site.in_features, site.out_features), []).append(position)
    return list(groups.values())
