"""Set up before any test module is imported: offline, two threads, shapes and types checked at every call."""

from __future__ import annotations

import os
import random
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from palp.base import Base
    from tests.corpora import TinyCorpus

# What a module under the hook is the first to import is compiled anew, others' code too: half a minute a process.
for name in (
    "accelerate",
    "beartype",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "fastapi.testclient",
    "peft",
    "scipy.ndimage",
    "torch._dynamo",
):
    import_module(name)

torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS", "2"))))
install_import_hook(["palp", "hypernet", "serving"], "beartype.beartype")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The same random numbers for a test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base() -> Base:
    """The lightest base there is; a module that needs another has its own."""
    from tests.light import light_base

    return light_base()


@pytest.fixture(scope="module")
def corpus(base: Base) -> TinyCorpus:
    """A corpus in memory on that base."""
    from tests.corpora import tiny_corpus

    return tiny_corpus(base)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD 1.x pipeline in diffusers format, for commands' --base."""
    from tests.tiny import save_tiny

    return save_tiny("sd1", tmp_path_factory.mktemp("tiny") / "sd1")
