"""Subjects on disk: names that never become paths, learning in a child process, kills, removal, memory."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import serving.contract
from palp.errors import AdapterFileError, InputError, OutputError, PictureError
from palp.runs import RunFolder
from serving.contract import SubjectInfo
from serving.errors import SubjectExistsError, SubjectNotReadyError, UnknownSubjectError
from serving.subjects import records
from serving.subjects.cache import AdapterCache
from serving.subjects.learner import Learner
from serving.subjects.learning import Teaching, learn_subject, learning_lock
from serving.subjects.library import Library
from tests.commands import files_in
from tests.engines import png_of, subject
from tests.light import light_base
from tests.tiny import tiny_base

QUICK = {"rank": 1, "steps": 2, "batch": 1}
PATIENCE_S = 300.0  # a child process imports torch


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library", resolution=16)


def is_a_library(library: Library) -> serving.contract.SubjectLibrary:
    """For mypy."""
    return library


def test_subjects_belong_to_their_owner(library: Library) -> None:
    before = time.time()
    added = library.add("ann", "my-cat", " cat ", [png_of(0), png_of(1)])
    assert added == SubjectInfo("my-cat", "cat", "waiting", 0.0, 2, added.created)
    assert before <= added.created <= time.time()
    library.add("bob", "my-cat", "dog", [png_of(2)])
    assert library.show("ann", "my-cat") == added
    assert library.show("bob", "my-cat").class_word == "dog"
    assert library.list("ann") == [added]
    assert library.list("eve") == []
    with pytest.raises(UnknownSubjectError):
        library.remove("eve", "my-cat")
    library.remove("bob", "my-cat")
    assert library.list("bob") == []
    with pytest.raises(UnknownSubjectError):
        library.show("bob", "my-cat")
    assert library.list("ann") == [added]
    with pytest.raises(SubjectNotReadyError, match="is waiting"):
        library.ready("ann", "my-cat")


def test_a_list_is_in_order_of_age_and_reads_no_tensor(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    base = light_base()
    names = [f"n{number}" for number in (3, 1, 2)]
    for name in names:
        library.adopt("", name, "cat", subject(base, 0))
    monkeypatch.setattr("palp.adapter_file.read", lambda path: pytest.fail("a tensor was read"))
    monkeypatch.setattr("palp.adapter_file.parse", lambda content, name: pytest.fail("a tensor was read"))
    assert [info.name for info in library.list("")] == names
    assert {info.state for info in library.list("")} == {"ready"}
    record = library.ready("", "n3")
    assert (record.base, record.rank, record.words, record.pictures) == (base.fingerprint, 2, ("[V]",), 0)


BAD_NAMES = ("", ".", "..", "../x", "a/b", "a\\b", "-a", ".a", "a" * 65, "a\0", "a b", "é", "a\n")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_be_paths_are_refused(library: Library, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a subject"):
        library.add("", name, "cat", [png_of()])
    for ask in (library.show, library.remove, library.ready):
        with pytest.raises(UnknownSubjectError):
            ask("", name)
    assert not library.root.exists()


def test_owners_are_no_paths_either(library: Library, tmp_path: Path) -> None:
    for number, owner in enumerate(("../..", "/etc", "a\0b", "\ud800", "x" * 10_000)):
        library.add(owner, "cat", "cat", [png_of(number)])
        assert [info.name for info in library.list(owner)] == ["cat"]
    assert {path.name for path in tmp_path.iterdir()} == {"library"}
    assert len(list(library.root.iterdir())) == 5


def test_refused_pictures_leave_nothing(library: Library) -> None:
    good = png_of()
    cases: list[tuple[str, list[bytes], str]] = [
        ("cat", [], "0 pictures"),
        ("cat", [good] * 51, "51 pictures"),
        ("cat", [good, b"no picture"], "picture 002.png cannot be read"),
        ("cat", [good[: len(good) // 2]], "picture 001.png cannot be read"),
        ("cat", [png_of(side=3)], "picture 001.png is 3 x 3 pixels"),
    ]
    for word, pictures, sentence in cases:
        with pytest.raises(PictureError) as caught:
            library.add("", "a", word, pictures)
        assert sentence in str(caught.value)
        assert str(library.root) not in str(caught.value)
    for word in ("", "  ", "[V]", "a\nb", "x" * 65, "-"):
        with pytest.raises(InputError, match="cannot be a class word"):
            library.add("", "a", word, [good])
    assert not library.root.exists() or files_in(library.root) == set()
    library.add("", "a", "cat", [good])
    before = files_in(library.root)
    with pytest.raises(SubjectExistsError):
        library.add("", "a", "cat", [good])
    assert files_in(library.root) == before


def shelf_of(library: Library, name: str) -> records.Shelf:
    return records.find(library.root, "", name)[0]


def test_learning_makes_an_adapter_that_is_verified(library: Library) -> None:
    base = tiny_base("sd1")
    library.add("", "a", "cat", [png_of(0), png_of(1)])
    shares: list[float] = []
    learn_subject(shelf_of(library, "a"), base, QUICK, lambda done, total, loss: shares.append(done / total))
    assert shares == [0.5, 1.0]
    info = library.show("", "a")
    assert (info.state, info.progress, info.pictures, info.error) == ("ready", 1.0, 2, None)
    record = library.ready("", "a")
    adapter = library.adapter("", "a", record)
    adapter.check(base.fingerprint, base.sites())
    assert (record.base, record.rank, record.words) == (base.fingerprint, 1, ("[V]",))
    assert library.adapter("", "a", record) is adapter  # from memory
    shelf = shelf_of(library, "a")
    assert len(list(library.pictures("", "a", "[V]").iterdir())) == 2
    assert not shelf.uploads.exists()
    assert not shelf.progress.exists()
    before = shelf.adapter.stat().st_mtime_ns
    learn_subject(shelf, base, QUICK)  # it is ready, and left as it is
    assert shelf.adapter.stat().st_mtime_ns == before
    content = bytearray(shelf.adapter.read_bytes())
    content[-1] ^= 1
    shelf.adapter.write_bytes(content)
    with pytest.raises(AdapterFileError, match="has changed since it was learned"):
        Library(library.root).adapter("", "a", record)


def test_what_cannot_be_learned_says_why(library: Library) -> None:
    base = tiny_base("sd1")
    library.add("", "a", "cat", [png_of()])
    learn_subject(shelf_of(library, "a"), base, {**QUICK, "lr": 1e30, "steps": 5})
    info = library.show("", "a")
    assert info.state == "failed"
    assert "not finite" in str(info.error)
    with pytest.raises(SubjectNotReadyError, match="is failed"):
        library.ready("", "a")
    library.remove("", "a")
    library.add("", "a", "cat", [png_of()])
    assert library.show("", "a").state == "waiting"


def test_progress_is_shown_only_while_its_process_lives(library: Library) -> None:
    library.add("", "a", "cat", [png_of()])
    shelf = shelf_of(library, "a")
    shelf.progress.write_text(json.dumps({"pid": os.getpid(), "share": 0.25}))
    assert library.show("", "a").state == "waiting"  # left by another process that had our number
    with learning_lock(library.root):
        info = library.show("", "a")
        assert (info.state, info.progress) == ("learning", 0.25)
        assert records.waiting(library.root) == []
    assert records.waiting(library.root) == [shelf]
    with learning_lock(library.root):
        shelf.progress.write_text(json.dumps({"pid": 2**22 + 1, "share": 0.25}))  # above the largest of Linux
        assert library.show("", "a").state == "waiting"


def test_pictures_that_do_not_fit_on_the_disk_leave_nothing(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        library.add("", "a", "cat", [png_of()])
    assert files_in(library.root) == set()


class Noted:
    """What stands for a child process: keeps the subjects in the order in which they are learned."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, stumbles: int = 0) -> None:
        self.names: list[str] = []
        self._stumbles = stumbles
        monkeypatch.setattr(Learner, "_learn", lambda learner, shelf: self._learn(shelf))
        learner = Learner(root, Teaching())
        end = time.monotonic() + PATIENCE_S
        while records.waiting(root) and time.monotonic() < end:
            time.sleep(0.01)
        learner.close()

    def _learn(self, shelf: records.Shelf) -> None:
        if self._stumbles:
            self._stumbles -= 1
            raise OSError("no more processes")
        record = records.read_record(shelf)
        assert record is not None
        self.names.append(record.name)
        shelf.write(replace(record, error="learned"))


