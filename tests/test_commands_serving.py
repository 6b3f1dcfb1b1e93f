"""palp-serve subjects and bench: on the same library as a server's, and quick to answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palp.adapter import AdapterSpec
from palp.learn import learn
from palp.runs import RunFolder
from serving.subjects import records
from serving.subjects.library import Library
from tests.adapters import random_adapter
from tests.commands import PALP_SERVE, refuses, succeeds, write_pictures
from tests.tiny import tiny_base


def test_a_subject_is_learned_listed_shown_and_removed(tiny_folder: Path, tmp_path: Path) -> None:
    root = ("--root", tmp_path / "library", "--owner", "ann")
    how = ("--base", tiny_folder, "--dtype", "float32", "--steps", 2, "--set", "rank=1", "--set", "batch=1")
    pictures = write_pictures(tmp_path / "pictures", 2)
    assert "--class" in refuses(PALP_SERVE, "subjects", "add", "a", pictures, *root, *how)
    assert "cannot be the name" in refuses(
        PALP_SERVE, "subjects", "add", "../a", pictures, "--class", "cat", *root, *how
    )
    added = json.loads(succeeds(PALP_SERVE, "subjects", "add", "a", pictures, "--class", "cat", *root, *how, "--json"))
    assert (added["name"], added["state"], added["pictures"], added["class_word"]) == ("a", "ready", 2, "cat")
    assert "already" in refuses(PALP_SERVE, "subjects", "add", "a", pictures, "--class", "cat", *root, *how)
    run = tmp_path / "run.safetensors"
    base = tiny_base("sd1")
    spec = AdapterSpec(base.fingerprint, base.sites(), 2, 2.0)
    random_adapter(spec, 0, {"[V]": base.embedding_shapes()}).save(run)
    assert succeeds(PALP_SERVE, "subjects", "add", "b", run, *root) == "b  cat  0 pictures  ready\n"
    listed = json.loads(succeeds(PALP_SERVE, "subjects", "list", *root, "--json"))["subjects"]
    assert [one["name"] for one in listed] == ["a", "b"]
    assert succeeds(PALP_SERVE, "subjects", "show", "a", *root) == "a  cat  2 pictures  ready\n"
    assert succeeds(PALP_SERVE, "subjects", "list", "--root", tmp_path / "library") == ""
    assert succeeds(PALP_SERVE, "subjects", "remove", "a", *root) == "removed a\n"
    assert "no subject 'a'" in refuses(PALP_SERVE, "subjects", "show", "a", *root)
    assert "no subject 'a'" in refuses(PALP_SERVE, "subjects", "remove", "a", *root)


def test_a_learning_that_was_stopped_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    pictures, others = (write_pictures(tmp_path / f"pictures {seed}", 1, seed) for seed in range(2))
    Library(tmp_path, resolution=16).add("", "a", "cat", [(pictures / "0.png").read_bytes()])
    how = ("--base", tiny_folder, "--dtype", "float32", "--steps", 1, "--set", "rank=1")
    for given in ((others,), (others, "--class", "cat"), (pictures, "--class", "dog")):
        assert "already" in refuses(PALP_SERVE, "subjects", "add", "a", *given, "--root", tmp_path, *how)
    done = succeeds(PALP_SERVE, "subjects", "add", "a", pictures, "--root", tmp_path, *how)
    assert done == "a  cat  1 picture  ready\n"


def test_a_subject_that_is_removed_while_it_is_learned_is_missed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(*arguments: Any) -> RunFolder:
        records.remove(tmp_path, "", "a")
        return learn(*arguments)

    monkeypatch.setattr("serving.subjects.learning.learn", remove)
    pictures = write_pictures(tmp_path / "pictures", 1)
    how = ("--class", "cat", "--base", tiny_folder, "--dtype", "float32", "--steps", 1, "--set", "rank=1", "--json")
    assert "no subject 'a'" in refuses(PALP_SERVE, "subjects", "add", "a", pictures, "--root", tmp_path, *how)


def test_the_library_is_in_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert records.data_folder() == tmp_path / "palp-hyper" / "library"
    assert json.loads(succeeds(PALP_SERVE, "subjects", "list", "--json")) == {"subjects": []}
    assert list(tmp_path.iterdir()) == []


def test_bench_measures_every_side(tiny_folder: Path, tmp_path: Path) -> None:
    sizes = ("--adapters", 2, "--pictures", 3, "--batch", 2, "--steps", 2, "--rounds", 1, "--peer-pictures", 2)
    how = ("--popularity", "zipf", "--concurrency", 2, "--base", tiny_folder, "--dtype", "float32")
    out = tmp_path / "bench.json"
    printed = succeeds(PALP_SERVE, "bench", *how, *sizes, "--out", out)
    result = json.loads(printed)
    assert result == json.loads(out.read_text())
    assert set(result["sides"]) == {"adapters", "bare", "diffusers"}
    for side in result["sides"].values():
        assert all(figure.keys() == {"value", "low", "high", "n"} for figure in side.values())
        assert side["pictures_per_s"]["value"] > 0
    adapters, bare = result["sides"]["adapters"], result["sides"]["bare"]
    assert adapters["batch_size"]["value"] == bare["batch_size"]["value"] > 1
    assert 0 < adapters["p50_s"]["value"] <= adapters["p99_s"]["value"]
    assert {"against_bare", "against_diffusers"} <= set(adapters)
