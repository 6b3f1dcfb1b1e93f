"""What made a file: versions and commit, kept beside every result."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import palp

__all__ = ["provenance"]

PACKAGES = ("torch", "diffusers", "transformers", "safetensors")


def provenance() -> dict[str, str]:
    """Versions of palp-hyper and of the libraries that numbers depend on, and the commit when in a checkout."""
    found = {"palp-hyper": palp.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found | {"commit": _commit(Path(__file__).parent)}


def _commit(folder: Path) -> str:
    """The checked-out commit, with "+" after it when files differ from it; "unknown" outside a checkout of ours."""
    try:
        _git(folder, "ls-files", "--error-unmatch", "provenance.py")  # a virtualenv may lie in somebody's repository
        return _git(folder, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