def test_owners_are_learned_in_turn(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (("ann", "a1"), ("ann", "a2"), ("ann", "a3"), ("bob", "b1"), ("bob", "b2")):
        library.add(owner, name, "cat", [png_of()])
    assert Noted(library.root, monkeypatch).names == ["a1", "b1", "a2", "b2", "a3"]


def test_the_queue_goes_on_after_it_stumbled(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.subjects.learner.PAUSE_S", 0.01)
    library.add("", "a", "cat", [png_of()])
    assert Noted(library.root, monkeypatch, stumbles=2).names == ["a"]


def test_the_oldest_waits_first_and_what_is_no_record_is_no_subject(library: Library) -> None:
    for name in "ab":
        library.add("", name, "cat", [png_of()])
    library.add("other", "c", "cat", [png_of()])
    shelf, record = records.find(library.root, "other", "c")
    shelf.write(replace(record, created=0.0))
    (shelf_of(library, "b").folder.parent / "x").mkdir()
    shelf_of(library, "b").record.write_text("{")
    assert records.waiting(library.root) == [shelf, shelf_of(library, "a")]
    assert [info.name for info in library.list("")] == ["a"]
    library.add("", "b", "cat", [png_of()])  # in the place of what was no subject
    assert len(library.list("")) == 2


def test_adapters_in_memory_are_bounded_by_bytes() -> None:
    base = light_base()
    adapters = [subject(base, seed) for seed in range(3)]
    size = sum(
        t.nbytes for a in adapters[:1] for t in (*a.down.values(), *a.up.values(), *a.placeholders["[V]"].values())
    )
    cache = AdapterCache(2 * size)
    for key, adapter in zip("abc", adapters, strict=True):
        cache.put(key, adapter)
        cache.get("a")
    assert [cache.get(key) for key in "abc"] == [adapters[0], None, adapters[2]]
    assert (len(cache), cache.bytes) == (2, 2 * size)
    cache.put("a", adapters[0])
    assert cache.bytes == 2 * size
    AdapterCache(size - 1).put("a", adapters[0])  # larger than the limit: not kept
    assert torch.equal(adapters[0].up[base.sites()[0].name], subject(base, 0).up[base.sites()[0].name])


@pytest.fixture
def teaching(tiny_folder: Path) -> Teaching:
    return Teaching(str(tiny_folder), "cpu", "float32", None, {**QUICK, "steps": 100_000})


@pytest.fixture
def served(tmp_path: Path, teaching: Teaching) -> Iterator[Library]:
    library = Library(tmp_path / "library", 16, teaching)
    yield library
    library.close()


def wait_for(library: Library, name: str, state: str) -> SubjectInfo:
    end = time.monotonic() + PATIENCE_S
    while (info := library.show("", name)).state != state:
        assert time.monotonic() < end, info
        time.sleep(0.05)
    return info


def learner_of(shelf: records.Shelf) -> int | None:
    """The process that notes the progress."""
    try:
        return int(json.loads(shelf.progress.read_text())["pid"])
    except FileNotFoundError:
        return None


def test_a_child_learns_and_goes_on_after_a_kill_and_removal_stops_it(
    served: Library,
) -> None:
    """One test for all that needs a child process, for each costs seconds to start."""
    served.add("", "long", "cat", [png_of(0)])
    served.add("", "next", "cat", [png_of(1)])
    wait_for(served, "long", "learning")
    shelf = shelf_of(served, "long")
    assert served.show("", "next").state == "waiting"
    killed = json.loads(shelf.progress.read_text())["pid"]
    os.kill(killed, signal.SIGINT)  # Ctrl-C is the parent's
    end, share = time.monotonic() + PATIENCE_S, served.show("", "long").progress
    while served.show("", "long").progress == share:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert learner_of(shelf) == killed
    os.kill(killed, signal.SIGKILL)
    while learner_of(shelf) in (None, killed):  # until another process takes it up
        assert time.monotonic() < end
        time.sleep(0.05)
    assert served.show("", "long").state == "learning"
    assert RunFolder(shelf.run).settings.is_file()
    second = learner_of(shelf)
    served.remove("", "long")
    assert second is not None
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
    assert not shelf.folder.exists()
    assert served.show("", "next").state in ("waiting", "learning")
