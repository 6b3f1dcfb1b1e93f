"""What the UNet families share."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from palp.adapter import Site
from palp.base.text import TextState
from palp.errors import InputError

SITES = {
    "attention": re.compile(r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$"),
    "cross": re.compile(r"\.attn2\.(to_q|to_k|to_v|to_out\.0)$"),
    "cross-kv": re.compile(r"\.attn2\.(to_k|to_v)$"),
    "cross-kv-ff": re.compile(r"\.(attn2\.(to_k|to_v)|ff\.net\.2)$"),
    "all": re.compile(r"\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.2)$"),
}
"""Choices of LoRA sites: all attention projections; those of cross-attention; its keys and values, which are made
once a picture; these and the feed-forward layers' way out, the one product a step and block; and all of these."""


def unet_sites(unet: nn.Module, which: str) -> tuple[Site, ...]:
    """Linear layers of the transformer blocks of `unet` in the choice `which`."""
    if which not in SITES:
        raise InputError(f"got LoRA sites {which!r}, expected one of {', '.join(SITES)}; choose one of these")
    return tuple(
        Site(name, module.in_features, module.out_features)
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and SITES[which].search(name)
    )


def conditions(text: TextState) -> dict[str, Any]:
    """What a UNet reads of prompts, as its arguments; `BlockAttention` takes what is projected."""
    known = None if text.projected is None else {"projected": text.projected}
    return {"encoder_hidden_states": text.hidden, "cross_attention_kwargs": known}
