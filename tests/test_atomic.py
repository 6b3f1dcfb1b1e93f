"""A file is the old one or the whole new one."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from palp.atomic import atomic_write, write_json
from palp.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_folder_is_no_file_to_write(path: str) -> None:
    with pytest.raises(OutputError, match="a folder is there"):
        write_json(path, {})


def test_the_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_write(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_mode_is_that_of_a_plain_file_also_with_safetensors(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    tensors = {"a": torch.arange(3.0)}
    with atomic_write(tmp_path / "a.safetensors") as temporary:
        save_file(tensors, temporary)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], tensors["a"])
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.safetensors")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path: Path, code: int) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(OutputError, match=r"no space is left on the disk for .*a\.txt"), atomic_write(target):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_another_os_error_in_the_block_is_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "no such input").read_text()
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "a"
    with pytest.raises(OutputError, match=r"cannot write .*choose a place"), atomic_write(target):
        pass


def test_a_folder_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot write"), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["a"]


def test_write_json_round_trips(tmp_path: Path) -> None:
    value = {"word": "naïve [V]", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "naïve" in text
    assert text.endswith("}\n")


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert (tmp_path / "a.json").read_text() == "1"
