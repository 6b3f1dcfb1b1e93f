"""What is in an adapter file, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palp.adapter import Adapter

__all__ = ["describe", "table"]


def describe(path: Path) -> dict[str, Any]:
    """Spec, words, metadata and ‖ΔW‖ of every site of an adapter file, ready for JSON.

    Raises:
        AdapterFileError: as `Adapter.load`.
    """
    adapter = Adapter.load(path)
    spec = adapter.spec
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "base": spec.base,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "dtype": spec.dtype,
        "parameters": sum(spec.rank * (site.in_features + site.out_features) for site in spec.sites),
        "placeholders": {
            word: {encoder: list(vectors.shape) for encoder, vectors in encoders.items()}
            for word, encoders in adapter.placeholders.items()
        },
        "metadata": adapter.metadata,
        "sites": [
            {"name": site.name, "in": site.in_features, "out": site.out_features, "norm": norm}
            for site, norm in zip(spec.sites, adapter.norms().values(), strict=True)
        ],
    }


def table(description: Mapping[str, Any]) -> str:
    """`describe`'s answer as lines of text: first the facts, then the sites with their sizes and norms."""
    words = ", ".join(
        f"{word} ({' + '.join(str(shape[0]) for shape in encoders.values())} vectors)"
        for word, encoders in description["placeholders"].items()
    )
    facts = {
        "file": f"{description['file']} ({description['bytes'] / 1e6:.2f} MB)",
        "base": description["base"],
        "rank": f"{description['rank']}, alpha {description['alpha']:g}, {description['dtype']}",
        "parameters": f"{description['parameters']:,} in {len(description['sites'])} sites",
        "placeholders": words or "none",
        **description["metadata"],
    }
    width = max(map(len, facts))
    lines = [f"{key:<{width}}  {text}" for key, text in facts.items()]
    name_width = max(len(site["name"]) for site in description["sites"])
    lines += ["", f"{'site':<{name_width}}  {'in':>5} {'out':>5}  ‖ΔW‖"]
    for site in description["sites"]:
        lines.append(f"{site['name']:<{name_width}}  {site['in']:>5} {site['out']:>5}  {site['norm']:.4g}")
    return "\n".join(lines)
