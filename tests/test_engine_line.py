"""The line: priorities, turns between owners, and what each request is told about those before it."""

from __future__ import annotations

import random

from serving.contract import PictureRequest
from serving.engine.entry import Entry
from serving.engine.line import Line


def entry(owner: str, priority: int = 0, seed: int = 0) -> Entry:
    request = PictureRequest("a cat", owner=owner, priority=priority, seed=seed)
    return Entry(request, lambda event: None, None, lambda: None)


def drained(line: Line) -> list[Entry]:
    taken = []
    while (one := line.pop()) is not None:
        taken.append(one)
    return taken


def test_owners_take_turns_and_each_keeps_its_order() -> None:
    line = Line()
    many, few = [entry("many", seed=i) for i in range(5)], [entry("few", seed=i) for i in range(2)]
    for one in [*many, *few]:
        line.push(one)
    assert drained(line) == [many[0], few[0], many[1], few[1], *many[2:]]
    assert (len(line), line.pop()) == (0, None)


def test_what_does_not_fit_waits_and_lets_others_go_first() -> None:
    line = Line()
    entries = [entry("a", seed=0), entry("a", seed=1), entry("b", seed=0), entry("c", -1, seed=1)]
    for one in entries:
        line.push(one)
    assert line.pop(lambda one: one.request.seed == 1) is entries[1]
    assert line.pop(lambda one: one.request.seed == 1) is entries[3]
    assert line.pop(lambda one: one.request.seed == 1) is None
    assert drained(line) == [entries[2], entries[0]]


def test_higher_priorities_go_first() -> None:
    line = Line()
    entries = [entry("a", 0), entry("a", 2), entry("b", 1), entry("b", 2)]
    for one in entries:
        line.push(one)
    assert drained(line) == [entries[1], entries[3], entries[2], entries[0]]


def test_a_request_is_told_how_many_are_taken_before_it() -> None:
    rng = random.Random(0)
    for _ in range(50):
        line = Line()
        for _ in range(rng.randrange(12)):
            line.push(entry(rng.choice("abc"), rng.randrange(2)))
            if rng.random() < 0.2:
                line.pop()
        mine = entry(rng.choice("abc"), rng.randrange(2))
        ahead = line.push(mine)
        assert drained(line).index(mine) == ahead


def test_unwanted_requests_leave_from_anywhere() -> None:
    line = Line()
    entries = [entry(owner, priority) for priority in (0, 1) for owner in "ab" for _ in range(2)]
    for one in entries:
        line.push(one)
    unwanted = {entries[0].id, entries[3].id, entries[6].id, entries[7].id}
    assert {one.id for one in line.take(lambda one: one.id in unwanted)} == unwanted
    assert len(line) == 4
    assert {one.id for one in drained(line)} == {one.id for one in entries} - unwanted
