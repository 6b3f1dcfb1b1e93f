"""One corpus by several builders: parts of a Slurm array, a process a device, tasks of a Ray cluster.

A bank of one slot gives every adapter the same neighbours, none, so all of these give the same bytes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from palp.cli.build_corpus import absolute_base
from palp.corpus.executors import Request, run_processes, run_ray
from palp.corpus.folder import CorpusFolder, Part
from palp.corpus.manifest import problems
from palp.errors import InputError
from tests.commands import PALP_HYPER, refuses, succeeds
from tests.corpus_building import corpus_files, plan_in

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Order:
    """What all builders are asked for, and what one builder alone makes of it."""

    plan: Path
    base: Path
    alone: CorpusFolder

    def build(self, out: Path, *options: str) -> str:
        """Run the command, and return what it prints."""
        return _build_corpus(self.plan, out, self.base, *options)

    def check(self, out: Path) -> None:
        """A whole corpus, and that of one builder alone."""
        assert list(problems(CorpusFolder(out))) == []
        got, wanted = corpus_files(CorpusFolder(out)), corpus_files(self.alone)
        assert got.keys() == wanted.keys()
        assert [name for name in got if got[name] != wanted[name]] == []


def _build_corpus(plan: Path, out: Path, base: Path, *options: str) -> str:
    return succeeds(PALP_HYPER, "build-corpus", plan, "--out", out, "--base", base, "--dtype", "float32", *options)


@pytest.fixture(scope="module")
def order(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    folder = tmp_path_factory.mktemp("builders")
    plan = folder / "plan.yaml"
    plan.write_text(json.dumps(asdict(replace(plan_in(folder / "in"), slots=1))))
    _build_corpus(plan, folder / "alone", tiny_folder)
    return Order(plan, tiny_folder, CorpusFolder(folder / "alone"))


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many threads in other processes as here, on which the last bits can depend."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


def test_the_parts_of_a_slurm_array_are_one_corpus(order: Order, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert order.build(out, "--shard", "1/2") == f"this part of the corpus: {out}\n"
    assert order.build(out, "--shard", "0/2") == f"corpus: {out}\n"
    order.check(out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--shard", "2/2"), "count from 0/2 to below 2"),
        (("--shard", "half"), "needs I/N, such as 0/4"),
        (("--shard", "0/2", "--devices", "cpu,cpu"), "--shard 0/2 was given with builders that it is not for"),
        (("--shard", "0/2", "--executor", "ray"), "--shard 0/2 was given with builders that it is not for"),
        (("--workers", "2"), "--workers was given with builders that it is not for"),
    ],
)
def test_parts_that_cannot_be_are_a_sentence(
    options: tuple[str, ...], sentence: str, order: Order, tmp_path: Path
) -> None:
    told = refuses(PALP_HYPER, "build-corpus", order.plan, "--out", tmp_path / "out", "--base", order.base, *options)
    assert sentence in told


def test_a_process_for_each_device_gives_the_same_bytes(order: Order, tmp_path: Path) -> None:
    assert order.build(tmp_path / "out", "--devices", "cpu,cpu") == f"corpus: {tmp_path / 'out'}\n"
    order.check(tmp_path / "out")


def test_what_a_process_refuses_is_the_same_sentence_as_here(tmp_path: Path) -> None:
    request = Request(tmp_path / "none.yaml", tmp_path / "out", Part(), "icons", None, "cpu", "float32", None)
    with pytest.raises(InputError, match=r"^there is no plan .*none\.yaml"):
        run_processes([request], lambda: None)


def test_other_processes_get_a_base_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("icons", "base"):
        (tmp_path / name).mkdir()
    assert [absolute_base(base) for base in ("icons", "base", "owner/name")] == [
        "icons", str(tmp_path / "base"), "owner/name",
    ]  # fmt: skip


def test_without_ray_it_says_what_to_install(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = ("--base", order.base, "--executor", "ray")
    told = refuses(PALP_HYPER, "build-corpus", order.plan, "--out", tmp_path / "out", *asked)
    assert "pip install 'palp-hyper[ray]'" in told


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Two workers on this machine."""
    ray: Any = pytest.importorskip("ray")
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": variables})
    yield
    ray.shutdown()


def _requests(order: Order, out: Path) -> list[Request]:
    request = Request(order.plan, out, Part(0, 2), str(order.base), None, "cpu", "float32", None)
    return [request, replace(request, part=Part(1, 2))]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("default")  # of Ray's own code
def test_a_ray_worker_killed_under_way_changes_no_byte(order: Order, tmp_path: Path) -> None:
    out = CorpusFolder(tmp_path / "out")
    killed: list[int] = []
    killer = threading.Thread(target=_kill_builder, args=(out, killed), daemon=True)
    killer.start()
    run_ray(_requests(order, out.path), lambda: None, gpus=0.0)
    killer.join()
    assert len(killed) == 1, "all was done before anybody could be killed"
    order.check(out.path)


def _kill_builder(out: CorpusFolder, killed: list[int]) -> None:
    """SIGKILL whoever builds part 0, once it trains adapters."""
    while not out.manifest.is_file():
        if list(out.work.glob("part-0-of-2.checkpoint.*")) and (pids := _holders(out.work / "part-0-of-2.lock")):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
            return
        time.sleep(0.005)


def _holders(path: Path) -> list[int]:
    """The processes that have a file open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # processes come and go
            if os.readlink(entry) == str(path):
                found.append(int(entry.parts[2]))
    return found


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("default")  # of Ray's own code
def test_what_a_ray_task_refuses_is_the_same_sentence_as_here(order: Order, tmp_path: Path) -> None:
    wrong = [replace(request, plan=tmp_path / "none.yaml") for request in _requests(order, tmp_path / "out")]
    with pytest.raises(InputError, match=r"^there is no plan .*none\.yaml"):
        run_ray(wrong, lambda: None, gpus=0.0)
