"""`runs/icons.sh tiny`: from a corpus to an exported hypernetwork, by the commands that a user would give."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
STAGES = ["corpus", "verify", "train", "evaluate", "export"]


def test_the_whole_pipeline_in_small(tmp_path: Path) -> None:
    for name in ("runs/icons.sh", "configs/corpus-icons-tiny.yaml"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(HERE / name, tmp_path / name)
    command = Path(sys.executable).with_name("palp-hyper")
    where = {**os.environ, "PALP_HYPER": str(command), "PYTHONPATH": str(HERE)}
    done = subprocess.run([tmp_path / "runs/icons.sh", "tiny"], env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    out = tmp_path / "runs" / "icons-tiny"
    assert re.findall(r"^(\w+): \d+ s$", (out / "times.txt").read_text(), re.MULTILINE) == STAGES
    figures = json.loads((out / "docs" / "results" / "hypernet-icons.json").read_text())["rows"]
    assert {"predicted", "oracle", "mean", "neighbour", "refined"} <= figures.keys()
    assert (out / "docs" / "images" / "hypernet-icons.png").is_file()
    assert (out / "hypernet.onnx").is_file()
