"""Figures and pictures of a finished corpus."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from palp.adapter import Adapter
from palp.corpus.reader import OpenCorpus
from palp.errors import CorpusError
from palp.sheets import contact_sheet

__all__ = ["sheet", "stats"]


def stats(corpus: OpenCorpus) -> dict[str, Any]:
    """Counts by split, quantiles of the metrics, reasons of rejection, and how alike twins are, as JSON values."""
    keys = [prompt.key for prompt in corpus.prompts]
    rows = [corpus.metrics(key) for key in keys]
    return {
        "base": corpus.base,
        "adapters": len(keys),
        "twins": len(corpus.twins),
        "rejected": len(corpus.rejected),
        "reasons": dict(Counter(reason.split(" ")[0] for reason in corpus.rejected.values())),
        "splits": dict(Counter(prompt.split for prompt in corpus.prompts)),
        "clusters": len({prompt.cluster for prompt in corpus.prompts}),
        "subjects": dict(Counter("held out" if subject.held_out else "train" for subject in corpus.subjects)),
        "metrics": {name: _quantiles([row[name] for row in rows]) for name in (rows[0] if rows else ())},
        "twin_cosine": _twin_cosine(corpus),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{share:02d}": round(float(np.percentile(values, share)), 5) for share in (5, 50, 95)}


def _twin_cosine(corpus: OpenCorpus) -> float | None:
    """Mean cosine of ΔW of an adapter and its twin, both less the mean of their seed's: what a seed leaves the same.

    From inner products ⟨B₁A₁, B₂A₂⟩ = ⟨B₁ᵀB₂, A₁A₂ᵀ⟩; None with fewer than three twins.
    """
    if len(corpus.twins) < 3:
        return None
    own = [corpus.adapter(key) for key in corpus.twins]
    other = [corpus.twin(key) for key in corpus.twins]
    across, left, right = _inner(own, other), _inner(own, own), _inner(other, other)
    across, left, right = (_centred(inner) for inner in (across, left, right))
    return round(float((across.diag() / (left.diag() * right.diag()).clamp(min=1e-30).sqrt()).mean()), 4)


def _inner(rows: Sequence[Adapter], columns: Sequence[Adapter]) -> Float[Tensor, "rows columns"]:
    total = torch.zeros(len(rows), len(columns), dtype=torch.double)
    for site in (site.name for site in rows[0].spec.sites):
        a, b = (torch.stack([x.down[site].double() for x in part]) for part in (rows, columns))
        c, d = (torch.stack([x.up[site].double() for x in part]) for part in (rows, columns))
        for i in range(len(rows)):
            total[i] += ((c[i].mT @ d) * (a[i] @ b.mT)).sum((1, 2))
    return total


def _centred(inner: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Inner products of the same vectors less the means of both sides."""
    return inner - inner.mean(0, keepdim=True) - inner.mean(1, keepdim=True) + inner.mean()


def sheet(corpus: OpenCorpus, count: int) -> Image.Image:
    """Previews of so many prompts, evenly from all, with their texts and gains.

    Raises:
        CorpusError: the gate has refused them all.
    """
    prompts = corpus.prompts
    if not prompts:
        raise CorpusError(f"{corpus.folder.path} has no picture to show: all was rejected, see `corpus stats`")
    chosen = [prompts[int(i)] for i in np.unique(np.linspace(0, len(prompts) - 1, min(count, len(prompts))).round())]
    rows, labels = [], []
    for prompt in chosen:
        with Image.open(io.BytesIO(corpus.preview(prompt.key))) as image:
            rows.append([image.convert("RGB")])
        labels.append(f"{prompt.text} ({prompt.split}, gain {corpus.metrics(prompt.key)['gain']:.2f})")
    return contact_sheet(rows, labels)
