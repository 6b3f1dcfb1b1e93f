"""Results files: `docs/results/NAME.json`, every metric with its interval, and how it was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palp.atomic import write_json
from palp.evaluate.intervals import Estimate

RESULTS = Path("docs/results")
Row = Mapping[str, Estimate]


def write_results(
    path: Path,
    rows: Mapping[str, Row],
    made_by: str,
    settings: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write rows of estimates with the command, its settings, and the machine; `more` is JSON to stand beside them.

    The machine is the accelerator's name, where there is one and the settings do not say `device` "cpu".
    """
    import torch

    on_gpu = torch.cuda.is_available() and settings.get("device") != "cpu"
    gpu = torch.cuda.get_device_name() if on_gpu else None
    head = {
        "made_by": made_by,
        "settings": dict(settings),
        "torch": torch.__version__,
        "machine": gpu or platform.processor() or platform.machine(),
    }
    write_json(path, {**head, "rows": rows_as_json(rows), **(more or {})})


def rows_as_json(rows: Mapping[str, Row]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Every metric of every row as {"value", "low", "high", "n"}."""
    return {name: {metric: value.as_json() for metric, value in row.items()} for name, row in rows.items()}


def table(rows: Mapping[str, Row]) -> str:
    """The rows as a Markdown table: mean and 95 % interval."""
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | " + " | ".join(str(row[metric]) if metric in row else "–" for metric in metrics) + " |"
        )
    return "\n".join(lines)
