"""The callers of the soak: each meets what the server may answer, and sees an answer that it may not."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from benchmarks.callers import BAD_BODIES, Callers
from benchmarks.soak import complaints, is_empty, rows_of
from tests.http_engine import FakeEngine, running


def test_every_caller_is_answered_as_it_may_be() -> None:
    with running(FakeEngine()) as (address, _):
        callers = Callers(address, steps=2)
        answers = [
            callers.picture(1),
            callers.picture_of("s1", 1),
            callers.delete("s1"),
            callers.upload("s1", 1),
            callers.upload("s1", 1),
            callers.delete("s1"),
            callers.cancel(1),
        ]
        babble = [callers.babble(body) for body in BAD_BODIES]
        assert is_empty(address, within_s=60)
    assert [answer.status for answer in answers] == [200, 404, 404, 202, 409, 200, 200]
    assert all(400 <= answer.status < 500 for answer in babble)
    assert [answer for answer in (*answers, *babble) if not answer.well] == []
    rows = rows_of([*answers, *babble], [100.0] * 8, seconds=2.0, rate=1.0)
    assert rows["picture: status 200"]["requests"].value == 1
    assert rows["pictures"]["by_capacity"].value == 0.5
    assert complaints([*answers, *babble], rows, empty=True) == []


def test_who_hangs_up_expects_no_answer() -> None:
    engine = FakeEngine()
    engine.hold_at = 1
    with running(engine) as (address, _):
        gone = Callers(address, steps=50).hang_up(1, wait_s=0.2)
        assert (gone.status, gone.outcome, gone.well) == (0, "nobody there", True)
        assert is_empty(address, within_s=60)  # hanging up has cancelled


def test_what_should_not_have_been_is_said() -> None:
    with running(FakeEngine()) as (address, _):
        callers = Callers(address, steps=2)
        broken = callers._pictured("picture", {"prompt": "boom", "steps": 2}, (200, 429))
    lost = Callers("http://127.0.0.1:9", steps=2).picture(1)
    assert (broken.status, broken.well) == (500, False)
    assert (lost.status, lost.well, "ConnectError" in lost.outcome) == (0, False, True)
    rows = rows_of([broken, lost], [100.0, 100.0, 100.0, 120.0], seconds=1.0, rate=1.0)
    said = complaints([broken, lost], rows, empty=False)
    assert len(said) == 4
    for word, sentence in zip(("500", "ConnectError", "not empty", "1.200"), said, strict=True):
        assert word in sentence


def test_lots_are_drawn_for_every_kind_of_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    called: Counter[str] = Counter()
    for name in ("picture", "picture_of", "cancel", "hang_up", "babble", "upload", "delete"):
        monkeypatch.setattr(Callers, name, lambda own, *arguments, name=name: called.update([name]))
    callers, rng = Callers("http://127.0.0.1:9", steps=2), random.Random(0)
    for _ in range(500):
        callers.draw_lots(rng)()
    assert len(called) == 7
    assert called["picture"] > 200
